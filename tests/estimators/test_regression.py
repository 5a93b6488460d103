"""Regression onto a given map: what is held out, scaled, and reported."""

import keras
import numpy as np
import pytest
import scipy.sparse

from ptsne_keras import MapRegressor
from ptsne_keras.data import sources
from ptsne_keras.estimators import _fit_regression as regression
from ptsne_keras.estimators._settings import resolve_map


@pytest.fixture
def X(rng):
    return rng.normal(size=(300, 5)).astype("float32")


@pytest.fixture
def Y(X):
    """A smooth map, far from the origin and wider than high."""
    return np.column_stack([100 + 40 * np.tanh(X[:, 0]), -7 + 5 * X[:, 1] * X[:, 2]]).astype("f")


def test_rows_are_trained_on_or_held_out():
    train, held_out = regression.split(1000, 100, seed=0)
    assert (len(train), len(held_out)) == (900, 100)
    assert sorted([*train, *held_out]) == list(range(1000))
    for n, fraction, expected in ((5, 0.01, 1), (1000, 0.1, 100), (200_000, 0.1, 2500)):
        parameters = MapRegressor(validation_fraction=fraction).get_params()
        assert resolve_map(parameters, n).held_out == expected


@pytest.mark.parametrize("kind", ["array", "sparse", "memmap"])
def test_columns_are_standardized_over_the_chosen_rows(kind, rng, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_BLOCK", 64)  # many blocks
    X = (1000 + rng.normal(size=(500, 4)) * [1, 2, 3, 4]).astype("float32")
    np.save(tmp_path / "X.npy", X)
    given = {
        "array": X,
        "sparse": scipy.sparse.csr_array(X),
        "memmap": np.load(tmp_path / "X.npy", mmap_mode="r"),
    }[kind]
    chosen = np.arange(100, 400)
    shift, scale = regression.standardization(sources.source(given), chosen)
    np.testing.assert_allclose(shift, X[chosen].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scale, X[chosen].std(axis=0), rtol=1e-3)


def test_a_column_that_does_not_vary_is_not_blown_up(rng):
    X = np.column_stack([rng.normal(size=50), np.full(50, 3.0), 1e-9 * rng.normal(size=50)])
    _, scale = regression.standardization(sources.source(X), np.arange(50))
    assert scale.min() > 0.1


def test_the_unit_square_holds_the_map_with_one_scale(Y):
    shift, scale = regression.unit_square(Y)
    inside = (Y - shift) / scale
    assert inside.min() >= -1e-6
    assert inside.max() <= 1 + 1e-6
    assert scale[0] == scale[1]


def fitted(X, Y, hidden_units, rate, **options):
    """A small network, which takes the places in the unit square."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(n, "tanh") for n in hidden_units]
    encoder = keras.Sequential([keras.Input((5,)), *layers, keras.layers.Dense(2)])
    optimizer = keras.optimizers.Adam(rate)
    parameters = MapRegressor(
        objective="squares", encoder=encoder, optimizer=optimizer, batch_size=30, **options
    ).get_params()
    return regression.fit(X, Y, resolve_map(parameters, len(X)), seed=0)


def test_a_smooth_map_is_learned_in_its_own_units(X, Y):
    encoder, history, held_out = fitted(X, Y, (32, 32), 0.01, epochs=40, patience=40)
    curve = history["finetune"]["val_error"]
    assert curve[-1] < 0.3
    assert min(curve) < curve[0]
    error = np.square(np.asarray(encoder(X[held_out])) - Y[held_out]).mean() / Y.var(axis=0).mean()
    assert error == pytest.approx(min(curve), rel=0.2)


def test_training_ends_where_held_out_rows_no_longer_gain(X, rng):
    noise = rng.normal(size=(300, 2)).astype("float32")  # can only be learned by heart
    _, history, _ = fitted(X, noise, (64, 64), 0.01, epochs=200, patience=5)
    curve = history["finetune"]["val_error"]
    assert len(curve) < 100
    assert int(np.argmin(curve)) == len(curve) - 6


def test_correlations_are_pearsons(rng):
    Y = rng.normal(size=(50, 2))
    found = Y + rng.normal(size=(50, 2))
    expected = [np.corrcoef(Y[:, k], found[:, k])[0, 1] for k in range(2)]
    np.testing.assert_allclose(regression.correlations(Y, found), expected)
    assert regression.correlations(Y, 0 * Y) == [0.0, 0.0]
