import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import reference

from ptsne_keras import affinities, losses
from ptsne_keras.losses import TSNE


def value(P, Y, **options):
    return float(np.sum(losses.tsne(P, Y, **options)))


def both(P, Y, **options):
    """The divergence and its gradient."""
    Y = tf.convert_to_tensor(Y)
    with tf.GradientTape() as tape:
        tape.watch(Y)
        divergence = tf.reduce_sum(losses.tsne(P, Y, **options))
    return divergence, tape.gradient(divergence, Y)


def gradient(P, Y, **options):
    return both(P, Y, **options)[1].numpy()


@pytest.mark.parametrize("d", [1, 2, 3, 20])
@pytest.mark.parametrize("dof", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("exaggeration", [1.0, 4.0])
def test_it_agrees_with_a_double_loop(d, dof, exaggeration, rng):
    P, Y = reference.random_P(15), rng.normal(size=(15, d)) * 3
    expected = reference.tsne(P, Y, dof, exaggeration)
    options = {"dof": dof, "exaggeration": exaggeration}
    assert value(P, Y, **options) == pytest.approx(expected, rel=1e-12)
    for types in (("float32", "float32"), ("float64", "float32"), ("float32", "float64")):
        found = value(P.astype(types[0]), Y.astype(types[1]), **options)
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("d", [2, 20])
@pytest.mark.parametrize("dof", [0.5, 1.0, 2.0, 4.0])
def test_its_gradient_agrees_with_finite_differences(d, dof, rng):
    P, Y = reference.random_P(8), rng.normal(size=(8, d)) * 2
    step, numeric = 1e-6, np.zeros_like(Y)
    for index in np.ndindex(*Y.shape):
        shift = np.zeros_like(Y)
        shift[index] = step
        forward, backward = (reference.tsne(P, Y + s * shift, dof, 1.5) for s in (1, -1))
        numeric[index] = (forward - backward) / (2 * step)
    found = gradient(P, Y, dof=dof, exaggeration=1.5)
    np.testing.assert_allclose(found, numeric, rtol=1e-6, atol=1e-8)


def test_the_divergence_is_positive_and_zero_only_where_P_is_Q(rng):
    Y = rng.normal(size=(12, 2))
    W = 1 / (1 + reference.squared_distances(Y))
    np.fill_diagonal(W, 0)
    Q = W / W.sum()
    assert value(Q, Y) == pytest.approx(0, abs=1e-12)
    assert np.abs(gradient(Q, Y)).max() < 1e-12
    assert all(value(reference.random_P(12, seed), Y) > 0.05 for seed in range(20))


def test_the_terms_of_rows_move_with_them_and_the_pose_of_the_map_changes_nothing(rng):
    P, Y, order = reference.random_P(15), rng.normal(size=(15, 2)) * 10, rng.permutation(15)
    terms, rotation = np.asarray(losses.tsne(P, Y)), np.array([[0.6, -0.8], [0.8, 0.6]])
    assert terms.shape == (15,)
    for moved in (Y, Y @ rotation + [100, -200], Y * [1, -1]):
        found = losses.tsne(P[order][:, order], moved[order])
        np.testing.assert_allclose(found, terms[order], rtol=1e-8)
    assert value(P, Y * 2) != pytest.approx(terms.sum(), rel=1e-3)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("d", "dof"), [(2, 0.5), (2, 1.0), (20, 1.0), (20, 4.0)])
def test_coincident_points_give_finite_values_and_gradients(jit_compile, d, dof):
    P = np.float32(reference.random_P(10))
    compiled = tf.function(both, jit_compile=jit_compile)
    for p in (P, np.full((10, 1), 0.1, np.float32)):
        for Y in (np.zeros((10, d)), np.repeat(np.eye(2, d) * 30, 5, axis=0)):
            divergence, slope = compiled(tf.constant(p), tf.constant(np.float32(Y)), dof=dof)
            assert np.isfinite(divergence)
            assert np.isfinite(slope).all()
            assert Y.any() or not np.any(slope)


@pytest.mark.parametrize("dof", [1.0, 50.0])
def test_far_maps_keep_their_repulsion(dof):
    """At ±1e4 every kernel value is tiny; a floor on Q, or exp() without logs, would lose it."""
    P = np.float32(reference.random_P(10))
    Y = np.float32(np.random.default_rng(0).normal(size=(10, 2)) * 1e4)
    found = value(P, Y, dof=dof)
    assert np.isfinite(found)
    if dof == 1.0:
        assert found == pytest.approx(reference.tsne(P, Y, 1.0), rel=1e-4)
    assert np.abs(gradient(P, Y, dof=dof)).max() > 0
    far = np.float32(np.random.default_rng(0).normal(size=(10, 20)) + 1000)  # centred first
    assert value(P, far, dof=dof) == pytest.approx(reference.tsne(P, far, dof), rel=1e-4)


