"""`MapRegressor`: new rows onto a map that exists."""

import functools
import json
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ptsne_keras import MapRegressor, metrics, serving
from ptsne_keras.affinities import neighbors
from ptsne_keras.io import maps

WAYS = {
    "placement": {"random_state": 0},
    "squares": {"objective": "squares", "epochs": 2, "random_state": 0},
}
BOTH = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module")
def given(digits):
    """Digits and a map of the training rows: linear discriminants, far away in small units."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    (X, labels), _ = digits
    Y = LinearDiscriminantAnalysis(n_components=3).fit(X, labels).transform(X)
    return X, (1000 + 0.01 * Y[:, :2]).astype("float32"), (0.01 * Y).astype("float32")


@pytest.fixture(scope="module")
def regressors(given):
    return {way: MapRegressor(**options).fit(*given[:2]) for way, options in WAYS.items()}


@pytest.fixture(scope="module")
def fitted(regressors):
    return regressors["placement"]


@pytest.fixture
def on_disk(tmp_path):
    """Return rows as a memory-mapped file."""

    def write(X):
        np.save(tmp_path / "X.npy", X)
        return np.load(tmp_path / "X.npy", mmap_mode="r")

    return write


def assert_back(regressor, X, Y):
    """Check that training rows come back to their places."""
    places = regressor.transform(X)
    assert places.dtype == np.float32
    radius = np.linalg.norm(Y - Y.mean(axis=0), axis=1).max()
    assert np.median(np.linalg.norm(places - Y, axis=1)) < 0.01 * radius


def test_training_rows_come_back_and_new_rows_land_among_their_like(fitted, given, digits):
    assert_back(fitted, *given[:2])
    (_, labels), (X_new, labels_new) = digits
    found = metrics.knn_accuracy(given[1], labels, fitted.transform(X_new), labels_new, 5)
    rows = metrics.knn_accuracy(given[1][::2], labels[::2], given[1][1::2], labels[1::2], 5)
    assert found > rows


def test_new_rows_do_not_land_between_clusters(rng):
    """The mean of neighbours from two clusters lies between these, the mode in one of them."""
    side = np.repeat([-1.0, 1.0], 100)[:, None]
    X, Y = 2 * side + rng.normal(size=(200, 5)), 50 * side + rng.normal(size=(200, 1))
    found = MapRegressor().fit(X, Y).transform(rng.normal(size=(100, 5)))
    assert np.mean(np.abs(np.abs(found) - 50) < 5) > 0.9


def test_held_out_rows_are_placed_without_themselves(fitted, given, rng):
    X, Y, _ = given
    np.testing.assert_array_equal(fitted.held_out_, np.arange(len(X)))
    without = MapRegressor(random_state=0).fit(X[1:], Y[1:]).transform(X[:1])
    alone = fitted._placer.place(X[:1], skip=np.array([0]))
    np.testing.assert_allclose(alone, without, atol=0.1 * Y.std())
    noise = MapRegressor(random_state=0).fit(X, rng.normal(size=(len(X), 2)))
    assert noise.r2_["held_out"] < 0.1  # a row's own place would tell it all
    assert max(noise.correlation_["held_out"]) < 0.2


def test_the_encoder_and_the_index_place_alike(fitted, given, digits):
    assert not fitted.encoder_.trainable_weights
    for X in (digits[1][0], given[0][:300], given[0][:300] + 100):
        np.testing.assert_allclose(fitted.transform(X), fitted.encoder_(X), atol=1e-3)


@pytest.mark.slow
def test_an_export_places_alike(fitted, given, digits, tmp_path):
    X_new = digits[1][0]
    path = serving.export_saved_model(fitted.encoder_, tmp_path, reference=given[0])
    found = tf.saved_model.load(str(path)).signatures["embed_with_novelty"](tf.constant(X_new))
    np.testing.assert_allclose(found["embedding"], fitted.transform(X_new), atol=1e-3)
    np.testing.assert_allclose(found["novelty"], fitted.novelty(X_new), atol=0.01)


@BOTH
def test_saved_it_places_equally_and_can_be_fitted_again(way, regressors, given, tmp_path):
    X, Y, _ = given
    regressor = regressors[way]
    regressor.save(tmp_path / "placed")
    loaded = MapRegressor.load(tmp_path / "placed")
    assert loaded.get_params() == regressor.get_params()
    for name in ("history_", "correlation_", "r2_"):
        assert getattr(loaded, name) == getattr(regressor, name)
    for other in (loaded, pickle.loads(pickle.dumps(regressor)), clone(regressor).fit(X, Y)):
        np.testing.assert_array_equal(other.transform(X + 0.1), regressor.transform(X + 0.1))
        if way == "placement":
            np.testing.assert_array_equal(other.novelty(X + 0.1), regressor.novelty(X + 0.1))
        np.testing.assert_array_equal(other.held_out_, regressor.held_out_)
    np.testing.assert_array_equal(loaded.fit(X, Y).transform(X), regressor.transform(X))


@BOTH
def test_what_was_fitted_counts_not_what_was_set_since(way, regressors, given, tmp_path):
    (other,) = set(WAYS) - {way}
    changed = pickle.loads(pickle.dumps(regressors[way])).set_params(objective=other)
    changed.save(tmp_path / "placed")
    for found in (pickle.loads(pickle.dumps(changed)), MapRegressor.load(tmp_path / "placed")):
        np.testing.assert_array_equal(
            found.transform(given[0]), regressors[way].transform(given[0])
        )


def test_approximate_search_is_repeated_exactly(given, tmp_path, monkeypatch):
    monkeypatch.setattr(neighbors, "_EXACT_ROWS", 100)
    X, Y, _ = given
    regressor = MapRegressor(random_state=3).fit(X, Y)
    assert_back(regressor, X, Y)
    regressor.save(tmp_path / "placed")
    loaded = MapRegressor.load(tmp_path / "placed")
    np.testing.assert_array_equal(loaded.transform(X + 0.1), regressor.transform(X + 0.1))


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
    regressor = MapRegressor(random_state=0).fit(X[labels != 4], given[1][labels != 4])
    assert roc_auc_score(labels_new == 4, regressor.novelty(X_new)) > 0.98


def test_rows_at_the_limits_of_float32_are_placed_or_lost(fitted, given):
    X = np.multiply.outer([1e6, 1e20, 1e30], given[0][0]).astype("float32")
    Y = given[1]
    places = fitted.transform(X)
    assert ((places >= Y.min(axis=0)) & (places <= Y.max(axis=0))).all()
    lost = np.full((1, 64), 3e38, "float32")
    with pytest.raises(ValueError, match="X should have rows like those of fit"):
        fitted.transform(lost)
    assert np.isnan(np.asarray(fitted.encoder_(lost))).all()
    assert fitted.novelty(np.concatenate([X, lost])).min() == 1


def test_any_units_will_do(given):
    X, Y = given[0][:300], given[2][:300] / given[2].std()
    usual = MapRegressor(random_state=0).fit(X, Y)
    for scale in (1e-30, 1e-15, 1e15, 1e37):
        found = MapRegressor(random_state=0).fit(X, (scale * Y).astype("float32"))
        for placed in (found.transform(X + 0.1), np.asarray(found.encoder_(X + 0.1))):
            np.testing.assert_allclose(placed / scale, usual.transform(X + 0.1), atol=0.01)
        assert found.r2_["held_out"] == pytest.approx(usual.r2_["held_out"], abs=1e-4)


@pytest.fixture(scope="module")
def of_arrays(given):
    """What was fitted on arrays, by the way and whether they hold truth values."""
    X, Y = np.round(given[0][:300] * 16), given[1][:300]
    return functools.cache(lambda way, true: MapRegressor(**WAYS[way]).fit(X > 8 if true else X, Y))


@pytest.mark.parametrize(
    ("way", "kind"),
    [(way, kind) for way in WAYS for kind in ("frame", "sparse", "f4")]
    + [("placement", kind) for kind in ("f8", "u1", "?")],
)
def test_frames_sparse_rows_and_files(kind, way, given, on_disk, of_arrays):
    """Rows of every kind are placed as arrays are."""
    X, Y = np.round(given[0][:300] * 16), given[1][:300]
    X = X > 8 if kind == "?" else X
    expected = of_arrays(way, kind == "?")
    if kind == "frame":
        rows, Y = pd.DataFrame(X).add_prefix("pixel "), pd.DataFrame(Y, columns=["x", "y"])
    else:
        rows = scipy.sparse.csr_array(X) if kind == "sparse" else on_disk(X.astype(kind))
    found = MapRegressor(**WAYS[way]).fit(rows, Y)
    np.testing.assert_allclose(found.transform(rows), expected.transform(X), rtol=1e-4)
    if way == "placement":
        np.testing.assert_allclose(found.novelty(rows), expected.novelty(X), atol=1e-4)
    if kind == "frame":
        assert found.feature_names_in_[1] == "pixel 1"
    if kind == "f4":
        with pytest.raises(ValueError, match="X has 5 features, but MapRegressor is expecting 64"):
            found.transform(rows[:, :5])


@pytest.mark.parametrize("n", [5, 6, 15, 16])
def test_few_rows(n, rng):
    X = rng.normal(size=(n, 3)).astype("float32")
    Y = X[:, :2] ** 3
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        regressor = MapRegressor(random_state=0).fit(X, Y)
    assert_back(regressor, X, Y)
    np.testing.assert_allclose(regressor.transform(X + 1), regressor.encoder_(X + 1), atol=1e-5)


def test_duplicates_share_the_mode_of_their_places(given):
    X, Y = given[0][:300], given[1][:300]
    twice = np.concatenate([X, X])
    assert_back(MapRegressor().fit(twice, np.concatenate([Y, Y])), X, Y)
    copies = MapRegressor().fit(np.repeat(X[:50], 30, axis=0), np.repeat(Y[:50], 30, axis=0))
    assert_back(copies, X[:50], Y[:50])
    apart = MapRegressor().fit(twice, np.concatenate([Y, Y + 1])).transform(X)
    assert ((apart >= Y - 0.1) & (apart <= Y + 1.1)).all()


def test_maps_of_one_and_three_dimensions(given):
    X, Y, Y3 = (part[:300] for part in given)
    line = MapRegressor().fit(X, Y[:, 0])
    assert line.predict(X).shape == (len(X),)
    assert_back(line, X, Y[:, :1])
    assert_back(MapRegressor().fit(X, Y3), X, Y3)
    flat = MapRegressor().fit(X, np.full((len(X), 2), 3.0))
    np.testing.assert_allclose(flat.transform(X + 0.1), 3.0)


def test_in_a_pipeline_with_numbers_of_numpy(given, tmp_path):
    X, Y, _ = given
    options = {"n_neighbors": np.int64(9), "random_state": np.int64(3), "dof": np.float32(0.5)}
    pipeline = make_pipeline(StandardScaler(), MapRegressor(**options)).fit(X, Y)
    assert pipeline.transform(X).shape == Y.shape
    assert list(pipeline[-1].get_feature_names_out()) == ["mapregressor0", "mapregressor1"]
    assert pipeline.score(X, Y) > 0.99
    pipeline[-1].save(tmp_path / "placed")
    assert MapRegressor.load(tmp_path / "placed").random_state == 3


def test_a_fit_that_is_refused_leaves_the_model(fitted, given):
    X, Y, _ = given
    before = fitted.transform(X)
    with pytest.raises(ValueError, match="a place for each of the 1257 rows"):
        fitted.fit(X[:, :5], Y[:-1])
    with pytest.raises(ValueError, match=r"y should be an array: .* Y or of\(names\)"):
        fitted.fit(X, maps.Map(Y, None))
    np.testing.assert_array_equal(fitted.transform(X), before)


def test_it_wants_to_be_fitted_first(given):
    for method in ("transform", "novelty", "save"):
        with pytest.raises(NotFittedError):
            getattr(MapRegressor(), method)(given[0])


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "kl"},
        {"n_neighbors": 1},
        {"encoder": "cnn"},
        {"optimizer": "cg"},
        {"perplexity": 1},
        {"dof": 0},
        {"validation_fraction": 0},
    ],
    ids=json.dumps,
)
def test_bad_parameters_are_named(options, given):
    with pytest.raises(ValueError, match=f"'{next(iter(options))}' parameter"):
        MapRegressor(**options).fit(*given[:2])
