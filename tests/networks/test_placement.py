"""The placement layer against a slow float64 reference, SciPy's minimum, and its edge cases."""

import itertools
import math

import keras
import numpy as np
import pytest
import scipy.optimize
from keras import ops

from ptsne_keras.networks import Placement, placement


def probabilities(D2, perplexity):
    """p of the perplexity for ascending squared distances, by bisection in float64."""
    delta = D2 - D2[0]
    delta = delta / (delta.mean() or 1.0)
    low, high = -9.0, 23.0
    for _ in range(80):
        middle = (low + high) / 2
        kernel = np.exp(-np.exp(middle) * delta)
        p = kernel / kernel.sum()
        entropy = -(p * np.log(np.maximum(p, 1e-300))).sum()
        low, high = (middle, high) if entropy > math.log(perplexity) else (low, middle)
    return p


def neighbors(Z, Y, x, n_neighbors, perplexity):
    """The places of the neighbours of a row, and their weights."""
    D2 = np.square(Z - x).sum(axis=1)
    near = np.argsort(D2, kind="stable")[:n_neighbors]
    return Y[near], probabilities(D2[near], perplexity)


def objective(y, places, p, dof):
    return (p * np.log1p(np.square(y - places).sum(axis=1) / dof)).sum()


def reference(Z, Y, x, start, n_neighbors=15, perplexity=5.0, dof=1.0, steps=30):
    """Place rows one by one."""
    found = []
    for row, y in zip(x, start, strict=True):
        places, p = neighbors(Z, Y, row, n_neighbors, perplexity)
        for _ in range(steps):
            w = p / (1 + np.square(y - places).sum(axis=1) / dof)
            y = (w[:, None] * places).sum(axis=0) / w.sum()
        found.append(y)
    return np.array(found)


def normal(rng, *shape, scale=1.0):
    return (scale * rng.normal(size=shape)).astype("float32")


@pytest.fixture
def Z(rng):
    return normal(rng, 700, 6)


@pytest.fixture
def Y(rng):
    return normal(rng, 700, 2, scale=20)


@pytest.fixture
def new(rng):
    """Features and starting places of new rows."""
    return normal(rng, 20, 6), normal(rng, 20, 2, scale=10)


def place(layer, x, start):
    return ops.convert_to_numpy(layer([x, start]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_neighbors": 30, "perplexity": 10.0},
        {"dof": 3.0, "steps": 5},
        {"dof": 0.5, "n_neighbors": 4, "perplexity": 1.5},
    ],
    ids=str,
)
def test_rows_are_placed_as_the_float64_reference_places_them(Z, Y, new, options):
    expected = reference(Z.astype(float), Y.astype(float), *new, **options)
    found = place(Placement.from_reference(Z, Y, **options), *new)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_the_search_by_blocks_finds_the_same_neighbours(rng, new):
    Z = normal(rng, 13_000, 6)
    layer = Placement.from_reference(Z, Z[:, :2])
    assert layer._block > 1
    D2 = np.square(Z[None].astype(float) - new[0][:, None]).sum(axis=2)
    found = ops.convert_to_numpy(layer._candidate_rows(new[0]))
    for row, near in zip(D2, found, strict=True):
        assert set(np.argsort(row)[:15]) <= set(near.tolist())
    assert len(Z) % layer._block  # rows fill the last block, and can be saved
    assert all(np.isfinite(weight).all() for weight in layer.get_weights())
    far = ops.convert_to_numpy(layer.nearest(1e12 * new[0])[1])
    assert far.max() < len(Z)


@pytest.mark.parametrize("dof", [0.5, 1.0, 4.0])
def test_the_objective_falls_step_by_step_to_a_minimum_of_scipys(Z, Y, new, dof):
    maps = [
        place(Placement.from_reference(Z, Y, dof=dof, steps=steps), *new)
        for steps in (1, 2, 4, 8, 300)
    ]
    for x, *along in zip(new[0], new[1], *maps, strict=True):
        places, p = neighbors(Z.astype(float), Y.astype(float), x, 15, 5.0)
        values = [objective(y, places, p, dof) for y in along]
        assert all(b <= a + 1e-5 for a, b in itertools.pairwise(values))
        minimum = scipy.optimize.minimize(objective, along[-1], (places, p, dof))
        assert values[-1] == pytest.approx(minimum.fun, abs=1e-4)


def test_reference_rows_land_on_their_own_places(Z, Y):
    layer = Placement.from_reference(Z, Y)
    np.testing.assert_allclose(place(layer, Z, Y[::-1].copy()), Y, atol=1e-4)


def test_duplicates_share_the_mode_of_their_places():
    new, own = np.eye(3, dtype="float32"), [[0, 0], [5, 5], [-5, -5]]
    layer = Placement.from_reference(np.repeat(new, 10, axis=0), np.repeat(own, 10, axis=0))
    np.testing.assert_allclose(place(layer, new, np.ones((3, 2), "float32")), own, atol=1e-4)


