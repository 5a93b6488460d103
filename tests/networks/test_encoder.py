import keras
import numpy as np
import pytest

from ptsne_keras import networks
from ptsne_keras.networks.rbm import RBM


def stack(*widths):
    """RBMs with random weights and biases, linear on top."""
    rng = np.random.default_rng(0)
    rbms = []
    for level in range(1, len(widths)):
        top = level == len(widths) - 1
        rbm = RBM(widths[level], hidden="gaussian" if top else "bernoulli", seed=level)
        rbm.build((None, widths[level - 1]))
        rbm.hidden_bias.assign(rng.normal(size=widths[level]))
        rbms.append(rbm)
    return rbms


def hidden_means(rbms, X):
    for rbm in rbms:
        X = rbm(X)
    return np.asarray(X)


def test_the_unrolled_network_is_the_stacks_forward_pass_exactly(rng):
    rbms, X = stack(12, 30, 20, 2), np.float32(rng.random((50, 12)))
    model = networks.unroll(rbms)
    np.testing.assert_array_equal(model(X), hidden_means(rbms, X))
    inner = keras.Model(model.inputs, model.layers[-2].output)
    np.testing.assert_array_equal(inner(X), hidden_means(rbms[:-1], X))
    assert model.layers[-1].activation is keras.activations.linear


def test_unrolled_weights_are_copies(rng):
    rbms, X = stack(12, 30, 2), np.float32(rng.random((5, 12)))
    model = networks.unroll(rbms)
    before = hidden_means(rbms, X)
    model.set_weights([w * 2 for w in model.get_weights()])
    np.testing.assert_array_equal(hidden_means(rbms, X), before)


@pytest.mark.parametrize("build", ["encoder", "unroll"])
def test_scaling_is_inside(build, rng):
    shift, scale = np.float32(rng.normal(size=12)), 16.0
    if build == "encoder":
        raw, scaled = (
            networks.encoder(12, hidden_units=(30,), scaling=s, seed=0)
            for s in (None, (shift, scale))
        )
    else:
        rbms = stack(12, 30, 2)
        raw, scaled = networks.unroll(rbms), networks.unroll(rbms, scaling=(shift, scale))
    X = np.float32(rng.normal(size=(20, 12)) * 16)
    np.testing.assert_allclose(scaled(X), raw((X - shift) / scale), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "build", [networks.encoder, lambda d, *_, **k: networks.unroll(stack(d, 30, 2), **k)]
)
def test_it_is_a_plain_keras_model(build, tmp_path):
    model = build(12, 2, scaling=(0.5, 2.0))
    assert {type(layer) for layer in model.layers} <= {
        keras.layers.InputLayer,
        keras.layers.Rescaling,
        keras.layers.Dense,
    }
    assert model.inputs[0].name == "features"
    assert model.input_shape == (None, 12)
    assert model.output_shape == (None, 2)
    assert not model.compiled


@pytest.fixture
def mixed_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


def test_the_output_is_float32_under_mixed_precision(mixed_bfloat16):
    model = networks.encoder(12, hidden_units=(30,))
    assert model(np.ones((1, 12))).dtype == "float32"
    assert model.layers[1].compute_dtype == "bfloat16"


def test_scaling_is_float32_under_mixed_precision(mixed_bfloat16, rng):
    """Rows at 1000 ± 1, rounded to bfloat16 before the shift, would all be equal."""
    scaled = networks.encoder(12, hidden_units=(30,), scaling=(1000.0, 1.0), seed=0)
    plain = networks.encoder(12, hidden_units=(30,), seed=0)
    X = np.float32(rng.normal(size=(50, 12)))
    np.testing.assert_allclose(scaled(X + 1000), plain(X), atol=0.02)