def test_exaggeration_strengthens_attraction_alone(rng):
    P, Y = reference.random_P(10), rng.normal(size=(10, 2))
    one, two, three = (gradient(P, Y, exaggeration=c) for c in (1.0, 2.0, 3.0))
    np.testing.assert_allclose(three - two, two - one, rtol=1e-9)  # linear in c …
    cosine = np.sum(one * three) / np.linalg.norm(one) / np.linalg.norm(three)
    assert cosine < 0.99  # … but not just a rescaled gradient, which Adam would undo


@pytest.mark.parametrize(("d", "dof"), [(1, 1.0), (2, 1.0), (3, 2.0), (11, 10.0)])
def test_auto_dof_is_d_minus_1_and_at_least_1(d, dof, rng):
    P, Y = reference.random_P(9), rng.normal(size=(9, d))
    assert value(P, Y, dof="auto") == value(P, Y, dof=dof)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("dof", (0, -1.0, np.nan, np.inf, "automatic", True), "dof should be a finite number abov"),
        ("exaggeration", (0, -1, None, [1, 2], np.ones(2), len, np.inf, np.nan, "12"), "above 0"),
        ("blocks", (0, -1, 1.5, True, "2"), "blocks should be an integer of at least 1"),
    ],
)
def test_bad_options_are_named(name, wrong, message):
    for value in wrong:
        with pytest.raises(ValueError, match=message):
            TSNE(**{name: value})


@pytest.mark.parametrize(
    ("P", "Y", "blocks", "message"),
    [
        ((4, 4), (5, 2), 1, r"\(4, 4\).*\(5, 2\)"),
        ((5, 2), (5, 2), 1, r"\(5, 2\)"),
        ((1, 1), (1, 2), 1, "B ≥ 2"),
        ((3, 1), (3, 2), 1, "B even"),
        ((20, 10), (20, 2), 1, "they are 2 batches stacked, blocks should say so"),
        ((20, 10), (20, 2), 4, r"\(20, 10\).*blocks=4"),
        ((20, 20), (20, 2), 2, r"\(20, 20\).*blocks=2"),
        ((20, 1), (20, 2), 3, r"\(20, 1\).*blocks=3"),
        ((20, 1), (20, 2), 4, "B even"),  # 5 rows a block
    ],
)
def test_shapes_that_do_not_fit_are_named(P, Y, blocks, message):
    with pytest.raises(ValueError, match=rf"P should be \[B, B\].*{message}") as error:
        losses.tsne(np.ones(P), np.ones(Y), blocks=blocks)
    assert ("stacked, blocks" in str(error.value)) == ("stacked" in message)


def test_the_keras_loss_is_the_sum_of_the_row_terms_whatever_B_is(rng):
    for B in (5, 50):
        P, Y = np.float32(reference.random_P(B)), np.float32(rng.normal(size=(B, 2)))
        assert float(TSNE()(P, Y)) == pytest.approx(reference.tsne(P, Y), rel=1e-5)
        total = TSNE(dof=2.0, exaggeration=3.0)(P, Y)
        assert float(total) == pytest.approx(reference.tsne(P, Y, 2.0, 3.0), rel=1e-5)
        assert TSNE(reduction=None)(P, Y).shape == (B,)


def test_it_survives_serialisation():
    loss = TSNE(dof="auto", exaggeration=2.0, name="kl", blocks=4)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(again, TSNE)
    assert again.get_config() == loss.get_config()
    assert again.blocks == 4


@pytest.mark.parametrize(
    ("jit_compile", "d"),
    [
        (False, 2),
        *(pytest.param(*o, marks=pytest.mark.slow) for o in ((True, 2), (False, 1), (False, 5))),
    ],
)
def test_a_users_own_model_compiles_and_fits(jit_compile, d, digits, tmp_path):
    """Old Keras refused (B, d) against (B, B). The last batch has fewer rows."""
    X, sizes = digits[0][0], [40, 40, 25]
    batches = [(x, affinities.joint_probabilities(x, 10)) for x in np.split(X[:105], [40, 80])]
    signature = tf.TensorSpec([None, 64]), tf.TensorSpec([None, None])
    data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
    data = data.apply(tf.data.experimental.assert_cardinality(3))
    layers = [keras.layers.Dense(32, "relu"), keras.layers.Dense(d)]
    model = keras.Sequential([keras.Input((64,)), *layers])
    model.compile(optimizer="adam", loss=TSNE(), jit_compile=jit_compile)
    curve = model.fit(data, epochs=15, verbose=0).history["loss"]
    assert curve[-1] < 0.9 * curve[0]
    evaluated = model.evaluate(data, verbose=0)
    expected = np.average([float(TSNE()(P, model(x))) for x, P in batches], weights=sizes)
    assert evaluated == pytest.approx(expected, rel=1e-4)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")  # compiled: the loss is registered
    assert again.evaluate(data, verbose=0) == pytest.approx(evaluated, rel=1e-6)
    again.fit(data, epochs=1, verbose=0)


