import keras
import numpy as np
import pytest
import tensorflow as tf

from ptsne_keras.networks.rbm import RBM


@pytest.fixture(scope="module")
def binary(digits):
    """Binarised digits: (train, test)."""
    (train, _), (test, _) = digits
    return np.float32(train > 0.5), np.float32(test > 0.5)


def built(visible="bernoulli", hidden="bernoulli", features=5, units=4, **options):
    rbm = RBM(units, visible=visible, hidden=hidden, seed=0, **options)
    rbm.build((None, features))
    rng = np.random.default_rng(0)
    rbm.visible_bias.assign(rng.normal(size=features))
    rbm.hidden_bias.assign(rng.normal(size=units))
    rbm.kernel.assign(rng.normal(size=(features, units)))
    return rbm


def parameters(rbm):
    return (np.asarray(w, np.float64) for w in (rbm.kernel, rbm.visible_bias, rbm.hidden_bias))


def energies(rbm, v, H):
    """E(v, h) of a row v with each state h of H, written out."""
    W, b, c = parameters(rbm)
    visible = 0.5 * ((v - b) ** 2).sum() if rbm.visible == "gaussian" else -b @ v
    hidden = 0.5 * (H**2).sum(axis=1) if rbm.hidden == "gaussian" else 0.0
    return visible + hidden - H @ c - H @ (v @ W)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


MEANS = {"bernoulli": sigmoid, "gaussian": lambda a: a}


def statistics(V, W, b, c, up=sigmoid, down=sigmoid, k=1):
    """⟨v p(h|v)⟩, ⟨v⟩ and ⟨p(h|v)⟩ of the data minus those of the model, without sampling."""
    model = V
    for _ in range(k):
        model = down(up(model @ W + c) @ W.T + b)
    H, H_model = up(V @ W + c), up(model @ W + c)
    n = len(V)
    return (V.T @ H - model.T @ H_model) / n, (V - model).mean(axis=0), (H - H_model).mean(axis=0)


@pytest.mark.parametrize(
    ("visible", "hidden"),
    [("bernoulli", "bernoulli"), ("gaussian", "bernoulli"), ("bernoulli", "gaussian")],
)
def test_free_energy_sums_over_all_hidden_states(visible, hidden, rng):
    """The integral over one Gaussian hidden unit is a fine sum."""
    rbm = built(visible, hidden, units=1 if hidden == "gaussian" else 4)
    V = rng.random((6, 5)) if visible == "gaussian" else rng.integers(2, size=(6, 5))
    states, weight = np.array(np.meshgrid(*[[0, 1]] * 4)).reshape(4, -1).T, 1.0
    if hidden == "gaussian":
        states, weight = np.linspace(-30, 30, 6001)[:, None], 0.01 / np.sqrt(2 * np.pi)
    expected = [-np.log(weight * np.exp(-energies(rbm, v, states)).sum()) for v in V]
    np.testing.assert_allclose(rbm.free_energy(V), expected, rtol=1e-4)


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("hidden", ["bernoulli", "gaussian"])
def test_conditionals_are_the_equations(visible, hidden, rng):
    rbm = built(visible, hidden)
    V, H = rng.random((3, 5)), rng.random((3, 4))
    W, b, c = parameters(rbm)
    np.testing.assert_allclose(rbm(V), MEANS[hidden](V @ W + c), rtol=1e-5)
    np.testing.assert_allclose(rbm.visible_mean(H), MEANS[visible](H @ W.T + b), rtol=1e-5)


def test_samples_have_the_means_of_their_distributions():
    mean = np.float32(np.tile([0.1, 0.5, 0.9, 0.0], (20000, 1)))
    drawn = np.asarray(built(hidden="bernoulli").sample_hidden(mean))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    np.testing.assert_allclose(drawn.mean(axis=0), [0.1, 0.5, 0.9, 0.0], atol=0.02)
    noise = np.asarray(built(hidden="gaussian").sample_hidden(mean)) - mean
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(noise.std(axis=0), 1, atol=0.03)