def test_a_seed_fixes_the_weights_and_no_two_layers_share_them():
    first, again, other = (
        networks.encoder(20, hidden_units=(20, 20), seed=seed).get_weights() for seed in (0, 0, 1)
    )
    for a, b, c in zip(first[::2], again[::2], other[::2], strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    assert not np.array_equal(first[0], first[2])


def test_the_default_is_the_papers_network():
    model = networks.encoder(784)
    assert [layer.units for layer in model.layers[1:]] == [500, 500, 2000, 2]
    activations = [layer.activation for layer in model.layers[1:]]
    assert activations == [keras.activations.sigmoid] * 3 + [keras.activations.linear]


@pytest.mark.parametrize("rbms", [[], [RBM(3)]], ids=["none", "unbuilt"])
def test_a_stack_that_is_not_trained_is_named(rbms):
    with pytest.raises(ValueError, match="one or more trained RBMs"):
        networks.unroll(rbms)


def test_widths_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="Received: 30 hidden units under 5 visible ones"):
        networks.unroll([stack(12, 30)[0], stack(5, 2)[0]])


@pytest.mark.parametrize("scale", [1e-20, 1e-8, 1.0, 1e8, 1e20])
def test_scaling_works_at_any_scale(scale, rng, tmp_path):
    X = rng.normal(size=(20, 12))
    plain = networks.encoder(12, hidden_units=(30,), seed=0)
    scaled = networks.encoder(12, hidden_units=(30,), scaling=(3 * scale, scale), seed=0)
    scaled.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for model in (scaled, again):
        np.testing.assert_allclose(model(np.float32((X + 3) * scale)), plain(X), atol=1e-5)


def test_a_scale_for_each_column(rng, tmp_path):
    X, scale = rng.normal(size=(20, 12)), rng.random(12) + 0.5
    plain = networks.encoder(12, hidden_units=(30,), seed=0)
    scaled = networks.encoder(12, hidden_units=(30,), scaling=(0.0, scale), seed=0)
    scaled.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(np.float32(X * scale)), plain(X), atol=1e-5)


# Any model as an encoder ---------------------------------------------------------------------


def images():
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((4, 3, 1)), *layers, keras.layers.Dense(2)])


def two_inputs():
    a, b = keras.Input((3, 2), name="a"), keras.Input((6,), name="b")
    x = keras.layers.Concatenate()([keras.layers.Flatten()(a), b])
    return keras.Model({"a": a, "b": b}, keras.layers.Dense(2)(x))


def test_images_take_rows(rng):
    X = rng.normal(size=(20, 12)).astype("float32")
    model = images()
    np.testing.assert_array_equal(networks.from_rows(model, 12)(X), model(X.reshape(-1, 4, 3, 1)))


def test_columns_go_to_the_inputs_in_their_order(rng, tmp_path):
    X = rng.normal(size=(20, 12)).astype("float32")
    model = two_inputs()
    whole = networks.from_rows(model, 12)
    expected = model({"a": X[:, :6].reshape(-1, 3, 2), "b": X[:, 6:]})
    np.testing.assert_array_equal(whole(X), expected)
    whole.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), expected)


def test_a_model_of_rows_stays_what_it_is():
    model = networks.encoder(12, hidden_units=(5,))
    assert networks.from_rows(model, 12) is model


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([keras.Input((11,)), keras.layers.Dense(2)], "should take the 12 columns of X"),
        ([keras.Input((None, 3)), keras.layers.LSTM(2)], "should take the 12 columns of X"),
        ([keras.Input((4, 3, 1)), keras.layers.Conv2D(2, 3)], r"map coordinates \[B, d\]"),
    ],
    ids=["width", "length", "output"],
)
def test_models_that_are_no_encoders_of_these_rows_are_named(layers, message):
    with pytest.raises(ValueError, match=message):
        networks.from_rows(keras.Sequential(layers), 12)


def test_a_model_that_is_not_built_for_rows_is_named():
    layers = [keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
    with pytest.raises(ValueError, match="be built for what it takes: begin with"):
        networks.from_rows(keras.Sequential(layers), 12)


def test_a_model_of_two_outputs_is_named():
    inputs = keras.Input((12,))
    model = keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(2)(inputs)])
    with pytest.raises(ValueError, match="should have one output"):
        networks.from_rows(model, 12)
