"""`MapRegressor`: new rows onto a map that exists."""

import json
import subprocess
import sys
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.fits import conv

from ptsne_keras import MapRegressor, metrics
from ptsne_keras.io import maps

FAST = {"epochs": 20, "random_state": 0}
QUICK = {"epochs": 2, "random_state": 0}
BOTH = pytest.mark.parametrize("objective", ["neighbors", "squares"])


@pytest.fixture(scope="module")
def given(digits):
    """Digits and a map of the training rows: here linear discriminants, in units of its own."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    (X, labels), _ = digits
    Y = LinearDiscriminantAnalysis(n_components=2).fit(X, labels).transform(X)
    return X, (1000 + 0.01 * Y).astype("float32")


@pytest.fixture(scope="module")
def fitted(given):
    return MapRegressor(**FAST).fit(*given)


@BOTH
def test_places_are_in_the_maps_own_units(objective, given):
    X, Y = given
    regressor = MapRegressor(objective=objective, **FAST).fit(X, Y)
    placed = regressor.transform(X[regressor.held_out_])
    assert placed.dtype == np.float32
    np.testing.assert_allclose(placed.mean(axis=0), Y.mean(axis=0), atol=3 * Y.std())
    assert min(regressor.correlation_["held_out"]) > 0.7
    assert regressor.score(X[regressor.held_out_], Y[regressor.held_out_]) > 0.4


def test_new_rows_land_among_their_like(fitted, given, digits):
    (_, labels), (X_new, labels_new) = digits
    found = metrics.knn_accuracy(given[1], labels, fitted.transform(X_new), labels_new, 5)
    rows = metrics.knn_accuracy(given[1][::2], labels[::2], given[1][1::2], labels[1::2], 5)
    assert found > rows - 0.08


@BOTH
def test_saved_it_places_equally_and_can_be_fitted_again(objective, given, tmp_path):
    X, Y = given
    options = {**FAST, "epochs": 2}
    regressor = MapRegressor(objective=objective, **options).fit(X, Y)
    regressor.save(tmp_path / "placed")
    loaded = MapRegressor.load(tmp_path / "placed")
    np.testing.assert_array_equal(loaded.transform(X), regressor.transform(X))
    np.testing.assert_array_equal(loaded.novelty(X + 0.1), regressor.novelty(X + 0.1))
    assert set(loaded.history_) == {"pretrain", "finetune", "seconds"}
    assert loaded.history_ == regressor.history_
    assert loaded.get_params() == regressor.get_params()
    assert loaded.correlation_ == regressor.correlation_
    np.testing.assert_array_equal(loaded.fit(X, Y).transform(X), regressor.transform(X))


def test_the_encoder_is_plain_keras(fitted, given, tmp_path):
    X, _ = given
    fitted.encoder_.save(tmp_path / "encoder.keras")
    np.save(tmp_path / "X.npy", X)
    program = (
        "import sys; sys.modules['ptsne_keras'] = None\n"
        "import keras, numpy as np\n"
        "Y = keras.saving.load_model('encoder.keras')(np.load('X.npy'))\n"
        "np.save('Y.npy', Y)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "Y.npy"), fitted.encoder_(X))


def test_rows_learned_by_heart_are_warned_of(rng):
    X = rng.normal(size=(200, 30)).astype("float32")
    Y = rng.normal(size=(200, 2))  # nothing that a row tells
    regressor = MapRegressor(objective="squares", epochs=200, patience=200)
    with pytest.warns(UserWarning, match="has learned the map by heart"):
        regressor.set_params(random_state=0).fit(X, Y)
    assert min(regressor.correlation_["train"]) > max(regressor.correlation_["held_out"])


def test_a_good_fit_is_not_warned_of(rng):
    X = rng.normal(size=(400, 2)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MapRegressor(objective="squares", epochs=60, random_state=0).fit(X, X)


@BOTH
def test_an_encoder_of_the_users_own(objective, given, tmp_path):
    X, Y = given
    model = conv()
    before = [weight.copy() for weight in model.get_weights()]
    regressor = MapRegressor(objective=objective, encoder=model, **FAST).fit(X, Y)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])  # a copy is trained
    assert min(regressor.correlation_["held_out"]) > 0.5
    regressor.save(tmp_path)
    loaded = MapRegressor.load(tmp_path)
    np.testing.assert_array_equal(loaded.transform(X), regressor.transform(X))
    np.testing.assert_array_equal(loaded.fit(X, Y).transform(X), regressor.transform(X))
    with pytest.raises(ValueError, match=r"as many coordinates as y has, \[B, 3\]"):
        regressor.fit(X, np.column_stack([Y, Y[:, 0]]))


@BOTH
def test_an_optimizer_of_the_users_own(objective, given):
    X, Y = given
    options = {"objective": objective, "optimizer": keras.optimizers.SGD(0.0), **QUICK}
    still = MapRegressor(**options).fit(X, Y).history_["finetune"]["val_error"]
    assert still[0] == pytest.approx(still[1])  # at a rate of 0 nothing moves
    options["learning_rate"] = 0.1
    with pytest.raises(ValueError, match='learning_rate should be "auto" unless'):
        MapRegressor(**options).fit(X, Y)
    slow = MapRegressor(objective=objective, learning_rate=1e-9, **QUICK).fit(X, Y)
    errors = slow.history_["finetune"]["val_error"]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def test_strangers_are_new(fitted, digits):
    X_new = digits[1][0]
    strange = np.random.default_rng(0).permuted(X_new, axis=1)  # the same pixels, no digits
    novelty = np.concatenate([fitted.novelty(X_new), fitted.novelty(strange)])
    assert roc_auc_score(np.repeat([0, 1], len(X_new)), novelty) > 0.99
    assert 0 <= novelty.min() <= novelty.max() <= 1
    assert np.median(novelty[: len(X_new)]) == pytest.approx(0.5, abs=0.15)
    assert np.median(fitted.novelty(strange)) > 0.99
    assert fitted.novelty(digits[0][0]).max() == 0  # training rows


def test_a_class_that_was_left_out_is_new(given, digits):
    (X, labels), (X_new, labels_new) = digits
    known = labels != 4
    regressor = MapRegressor(**QUICK).fit(X[known], given[1][known])
    assert roc_auc_score(labels_new == 4, regressor.novelty(X_new)) > 0.98


def test_a_map_of_any_size_is_placed_alike(given):
    """The kernel of t-SNE has a width, maps have units: they are brought together."""
    X, Y = given
    small, large = (
        MapRegressor(epochs=5, random_state=0).fit(X, scale * Y.astype(np.float64))
        for scale in (1.0, 1e4)
    )
    np.testing.assert_allclose(
        large.transform(X) / 1e4, small.transform(X), atol=0.02 * Y.std(axis=0).min()
    )


@BOTH
def test_sparse_rows_and_frames(objective, given):
    X, Y = given
    options = {"objective": objective, "epochs": 2, "random_state": 0}
    dense = MapRegressor(**options).fit(X, Y).transform(X)
    sparse = MapRegressor(**options).fit(scipy.sparse.csr_array(X), Y)
    np.testing.assert_allclose(sparse.transform(scipy.sparse.csr_array(X)), dense, rtol=1e-4)
    frame = pd.DataFrame(X).add_prefix("pixel ")
    named = MapRegressor(**options).fit(frame, pd.DataFrame(Y, columns=["x", "y"]))
    assert named.feature_names_in_[1] == "pixel 1"
    np.testing.assert_allclose(named.transform(frame), dense, rtol=1e-4)


def test_rows_from_disk(given, tmp_path):
    X, Y = given
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    options = {"objective": "squares", "epochs": 2, "random_state": 0}
    regressor = MapRegressor(**options).fit(mapped, Y)
    whole = MapRegressor(**options).fit(X, Y)
    np.testing.assert_allclose(regressor.transform(X), whole.transform(X), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "uint8", "bool"])
def test_rows_from_disk_are_placed_block_by_block(dtype, fitted, given, tmp_path):
    X = (given[0] * 16).astype(dtype)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    np.testing.assert_allclose(fitted.transform(mapped), fitted.transform(X), rtol=1e-5)
    np.testing.assert_allclose(fitted.novelty(mapped), fitted.novelty(X))
    np.save(tmp_path / "narrow.npy", X[:, :5])
    with pytest.raises(ValueError, match="X has 5 features, but MapRegressor is expecting 64"):
        fitted.transform(np.load(tmp_path / "narrow.npy", mmap_mode="r"))


@BOTH
def test_few_rows_have_their_curves(objective, rng):
    X, Y = rng.normal(size=(12, 3)).astype("float32"), rng.normal(size=(12, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        regressor = MapRegressor(objective=objective, epochs=3, random_state=0).fit(X, Y)
    curves = regressor.history_["finetune"]
    assert len(curves["val_error"]) == len(curves["error"]) > 0
    with pytest.raises(ValueError, match=r"smaller validation_fraction\. Received: 12 rows, of"):
        MapRegressor(objective=objective, validation_fraction=0.9).fit(X, Y)


@pytest.mark.parametrize("scale", [1e-15, pytest.param(1e15, marks=pytest.mark.slow)])
@BOTH
def test_any_units_will_do(objective, scale, given):
    X, Y = given
    centred = (Y - Y.mean(axis=0)) / Y.std()
    options = {"objective": objective, "epochs": 4, "random_state": 0}
    usual = MapRegressor(**options).fit(X, centred)
    found = MapRegressor(**options).fit(X, (scale * centred).astype("float32"))
    np.testing.assert_allclose(found.transform(X) / scale, usual.transform(X), atol=0.02)


def test_numbers_of_numpy_are_saved(given, tmp_path):
    options = {"epochs": np.int64(2), "random_state": np.int64(3), "jitter": np.float32(0.25)}
    MapRegressor(**options).fit(*given).save(tmp_path / "placed")
    assert MapRegressor.load(tmp_path / "placed").random_state == 3


def test_a_map_in_place_of_its_array_is_named(given):
    with pytest.raises(ValueError, match=r"y should be an array: .* Y or of\(names\)"):
        MapRegressor().fit(given[0], maps.Map(given[1], None))


def test_one_coordinate(given):
    X, Y = given
    regressor = MapRegressor(**{**FAST, "epochs": 2}).fit(X, Y[:, 0])
    assert regressor.predict(X).shape == (len(X),)
    assert regressor.transform(X).shape == (len(X), 1)


def test_in_a_pipeline_and_cloned(given):
    X, Y = given
    regressor = MapRegressor(**{**FAST, "epochs": 2})
    pipeline = make_pipeline(StandardScaler(), clone(regressor)).fit(X, Y)
    assert pipeline.transform(X).shape == Y.shape
    assert list(pipeline[-1].get_feature_names_out()) == ["mapregressor0", "mapregressor1"]


def test_it_wants_to_be_fitted_first(given):
    for method in ("transform", "novelty", "save"):
        with pytest.raises(NotFittedError):
            getattr(MapRegressor(), method)(given[0])


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "kl"},
        {"encoder": "cnn"},
        {"optimizer": "cg"},
        {"perplexity": 1},
        {"validation_fraction": 0},
        {"map_weight": 1e30},
    ],
    ids=json.dumps,
)
def test_bad_parameters_are_named(options, given):
    with pytest.raises(ValueError, match=f"'{next(iter(options))}' parameter"):
        MapRegressor(**options).fit(*given)
