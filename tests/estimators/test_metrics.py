"""Other distances than the Euclidean, and neighbours that were found elsewhere."""

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from sklearn.neighbors import NearestNeighbors, kneighbors_graph
from support.fits import GRAPH, PLACED

from ptsne_keras import MapRegressor, ParametricTSNE, affinities, evaluate, networks, serving
from ptsne_keras.utils import arrays

METRICS = ("cosine", "correlation")
SHORT = {**PLACED, "epochs": 5}
# The indices [50, 3] of the next rows.
NEXT = (np.arange(50)[:, None] + [1, 2, 3]) % 50


@pytest.fixture(scope="module")
def rows():
    """Clusters of directions, of rows of any length."""
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(5, 30))[rng.integers(5, size=300)]
    lengths = np.exp(rng.normal(size=(300, 1)))
    return (lengths * (centers + rng.normal(size=(300, 30)))).astype("float32")


def rescaled(X, metric):
    """The same rows, as far as the metric can tell."""
    factors = np.linspace(0.1, 9, len(X), dtype="float32")[:, None]
    return X * factors + (factors if metric == "correlation" else 0)


@pytest.mark.parametrize("metric", METRICS)
def test_distances_behind_the_first_layer_are_those_of_scikit_learn(metric, rows):
    first = networks.encoder(30, 2, hidden_units=(4,), metric=metric)
    first = keras.Model(first.inputs[0], first.get_layer("metric").output)
    U = np.asarray(first(rows))
    np.testing.assert_allclose(U, arrays.unit_rows(rows, metric), atol=1e-5)
    np.testing.assert_allclose(first(1e-6 * rows), U, atol=1e-5)
    assert not np.asarray(first(np.zeros((1, 30)))).any()
    D2 = np.square(U[:, None] - U[None]).sum(axis=2)
    distances, found = NearestNeighbors(n_neighbors=10, metric=metric).fit(rows).kneighbors()
    np.testing.assert_array_equal(affinities.nearest(U, 10).indices, found)
    np.testing.assert_allclose(
        np.take_along_axis(D2, found, axis=1) / D2.max(),
        2 * distances / (D2.max() if metric == "cosine" else D2.max() / 30),
        atol=1e-4,
    )


@pytest.fixture(scope="module")
def fitted(rows):
    return {metric: ParametricTSNE(metric=metric, **SHORT).fit(rows) for metric in METRICS}


@pytest.mark.parametrize("metric", METRICS)
def test_the_map_and_new_rows_know_the_metric_alone(metric, rows, fitted, tmp_path):
    tsne, other = fitted[metric], rescaled(rows, metric)
    for same in (other, np.float32(1e16) * rows):
        np.testing.assert_allclose(tsne.transform(same), tsne.embedding_, atol=1e-3)
    with pytest.raises(ValueError, match=r"X should have numbers up to 3\.4e\+18 with metric="):
        tsne.transform(np.float32(1e18) * rows)
    assert tsne.novelty(other).max() < 0.05
    assert tsne.score(other) == pytest.approx(-tsne.kl_divergence_, abs=1e-3)
    alone = tsne.transform(rows, placement=False)
    np.testing.assert_allclose(tsne.network_(other), alone, atol=1e-3)
    tsne.save(tmp_path / "model")
    loaded = ParametricTSNE.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.transform(other), tsne.transform(other))


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_exports_and_measures_know_it_as_well(metric, rows, fitted, tmp_path):
    tsne, other = fitted[metric], rescaled(rows, metric)
    path = serving.export_saved_model(tsne.encoder_, tmp_path / "served")
    served = tf.saved_model.load(str(path)).signatures["serving_default"]
    answer = served(features=tf.constant(other))["embedding"]
    np.testing.assert_allclose(answer, tsne.embedding_, atol=1e-2)
    path = serving.export_saved_model(tsne.network_, tmp_path / "alone", reference=rows)
    judged = tf.saved_model.load(str(path)).signatures["embed_with_novelty"]
    novelty = [judged(features=tf.constant(X))["novelty"] for X in (rows, other)]
    np.testing.assert_allclose(*novelty, atol=1e-2)
    trust = [
        evaluate(tsne, X, pca=False)["measures"]["ParametricTSNE"]["training"]["trustworthiness"]
        for X in (rows, other)
    ]
    assert trust[0] == pytest.approx(trust[1], abs=1e-3)


@pytest.mark.parametrize("options", [{}, {"objective": "squares", "epochs": 5}])
@pytest.mark.parametrize("metric", METRICS)
def test_maps_that_exist(metric, options, rows):
    Y = networks.encoder(30, 2, hidden_units=(4,), metric=metric, seed=0)(rows)
    regressor = MapRegressor(metric=metric, **options).fit(rows, np.asarray(Y))
    before, after = regressor.transform(rows), regressor.transform(rescaled(rows, metric))
    np.testing.assert_allclose(before, after, atol=1e-3 * np.ptp(Y))


def own():
    return keras.Sequential([keras.Input((30,)), keras.layers.Dense(8, "relu"), _plane()])


def _plane():
    return keras.layers.Dense(2)


