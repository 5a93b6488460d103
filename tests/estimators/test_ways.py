"""The estimators inside scikit-learn's own machinery, and beside other processes."""

import logging
import os
import pickle
import signal
import warnings

import keras
import numpy as np
import pytest
import sklearn
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.fits import GRAPH, PLACED, SMALL
from support.processes import until

from ptsne_keras import MapRegressor, ParametricTSNE, affinities, networks


class Counter(keras.callbacks.Callback):
    """Counts epochs, and stops after some."""

    def __init__(self, stop=None):
        super().__init__()
        self.epochs, self.stop = 0, stop

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        self.model.stop_training = self.epochs == self.stop


FEW = {**GRAPH, "epochs": 3}


def test_parameters_of_fit_pass_through_fit_transform_and_pipelines(X):
    counter = Counter(stop=1)
    tsne = ParametricTSNE(**FEW)
    pipeline = make_pipeline("passthrough", tsne)
    pipeline.fit_transform(X, parametrictsne__callbacks=[counter])
    assert counter.epochs == 1
    Y = tsne.fit_transform(X, resume=True, callbacks=counter)
    assert counter.epochs == 3
    np.testing.assert_array_equal(Y, tsne.embedding_)


@pytest.mark.parametrize("make", [lambda: None, Counter, lambda: (Counter(),)])
def test_callbacks_are_given_as_to_keras(make, X):
    callbacks = make()
    options = {"epochs": 2, "random_state": 0, "objective": "squares"}
    MapRegressor(**options).fit(X[:60], X[:60, :2], callbacks=callbacks)
    for counter in keras.tree.flatten(callbacks or []):
        assert counter.epochs == 2


@pytest.mark.parametrize("what", ["class", "text", "nothing", "generator"])
def test_what_is_no_callback_is_named(what, X):
    generator = (c for c in [Counter()])
    kinds = {"class": Counter, "text": "counter", "nothing": [None], "generator": generator}
    message = r"^callbacks should be a keras\.callbacks\.Callback or a sequence of them\. Rec.*\.$"
    for fit in (ParametricTSNE().fit, MapRegressor().fit):
        with pytest.raises(ValueError, match=message):
            fit(X, X[:, :2], callbacks=kinds[what])


def test_duplicates_are_reported_once(X):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ParametricTSNE(**{**PLACED, "epochs": 2, "perplexity": 5}).fit(
            np.repeat(X[:10], 10, axis=0)
        )
    assert sum("duplicate" in str(warning.message) for warning in caught) == 1


@pytest.mark.filterwarnings("ignore:X and y should be in the same order")
def test_frames_are_for_transform_alone(X):
    with sklearn.config_context(transform_output="pandas"):
        regressor = MapRegressor().fit(X, X[:, :2])
        frame = regressor.transform(X)
        found = regressor.predict(X)
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, frame.to_numpy().astype(np.float64))
        assert np.isfinite(regressor.score(X, X[:, :2]))
        assert MapRegressor().fit(X, X[:, 0]).predict(X).shape == (len(X),)
        tsne = ParametricTSNE(**FEW).fit(X)
        assert list(tsne.transform(X[:3])) == ["parametrictsne0", "parametrictsne1"]


def test_frames_of_polars_too(mapped, wide):
    polars = pytest.importorskip("polars")
    tsne = pickle.loads(pickle.dumps(mapped)).set_output(transform="polars")
    found = tsne.transform(polars.DataFrame(wide))
    assert isinstance(found, polars.DataFrame)
    assert found.columns == ["parametrictsne0", "parametrictsne1"]
    np.testing.assert_array_equal(found.to_numpy(), mapped.transform(wide))


@pytest.mark.slow
def test_a_grid_of_perplexities_is_searched_by_score_in_two_processes(X):
    steps = make_pipeline(StandardScaler(), ParametricTSNE(**FEW))
    grid = {"parametrictsne__perplexity": [5, 30]}
    found = [GridSearchCV(steps, grid, cv=2, n_jobs=n).fit(X[:120]) for n in (1, 2)]
    scores = [search.cv_results_["mean_test_score"] for search in found]
    assert (scores[0] < 0).all()  # minus KL
    np.testing.assert_allclose(*scores, rtol=1e-3)
    assert found[0].best_estimator_.transform(X[:5]).shape == (5, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning")
@pytest.mark.parametrize("work", ["transform", "fit", "load", "nearest", "P", "encoder"])
def test_a_forked_child_is_told_what_to_do(work, X, fitted, tmp_path):
    tsne = fitted
    calls = {
        "transform": lambda: tsne.transform(X),
        "fit": lambda: tsne.fit(X),
        "load": lambda: ParametricTSNE.load(tmp_path),
        "nearest": lambda: affinities.nearest(X, 5),
        "P": lambda: affinities.joint_probabilities(X, 5),
        "encoder": lambda: networks.encoder(64),
    }
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            calls[work]()
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writing)
    try:
        until(lambda: os.waitpid(child, os.WNOHANG)[0])
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        raise
    with os.fdopen(reading) as said:
        assert said.read().startswith("RuntimeError: TensorFlow cannot run in a process forked")


@pytest.mark.parametrize("perplexity", [98.9, pytest.param(1.2, marks=pytest.mark.slow)])
def test_a_map_of_few_rows_is_no_point_whatever_the_perplexity(perplexity, X):
    Y = ParametricTSNE(perplexity=perplexity, random_state=0).fit(X[:100]).embedding_
    assert 0.1 < np.ptp(Y, axis=0).max() < 1e4


def test_a_map_that_shrinks_to_a_point_is_reported(X):
    with pytest.warns(UserWarning, match="The map is nearly one point: perplexity should be lower"):
        ParametricTSNE(perplexity=97, exaggeration=2.0, random_state=0).fit(X[:100])


@pytest.mark.parametrize(
    "objective", ["placement", pytest.param("squares", marks=pytest.mark.slow)]
)
def test_a_map_in_another_order_than_its_rows_is_reported(objective, wide, placed):
    regressor, Y = MapRegressor(objective=objective, epochs=1, random_state=0), placed.embedding_
    for other in (np.roll(Y, 1, axis=0), np.random.default_rng(0).permutation(Y)):
        with pytest.warns(UserWarning, match="X and y should be in the same order"):
            regressor.fit(wide, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        regressor.fit(wide, Y)


@pytest.mark.slow
def test_fit_after_fit_nothing_is_said_of_retracing(X, caplog):
    logging.getLogger("tensorflow").propagate = True
    for _ in range(6):
        ParametricTSNE(**{**SMALL, "pretraining": None, "epochs": 2}).fit(X)
    assert "retracing" not in caplog.text