def test_ties_count_alike():
    Z = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    layer = Placement.from_reference(Z, Z, n_neighbors=4, perplexity=2.0)
    found = place(layer, np.zeros((1, 2), "float32"), np.zeros((1, 2), "float32"))
    np.testing.assert_allclose(found, [[0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("m", [1, 2, 5])
def test_few_reference_rows_are_all_neighbours(m, new):
    Z, Y = new[0][:m] + 1, new[1][:m]
    found = place(Placement.from_reference(Z, Y), *new)
    assert np.isfinite(found).all()
    assert (found >= Y.min(axis=0) - 1e-4).all()
    assert (found <= Y.max(axis=0) + 1e-4).all()


@pytest.mark.parametrize("size", [1e3, 1e12, 1e30])
def test_far_outliers_stay_on_the_map(Z, Y, new, size):
    found = place(Placement.from_reference(Z, Y), size * new[0], new[1])
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= np.abs(Y).max()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1], ids=["features", "start"])
def test_rows_that_are_not_finite_are_placed_at_nan_alone(Z, Y, new, value, which):
    layer = Placement.from_reference(Z, Y)
    whole = place(layer, *new)
    new[which][3, 1] = value
    found = place(layer, *new)
    assert np.isnan(found[3]).all()
    np.testing.assert_allclose(np.delete(found, 3, axis=0), np.delete(whole, 3, axis=0), atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compiles by tf.function")
@pytest.mark.parametrize("block", [4, 32])
def test_xla_and_gradients(Z, Y, new, block, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(placement, "_BLOCK", block)
    layer = Placement.from_reference(Z, Y, steps=3)
    assert layer._block == {4: 4, 32: 1}[block]  # by blocks, and whole
    compiled = tf.function(lambda x, y: layer([x, y]), jit_compile=True)
    np.testing.assert_allclose(compiled(*new), place(layer, *new), atol=1e-4)
    x, start = map(tf.constant, new)
    with tf.GradientTape() as tape:
        tape.watch([x, start])
        total = tf.reduce_sum(layer([x, start]))
    gradients = tape.gradient(total, [x, start])
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0
    up, down = (place(layer, new[0], new[1] + step).sum() for step in (1e-2, -1e-2))
    slope = (up - down) / 2e-2
    assert float(tf.reduce_sum(gradients[1])) == pytest.approx(slope, abs=0.05)


def test_it_is_saved_and_loaded_with_its_reference(Z, Y, new, tmp_path):
    x, start = keras.Input((6,)), keras.Input((2,))
    layer = Placement.from_reference(Z, Y, n_neighbors=8, perplexity=3.0, dof=2.0, steps=7)
    model = keras.Model([x, start], layer([x, start]))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(list(new), verbose=0), model.predict(list(new), verbose=0)
    )
    assert not model.trainable_weights


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"n_references": 0}, "n_references"),
        ({"n_neighbors": 2.5}, "n_neighbors"),
        ({"steps": 0}, "steps"),
        ({"perplexity": 1.0}, "perplexity"),
        ({"perplexity": 15.0}, "perplexity"),
        ({"dof": -1.0}, "dof"),
        ({"dof": math.inf}, "dof"),
    ],
    ids=str,
)
def test_settings_out_of_their_range_are_named(options, name):
    with pytest.raises(ValueError, match=f"^{name} should be .* Received: "):
        Placement(**{"n_references": 10, **options})


def test_places_have_to_be_as_many_as_features(Z, Y):
    with pytest.raises(ValueError, match="places should be as many as the 700 rows"):
        Placement.from_reference(Z, Y[:-1])


@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_features_far_from_0_find_their_neighbours(offset, rng):
    Z = normal(rng, 3000, 20) + np.float32(offset)
    layer = Placement.from_reference(Z, normal(rng, 3000, 2, scale=10))
    places = layer.reference()[1]
    np.testing.assert_allclose(place(layer, Z[:200], places[:200] + 1), places[:200], atol=1e-2)


def test_types_and_shapes_that_do_not_fit_are_named(Z, Y, new):
    with pytest.raises(ValueError, match="dtype should be float32"):
        Placement(5, dtype="mixed_bfloat16")
    layer = Placement.from_reference(Z, Y)
    message = r"features should be \[B, 6\], and the starting places \[B, 2\]"
    for each in (Placement(len(Z)), layer):
        with pytest.raises(ValueError, match=message):
            each([new[0], new[1][:, :1]])
    with pytest.raises(ValueError, match=message):
        layer([new[0][:, :1], new[1]])
    with pytest.raises(ValueError, match="features should be within"):
        Placement.from_reference(1e16 * Z, Y)
    expected = place(layer, np.rint(new[0] * 3), new[1])
    found = place(layer, np.rint(new[0] * 3).astype("int64"), new[1].astype("float64"))
    np.testing.assert_allclose(found, expected, atol=1e-4)
