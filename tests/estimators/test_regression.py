"""`MapRegressor(objective="squares")`: what is held out, scaled, learned and reported."""

import warnings

import keras
import numpy as np
import pytest
import scipy.sparse
from support.fits import conv

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


@pytest.mark.slow
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


def squares(**options):
    return MapRegressor(objective="squares", **{"epochs": 2, "random_state": 0} | options)


@pytest.mark.filterwarnings("ignore:New rows will be smeared:UserWarning")
def test_held_out_rows_are_near_their_places_in_the_maps_units(X, Y):
    x = Y[:, 0]
    regressor = squares(epochs=10).fit(X, x)
    assert regressor.correlation_["held_out"][0] > 0.8
    assert regressor.score(X[regressor.held_out_], x[regressor.held_out_]) > 0.6


@pytest.mark.slow
def test_rows_learned_by_heart_are_warned_of(rng):
    X = rng.normal(size=(200, 30)).astype("float32")
    Y = rng.normal(size=(200, 2))  # nothing that a row tells
    with pytest.warns(UserWarning, match="has learned the map by heart") as caught:
        regressor = squares(epochs=200, patience=200).fit(X, Y)
    assert caught[0].filename == __file__
    assert min(regressor.correlation_["train"]) > max(regressor.correlation_["held_out"])


@pytest.mark.slow
def test_a_good_fit_is_not_warned_of(rng):
    X = rng.normal(size=(400, 2)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        squares(epochs=60).fit(X, X)


@pytest.mark.slow
def test_an_encoder_of_the_users_own(digits, tmp_path):
    X = digits[0][0][:300]
    Y = X[:, [20, 43]] * 40
    model = conv()
    before = [weight.copy() for weight in model.get_weights()]
    regressor = squares(encoder=model, epochs=20).fit(X, Y)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])  # a copy is trained
    assert min(regressor.correlation_["held_out"]) > 0.5
    regressor.save(tmp_path)
    loaded = MapRegressor.load(tmp_path)
    np.testing.assert_array_equal(loaded.transform(X), regressor.transform(X))
    np.testing.assert_array_equal(loaded.fit(X, Y).transform(X), regressor.transform(X))
    with pytest.raises(ValueError, match=r"as many coordinates as y has, \[B, 3\]"):
        regressor.fit(X, np.column_stack([Y, Y[:, 0]]))
    with pytest.raises(ValueError, match='encoder should be None with objective="placement"'):
        MapRegressor(encoder=model).fit(X, Y)


def test_an_optimizer_of_the_users_own(X, Y):
    still = squares(optimizer=keras.optimizers.SGD(0.0)).fit(X, Y).history_["finetune"]["val_error"]
    assert still[0] == pytest.approx(still[1])  # at a rate of 0 nothing moves
    with pytest.raises(ValueError, match='learning_rate should be "auto" unless'):
        squares(optimizer=keras.optimizers.SGD(0.0), learning_rate=0.1).fit(X, Y)
    slow = squares(learning_rate=1e-9).fit(X, Y).history_["finetune"]["val_error"]
    assert slow[0] == pytest.approx(slow[1], rel=1e-3)


def test_few_rows_have_their_curves(rng):
    X, Y = rng.normal(size=(12, 3)).astype("float32"), rng.normal(size=(12, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        curves = squares(epochs=3).fit(X, Y).history_["finetune"]
    assert len(curves["val_error"]) == len(curves["error"]) > 0
    with pytest.raises(ValueError, match=r"smaller validation_fraction\. Received: 12 rows, of"):
        squares(validation_fraction=0.9).fit(X, Y)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_any_units_will_do(scale, X, Y):
    centred = (Y - Y.mean(axis=0)) / Y.std()
    usual = squares().fit(X, centred).transform(X)
    found = squares().fit(X, (scale * centred).astype("float32")).transform(X)
    np.testing.assert_allclose(found / scale, usual, atol=0.02)