@pytest.mark.parametrize("dof", [1.0, 2.5])
def test_compiled_alone_or_with_the_step_or_not_the_loss_is_the_same(dof, rng):
    P, X = reference.random_P(40).astype("float32"), rng.normal(size=(40, 6)).astype("float32")
    X[1] = X[0]
    curves = []
    for jit_loss, jit_step in ((False, False), (True, False), (False, True)):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
        loss = TSNE(dof=dof, jit_compile=jit_loss)
        model.compile(keras.optimizers.SGD(0.1), loss=loss, jit_compile=jit_step)
        data = tf.data.Dataset.from_tensors((X, P)).repeat(5)
        curves.append(model.fit(data, epochs=3, verbose=0, shuffle=False).history["loss"])
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=1e-5)


def test_half_precision_is_never_computed_in(rng):
    P, Y = reference.random_P(40), rng.normal(size=(40, 2)) * 30
    halves = tf.cast(P, tf.float16), tf.cast(Y, tf.float16)
    assert losses.tsne(*halves).dtype == tf.float32
    exact = reference.tsne(*(x.numpy().astype("float64") for x in halves))
    assert value(*halves) == pytest.approx(exact, rel=1e-2)


# Pairs: P [B, 1]


@pytest.mark.parametrize(("d", "dof"), [(1, 1.0), (2, 0.5), (2, 1.0), (10, 4.0)])
def test_pairs_give_the_loss_of_their_matrix(rng, dof, d):
    p = rng.uniform(size=(6, 1))
    p = np.concatenate([p, p]) / (2 * p.sum())
    P = np.zeros((12, 12))
    P[np.arange(12), (np.arange(12) + 6) % 12] = p[:, 0]
    Y, options = rng.normal(size=(12, d)), {"dof": dof, "exaggeration": 1.5}
    found, wanted = (losses.tsne(given, Y, **options) for given in (p, P))
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
    found, wanted = (gradient(given, Y, **options) for given in (p, P))
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("dof", "jit_compile"), [(1.0, False), (1.0, True), (2.5, True)])
def test_the_normaliser_of_many_rows_is_exact(dof, jit_compile, rng):
    """A float32 sum of 36 million terms one after another would be 0.1 % too low."""
    Y = (10 * rng.normal(size=(6000, 2))).astype("float32")
    expected = reference.tsne_of_equal_pairs(Y, dof)
    P = np.full((6000, 1), 1 / 6000, np.float32)
    step = tf.function(lambda: tf.reduce_sum(losses.tsne(P, Y, dof=dof)), jit_compile=jit_compile)
    assert float(step()) == pytest.approx(expected, abs=2e-5)


def test_pairs_of_part_of_a_batch_or_of_several_give_nan(rng):
    """Shapes cannot tell, and a loss that looks right would train on other pairs."""
    Y = rng.normal(size=(20, 2)).astype("float32")
    P = np.full((20, 1), 1 / 20, "float32")
    assert np.isfinite(TSNE()(P, Y))
    assert np.isnan(TSNE()(P[:10], Y[:10]))
    stacked = np.concatenate([P, P]), np.concatenate([Y, Y])
    assert np.isnan(TSNE()(*stacked))
    assert np.isfinite(TSNE(blocks=2)(*stacked))
    assert np.isnan(TSNE(blocks=2)(P, Y))
    half = TSNE()(P.astype("float16"), Y)
    assert float(half) == pytest.approx(float(TSNE()(P, Y)), rel=1e-2)


@pytest.mark.slow
def test_models_compiled_with_it_load_where_the_package_is_imported(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("adam", loss=TSNE())
    model.save(tmp_path / "model.keras")
    code = "import keras, ptsne_keras; print(keras.models.load_model('model.keras').loss)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "TSNE" in done.stdout, done.stderr


# An exaggeration or degrees of freedom that change during training


@pytest.mark.parametrize("name", ["dof", "exaggeration"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_variables_are_read_at_each_step(name, jit_compile):
    P, Y = reference.random_P(12), np.random.default_rng(0).normal(size=(12, 2))
    variable = tf.Variable(1.0)
    loss = TSNE(**{name: variable})
    call = tf.function(lambda: loss(P, Y), jit_compile=jit_compile)
    for number in (1.0, 2.5):
        variable.assign(number)
        assert float(call()) == pytest.approx(reference.tsne(P, Y, **{name: number}), rel=1e-5)
    loaded = keras.losses.deserialize(keras.losses.serialize(loss))
    assert getattr(loaded, name) == 2.5  # saved as the number that it is then


def test_a_variable_exaggeration_needs_the_tensorflow_backend(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="exaggeration should be a number on other backends"):
        TSNE(exaggeration=tf.Variable(1.0))
