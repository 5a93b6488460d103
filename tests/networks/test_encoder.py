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


@pytest.fixture
def X(rng):
    return np.float32(rng.normal(size=(50, 12)))


def small(**options):
    return networks.encoder(12, hidden_units=(30,), seed=0, **options)


def reloaded(model, folder):
    model.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras")


def test_the_unrolled_network_is_the_stacks_forward_pass_exactly(X):
    rbms = stack(12, 30, 20, 2)
    model, expected = networks.unroll(rbms), hidden_means(rbms, X)
    np.testing.assert_array_equal(model(X), expected)
    inner = keras.Model(model.inputs, model.layers[-2].output)
    np.testing.assert_array_equal(inner(X), hidden_means(rbms[:-1], X))
    assert model.layers[-1].activation is keras.activations.linear
    model.set_weights([w * 2 for w in model.get_weights()])  # copies
    np.testing.assert_array_equal(hidden_means(rbms, X), expected)


BUILDS = pytest.mark.parametrize(
    "build",
    [small, lambda **options: networks.unroll(stack(12, 30, 2), **options)],
    ids=["encoder", "unroll"],
)


@BUILDS
def test_scaling_is_inside(build, X, rng):
    shift, scale = np.float32(rng.normal(size=12)), 16.0
    scaled, raw = build(scaling=(shift, scale)), build()
    np.testing.assert_allclose(scaled(16 * X), raw((16 * X - shift) / scale), rtol=1e-5, atol=1e-6)


@BUILDS
def test_it_is_a_plain_keras_model(build):
    model = build(scaling=(0.5, 2.0))
    assert {type(layer) for layer in model.layers} <= {
        keras.layers.InputLayer,
        keras.layers.Rescaling,
        keras.layers.Dense,
    }
    assert model.inputs[0].name == "features"
    assert model.input_shape == (None, 12)
    assert model.output_shape == (None, 2)
    assert not model.compiled


def test_map_and_scaling_are_float32_under_mixed_precision(X):
    """Rows at 1000 ± 1, rounded to bfloat16 before the shift, would all be equal."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        plain, scaled = small(), small(scaling=(1000.0, 1.0))
    finally:
        keras.config.set_dtype_policy("float32")
    assert plain(X).dtype == "float32"
    assert plain.layers[1].compute_dtype == "bfloat16"
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


@pytest.mark.parametrize(
    ("rbms", "message"),
    [
        ([], "one or more trained RBMs"),
        ([RBM(3)], "one or more trained RBMs"),
        (stack(12, 30) + stack(5, 2), "Received: 30 hidden units under 5 visible ones"),
    ],
    ids=["none", "unbuilt", "widths"],
)
def test_stacks_that_cannot_be_unrolled_are_named(rbms, message):
    with pytest.raises(ValueError, match=message):
        networks.unroll(rbms)


@pytest.mark.parametrize("scale", [1e-20, 1e-8, 1.0, 1e8, 1e20, np.linspace(0.5, 1.5, 12)], ids=str)
def test_scaling_works_at_any_scale_and_is_saved(scale, X, tmp_path):
    scaled = small(scaling=(3 * scale, scale))
    rows = np.float32((np.float64(X) + 3) * scale)
    for model in (scaled, reloaded(scaled, tmp_path)):
        np.testing.assert_allclose(model(rows), small()(X), atol=1e-5)


# Any model as an encoder ---------------------------------------------------------------------


def test_images_take_rows(X):
    layers = [keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((4, 3, 1)), *layers])
    np.testing.assert_array_equal(networks.from_rows(model, 12)(X), model(X.reshape(-1, 4, 3, 1)))


def test_columns_go_to_the_inputs_in_their_order(X, tmp_path):
    a, b = keras.Input((3, 2), name="a"), keras.Input((6,), name="b")
    x = keras.layers.Concatenate()([keras.layers.Flatten()(a), b])
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(2)(x))
    whole = networks.from_rows(model, 12)
    expected = model({"a": X[:, :6].reshape(-1, 3, 2), "b": X[:, 6:]})
    np.testing.assert_array_equal(whole(X), expected)
    np.testing.assert_array_equal(reloaded(whole, tmp_path)(X), expected)


def test_a_model_of_rows_stays_what_it_is():
    model = small()
    assert networks.from_rows(model, 12) is model


def two_outputs():
    inputs = keras.Input((12,))
    return keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(2)(inputs)])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ([keras.Input((11,)), keras.layers.Dense(2)], "should take the 12 columns of X"),
        ([keras.Input((None, 3)), keras.layers.LSTM(2)], "should take the 12 columns of X"),
        ([keras.Input((4, 3, 1)), keras.layers.Conv2D(2, 3)], r"map coordinates \[B, d\]"),
        (
            [keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(2)],
            "be built for what it takes: begin with",
        ),
        (two_outputs(), "should have one output"),
    ],
    ids=["width", "length", "output", "not built for rows", "two outputs"],
)
def test_models_that_are_no_encoders_of_these_rows_are_named(model, message):
    model = keras.Sequential(model) if isinstance(model, list) else model
    with pytest.raises(ValueError, match=message):
        networks.from_rows(model, 12)


def test_the_head_shares_what_is_between_the_fixed_layers(X, rng):
    components = rng.normal(size=(12, 5))
    model = small(components=components, units=(3.0, 2.0))
    Y = networks.head(model)(X @ np.float32(components))
    np.testing.assert_allclose(model(X), 2 * Y + 3, rtol=1e-4, atol=1e-4)
    assert len(networks.head(model).trainable_weights) == len(model.trainable_weights)