@pytest.mark.parametrize(
    "options",
    [
        {"pretraining": "cd1", "hidden_units": (8,), "pretraining_epochs": 1, "scaling": "unit"},
        {"encoder": own},
        {"initial_dims": 5},
        {"sampling": "batch"},
    ],
    ids=["rbm", "own", "components", "batch"],
)
def test_whatever_the_network(options, rows):
    options = {name: v() if callable(v) else v for name, v in options.items()}
    tsne = ParametricTSNE(metric="cosine", **{**GRAPH, "epochs": 2, **options}).fit(rows)
    np.testing.assert_allclose(tsne.transform(5 * rows), tsne.embedding_, atol=1e-3)


def test_sparse_rows_stay_sparse_for_cosine_alone(rows):
    X = scipy.sparse.csr_array(np.maximum(rows, 0))
    tsne = ParametricTSNE(metric="cosine", **SHORT).fit(X)
    np.testing.assert_allclose(tsne.transform(2 * X), tsne.embedding_, atol=1e-3)
    with pytest.raises(ValueError, match='X should be dense with metric="correlation"'):
        ParametricTSNE(metric="correlation", **SHORT).fit(X)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_equal_by_their_metric_are_reported(metric):
    X = np.outer(np.arange(1, 41), [1.0, 2.0, 4.0])
    for estimator in (ParametricTSNE(metric=metric), MapRegressor(metric=metric)):
        with pytest.raises(ValueError, match=f"40 rows, all equal by metric='{metric}'"):
            estimator.fit(X, X[:, :2])


def test_neighbors_found_elsewhere_make_the_map(rows, tmp_path):
    distances, indices = NearestNeighbors(n_neighbors=30, metric="cosine").fit(rows).kneighbors()
    found = [
        ParametricTSNE(**SHORT).fit(rows, neighbors=given)
        for given in (
            (indices, distances),
            kneighbors_graph(rows, 30, mode="distance", metric="cosine"),
            None,
        )
    ]
    np.testing.assert_allclose(found[0].embedding_, found[1].embedding_, atol=1e-2)
    assert np.abs(found[0].embedding_ - found[2].embedding_).max() > 1
    assert found[0]._settings.perplexity == 10  # of 30 neighbours
    found[0].save(tmp_path)
    assert ParametricTSNE.load(tmp_path)._settings == found[0]._settings


@pytest.mark.parametrize("options", [{"sampling": "batch"}, {"pretraining": "cd1"}])
def test_neighbors_are_refused_where_they_would_go_unused(options, rows):
    given = NEXT, np.tile([1.0, 2.0, 3.0], (50, 1))
    for placement in (True, False):
        tsne = ParametricTSNE(**{**SHORT, **options, "placement": placement})
        with pytest.raises(ValueError, match='sampling should be "graph" with neighbors'):
            tsne.fit(rows[:50], neighbors=given)


def test_a_fit_is_resumed_with_its_neighbors(rows, tmp_path):
    given = NEXT, np.tile([1.0, 2.0, 3.0], (50, 1))
    stop = keras.callbacks.EarlyStopping("loss", patience=0, mode="max", min_delta=99)
    ParametricTSNE(**SHORT).fit(rows[:50], neighbors=given, callbacks=stop).save(tmp_path)
    tsne = ParametricTSNE.load(tmp_path)
    for other in (None, (NEXT, given[1] + 1)):
        with pytest.raises(ValueError, match="neighbors should be those of the unfinished fit"):
            tsne.fit(rows[:50], neighbors=other, resume=True)
    assert "stopped" not in tsne.fit(rows[:50], neighbors=given, resume=True).history_


def test_graphs_of_rows_with_different_numbers_of_neighbours(rows):
    graph = kneighbors_graph(rows[:50], 12, mode="distance").tolil()
    for i in range(50):
        graph[i, i] = 5.0  # no neighbour of itself
    graph[3, graph.rows[3][0]] = 0.0
    found = affinities.neighbors.check_neighbors(graph.tocsr(), 50)
    assert found.indices.shape == (50, 11)
    assert (np.diff(found.distances, axis=1) >= 0).all()
    assert not (found.indices == np.arange(50)[:, None]).any()


def test_neighbors_come_nearest_first():
    indices, distances = NEXT[:, ::-1], np.tile([3.0, 2.0, 1.0], (50, 1))
    found = affinities.neighbors.check_neighbors((indices, distances), 50)
    np.testing.assert_array_equal(found.indices, NEXT)
    np.testing.assert_array_equal(found.distances[0], [1, 2, 3])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (scipy.sparse.eye_array(50).tocsr(), "two or more entries in each row"),
        (scipy.sparse.csr_array((40, 40)), r"a graph \[N, N\] of the N = 50 rows"),
        ((np.zeros((50, 3), int), np.zeros((50, 2))), r"Received: shapes \(50, 3\) and \(50, 2\)"),
        (scipy.sparse.csr_array(1 - np.eye(50)), "a graph of ones"),
        (("indices",), r"a tuple \(indices, distances\) or .*Received: tuple\.$"),
        (np.zeros((50, 50)), r"Received: ndarray\(50, 50\)\.$"),
        ((NEXT[:, :1], np.ones((50, 1))), "two or more of each row"),
        ((NEXT, -np.ones((50, 3))), "distances should be at least 0. Received: -1"),
        ((NEXT[:, [0, 0, 1]], np.ones((50, 3))), "one twice in 50 rows, the first at index 0"),
    ],
)
def test_neighbors_that_do_not_fit_are_named(given, message, rows):
    with pytest.raises(ValueError, match=message):
        ParametricTSNE(**SHORT).fit(rows[:50], neighbors=given)
