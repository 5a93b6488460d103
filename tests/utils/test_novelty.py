"""Novelty: the distance to the nearest training row, as a quantile."""

import keras
import numpy as np
import pytest
import scipy.sparse

from ptsne_keras import networks
from ptsne_keras.utils import novelty
from ptsne_keras.utils.novelty import Landmarks


def novelty_of(rows, X, encoder=None):
    """Novelty of rows in training rows X, as an encoder scales them."""
    scale = novelty.scale_of(encoder) if encoder else None
    return Landmarks.of(X, scale=scale).novelty(np.asarray(rows, np.float32))


def scaling_encoder(X):
    return networks.encoder(64, 2, hidden_units=(4,), scaling=(X.mean(axis=0), X.std()), seed=0)


def distances(X, others):
    """Double loop."""
    return np.array([min(np.sqrt(((x - other) ** 2).sum()) for other in others) for x in X])


def test_novelty_is_the_quantile_of_the_distance_to_the_nearest_training_row(digits):
    (X, _), (X_test, _) = digits
    shift, scale = X.mean(axis=0), X.std()
    found = novelty_of(X_test[:40], X[:150], scaling_encoder(X))
    X, rows = (X[:150] - shift) / scale, (X_test[:40] - shift) / scale
    usual = [distances(X[i : i + 1], np.delete(X, i, axis=0))[0] for i in range(150)]
    expected = [(np.array(usual) <= d).mean() for d in distances(rows, X)]
    np.testing.assert_allclose(found, expected, atol=0.02)  # quantiles between rows


def test_novelty_of_usual_rows_is_uniform_of_strangers_1_and_of_training_rows_0(digits):
    (X, _), (X_test, _) = digits
    usual = novelty_of(X_test, X, scaling_encoder(X))
    assert abs(np.median(usual) - 0.5) < 0.1
    assert 0.02 < (usual < 0.1).mean() < 0.2
    strangers = np.random.default_rng(0).permuted(X_test, axis=1)
    assert np.median(novelty_of(strangers, X, scaling_encoder(X))) > 0.99
    assert novelty_of(X[:100], X, scaling_encoder(X)).max() < 0.01


def test_novelty_in_tight_clusters_far_apart(rng):
    centres = rng.normal(size=(20, 16)) * 30

    def draw():
        return centres[rng.integers(20, size=600)] + 0.02 * rng.normal(size=(600, 16))

    assert abs(np.median(novelty_of(draw(), draw())) - 0.5) < 0.15


def test_novelty_of_training_rows_is_0_however_often_they_occur(rng):
    few, twice = rng.normal(size=(3, 8)), rng.normal(size=(99, 8))
    for X in (np.repeat(few, 100, axis=0), np.tile(twice, (2, 1))):
        assert novelty_of(X, X).max() == 0


def test_rows_that_are_not_finite_are_strangers(X):
    rows = X[:4].copy()
    rows[1, 2], rows[2, 0], rows[3, 1] = np.nan, np.inf, 3e38
    np.testing.assert_array_equal(novelty_of(rows, X), [0, 1, 1, 1])


def test_novelty_is_measured_as_a_sequential_encoder_scales(rng):
    X = rng.normal(size=(300, 8)) * [1000, *[1] * 7]
    norm = keras.layers.Normalization()
    norm.adapt(X.astype("float32"))
    dense = [keras.layers.Dense(4), keras.layers.Dense(2)]
    sequential = keras.Sequential([keras.Input((8,)), norm, *dense])
    assert (novelty_of(X[:5] + 50 * np.eye(8)[3], X, sequential) == 1).all()
    assert len(novelty.scaler(sequential).layers) >= 2


def test_layers_beside_each_other_do_not_scale_one_after_another():
    inputs = keras.Input((8,))
    parallel = [keras.layers.Rescaling(2.0)(inputs), keras.layers.Rescaling(3.0)(inputs)]
    encoder = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Concatenate()(parallel)))
    assert np.abs(novelty.scaler(encoder)(np.ones((1, 8)))).max() <= 3


def test_landmarks_are_limited_in_number_and_size(rng):
    assert Landmarks.of(rng.normal(size=(900, 20_000)).astype("float32")).rows.nbytes <= 2**26
    assert Landmarks.of(rng.normal(size=(20_000, 3)).astype("float32")).rows.shape == (4096, 3)


def test_rows_from_a_file_or_sparse_give_the_same_and_are_saved(X, tmp_path):
    np.save(tmp_path / "X.npy", X)
    expected = Landmarks.of(X)
    for rows in (np.load(tmp_path / "X.npy", mmap_mode="r"), scipy.sparse.csr_array(X)):
        found = Landmarks.of(rows)
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_array_equal(found.novelty(rows), expected.novelty(X))
    np.savez(tmp_path / "saved.npz", **expected.arrays())
    saved = Landmarks.from_arrays(np.load(tmp_path / "saved.npz"))
    np.testing.assert_array_equal(saved.novelty(2 * X), expected.novelty(2 * X))
    assert expected.novelty(X[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones((9, 8)), "X should have rows that differ"),
        (1e300 * np.eye(8), "X should be finite"),
        (1e30 * np.eye(8), "within float32"),
    ],
    ids=["all equal", "beyond float32", "squares beyond float32"],
)
def test_rows_without_distances_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        Landmarks.of(X)