@pytest.mark.parametrize("hidden", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("k", [1, 3])
def test_one_update_is_contrastive_divergence(visible, hidden, k, rng, monkeypatch):
    """W += η (⟨v p(h|v)⟩_data - ⟨v p(h|v)⟩_model - λ W), with sampling made deterministic."""
    rbm = built(visible, hidden, k=k, learning_rate=0.01, weight_decay=0.1)
    monkeypatch.setattr(rbm, "sample_hidden", lambda mean: mean)
    V = np.float32(rng.integers(2, size=(8, 5)))
    W, b, c = parameters(rbm)
    slopes = statistics(V, W, b, c, MEANS[hidden], MEANS[visible], k)
    rbm.fit(V, batch_size=8, epochs=1, verbose=0)
    decay = (0.1 * W, 0.0, 0.0)
    for new, old, slope, less in zip(parameters(rbm), (W, b, c), slopes, decay, strict=True):
        np.testing.assert_allclose(new, old + 0.01 * (slope - less), rtol=1e-4, atol=1e-6)


def test_momentum_adds_the_last_update_and_switches_with_the_epoch(monkeypatch):
    """Against the recurrence u ← m u - η g written out, over epochs with m = 0.5, then 0.9."""
    rbm = built(learning_rate=0.01, weight_decay=0.0, momentum=(0.5, 0.9, 2))
    monkeypatch.setattr(rbm, "sample_hidden", lambda mean: mean)
    V = np.float32(np.random.default_rng(1).integers(2, size=(8, 5)))
    weights, u = list(parameters(rbm)), [0.0, 0.0, 0.0]
    for m in (0.5, 0.5, 0.9, 0.9):
        slopes = statistics(V, *weights)
        u = [m * old + 0.01 * slope for old, slope in zip(u, slopes, strict=True)]
        weights = [w + update for w, update in zip(weights, u, strict=True)]
    rbm.fit(V, batch_size=8, epochs=4, verbose=0)
    np.testing.assert_allclose(rbm.kernel, weights[0], rtol=1e-4, atol=1e-6)


def test_persistent_chains_go_on_from_batch_to_batch(binary):
    rbm = RBM(20, persistent=True, chains=50, seed=0)
    rbm.fit(binary[0], epochs=1, verbose=0)
    first = np.asarray(rbm.fantasies)
    assert first.shape == (50, 64)
    rbm.evaluate(binary[1], batch_size=100, verbose=0)
    np.testing.assert_array_equal(first, rbm.fantasies)  # looking does not move them
    rbm.fit(binary[0], epochs=1, verbose=0)
    assert not np.array_equal(first, rbm.fantasies)


@pytest.mark.parametrize(
    ("options", "rate", "decay"),
    [
        ({}, 0.1, 2e-4),
        ({"hidden": "gaussian"}, 0.001, 2e-4),
        ({"persistent": True}, 0.02, 0.0),
    ],
    ids=["CD", "top", "PCD"],
)
def test_the_papers_constants_are_the_defaults(options, rate, decay):
    rbm = RBM(500, seed=0, **options)
    assert (rbm.learning_rate, rbm.weight_decay) == (rate, decay)
    assert (rbm.momentum, rbm.k) == ((0.5, 0.9, 5), 1)
    rbm.build((None, 64))
    assert np.std(rbm.kernel) == pytest.approx(0.1, rel=0.02)
    assert not np.any(rbm.visible_bias) | np.any(rbm.hidden_bias)


@pytest.mark.parametrize("options", [{}, {"k": 3}, {"persistent": True}], ids=str)
def test_it_learns_what_digits_are(options, binary):
    """Free energy tells digits from pixel-shuffled digits, ever better; reconstruction works."""
    train, test = binary
    shuffled = np.random.default_rng(0).permuted(test, axis=1)
    rbm = RBM(100, seed=0, **options)
    gaps = []

    def look(epoch, logs):
        digits, others = (float(np.mean(rbm.free_energy(V))) for V in (test, shuffled))
        gaps.append(others - digits)

    gap = keras.callbacks.LambdaCallback(on_epoch_end=look)
    history = rbm.fit(train, epochs=20, callbacks=[gap], verbose=0).history
    assert 0 < gaps[0] < min(gaps[9], gaps[19])
    error = float(np.mean((test - np.asarray(rbm.gibbs(test))) ** 2))
    of_the_mean_image = float(np.mean((test - train.mean(axis=0)) ** 2))
    assert error < 0.8 * of_the_mean_image
    assert len(history["free_energy"]) == len(history["reconstruction_error"]) == 20
    assert history["reconstruction_error"][-1] < history["reconstruction_error"][0]


@pytest.mark.parametrize("kind", ["visible", "hidden"])
def test_gaussian_layers_learn_too(kind, binary):
    train, test = (V - binary[0].mean(axis=0) * (kind == "visible") for V in binary)
    rbm = RBM(100, **{kind: "gaussian"}, seed=0)
    errors = []
    for epochs in (1, 30):
        rbm.fit(train, epochs=epochs, verbose=0)
        errors.append(float(np.mean((test - np.asarray(rbm.gibbs(test))) ** 2)))
    assert errors[1] < 0.8 * errors[0]


def test_reported_figures_are_those_of_the_rows(binary):
    rbm = RBM(10, seed=0)
    rbm.build((None, 64))
    reported = rbm.evaluate(binary[1], batch_size=100, return_dict=True, verbose=0)
    energy = float(np.mean(rbm.free_energy(binary[1])))
    assert reported["free_energy"] == pytest.approx(energy, rel=1e-4)
    error = float(np.mean((binary[1] - np.asarray(rbm.gibbs(binary[1]))) ** 2))
    assert reported["reconstruction_error"] == pytest.approx(error, rel=0.05)


def test_a_seed_fixes_the_result_and_leaves_the_global_generators_alone(binary):
    def weights(seed):
        rbm = RBM(20, seed=seed)
        rbm.fit(binary[0], epochs=2, verbose=0)
        return np.asarray(rbm.kernel)

    np.random.seed(1)  # noqa: NPY002
    first = weights(0)
    drawn = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert drawn == np.random.random()  # noqa: NPY002
    np.testing.assert_array_equal(first, weights(0))
    assert not np.array_equal(first, weights(1))


def test_it_saves_and_loads(binary, tmp_path):
    rbm = RBM(20, visible="gaussian", k=2, seed=0)
    rbm.fit(binary[0], epochs=1, verbose=0)
    rbm.save(tmp_path / "rbm.keras")
    again = keras.models.load_model(tmp_path / "rbm.keras")
    np.testing.assert_array_equal(rbm.free_energy(binary[1]), again.free_energy(binary[1]))
    assert (again.visible, again.k) == ("gaussian", 2)
    again.fit(binary[0], epochs=1, verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[
            ({name: value}, f"{name} should be an integer of at least 1. Received: {value}")
            for name, value in [("units", 0), ("units", 2.0), ("k", 0), ("chains", 0)]
        ],
        ({"learning_rate": 0.0}, "learning_rate should be above 0"),
        ({"visible": "softmax"}, 'visible should be "bernoulli" or "gaussian".*softmax'),
        ({"hidden": "linear"}, 'hidden should be "bernoulli" or "gaussian".*linear'),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RBM(**{"units": 3, **options})


def test_rows_outside_0_1_are_named_for_bernoulli_units():
    with pytest.raises(ValueError, match=r"in \[0, 1\].*from 0 to 16"):
        RBM(3).fit(np.array([[0.0, 16.0]]), verbose=0)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("hidden", ["bernoulli", "gaussian"])
def test_it_trains_in_float32_under_mixed_precision(policy, hidden, binary):
    keras.config.set_dtype_policy(policy)
    try:
        rbm = RBM(np.int64(10), hidden=hidden, seed=0)
        rbm.fit(binary[0].tolist(), epochs=1, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert rbm(binary[1]).dtype == "float32"


OPTIONS = {
    "CD-1": {},
    "CD-2": {"k": 2},
    "PCD": {"persistent": True, "chains": 20},
    "Gaussian": {"visible": "gaussian", "hidden": "gaussian"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_closed_form_is_what_differentiating_the_loss_gives(options, rng, monkeypatch):
    X = rng.random((50, 6)).astype("float32")
    rbms = {"closed": RBM(4, seed=0, **options), "differentiated": RBM(4, seed=0, **options)}
    histories = {}
    for how, rbm in rbms.items():
        if how == "differentiated":
            monkeypatch.setattr(RBM, "train_step", keras.Model.train_step)
        histories[how] = rbm.fit(X, batch_size=20, epochs=3, verbose=0).history
    for mine, theirs in zip(*(rbm.get_weights() for rbm in rbms.values()), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    for name, curve in histories["closed"].items():
        np.testing.assert_allclose(curve, histories["differentiated"][name], rtol=1e-5, atol=1e-6)


def test_frozen_weights_stay(rng):
    rbm = built(features=6)
    rbm.visible_bias.trainable = False
    before = rbm.get_weights()
    rbm.fit(rng.random((50, 6)), epochs=2, verbose=0)
    np.testing.assert_array_equal(rbm.visible_bias, before[1])
    assert (np.asarray(rbm.kernel) != before[0]).any()


def test_data_sets_of_tuples_and_generators_are_rows_too(rng):
    X = rng.random((40, 6)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices(X).batch(20)
    weights = []
    for rows in (data, data.map(lambda x: (x,)), ((part,) for part in (X[:20], X[20:]))):
        rbm = RBM(4, seed=0)
        rbm.fit(rows, epochs=1, verbose=0)
        weights.append(np.asarray(rbm.kernel))
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_allclose(weights[0], weights[2], rtol=1e-5)


def test_a_fit_may_be_run_eagerly(rng):
    assert not RBM(4).run_eagerly
    V, kernels = rng.random((40, 6)), []
    for eager in (False, True):
        rbm = RBM(4, seed=0)
        rbm.compile(rbm.optimizer, run_eagerly=eager)
        rbm.fit(V, epochs=1, verbose=0)
        assert rbm.run_eagerly is eager
        kernels.append(np.asarray(rbm.kernel))
    np.testing.assert_allclose(*kernels, rtol=1e-5)
