import tracemalloc

import numpy as np
import pytest
import scipy.sparse
import scipy.spatial
import sklearn.manifold
from sklearn.neighbors import KNeighborsClassifier
from support import reference

from ptsne_keras import affinities, metrics, networks
from ptsne_keras.metrics import ranks


def slow_ranks(X):
    """ranks[i, j]: 0 for i itself, 1 for its nearest other row, and so on."""
    D2 = reference.squared_distances(X)
    np.fill_diagonal(D2, -1)
    return np.argsort(np.argsort(D2, axis=1), axis=1)


def slow_recall(X, Y, k):
    """Share of each row's k nearest in X that are so in Y."""
    A, B = slow_ranks(X), slow_ranks(Y)
    return ((A >= 1) & (k >= A) & (B >= 1) & (k >= B)).sum(axis=1) / k


@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("k", [1, 12, 100])
def test_trustworthiness_and_continuity_are_those_of_scikit_learn(make, k, rng):
    X = rng.normal(size=(300, 20)) * (rng.random((300, 20)) < 0.5)
    Y = X[:, :2] + 0.3 * rng.normal(size=(300, 2))
    expected = sklearn.manifold.trustworthiness(X, Y, n_neighbors=k)
    assert metrics.trustworthiness(make(X), Y, k) == pytest.approx(expected, abs=1e-9)
    expected = sklearn.manifold.trustworthiness(Y, X, n_neighbors=k)
    assert metrics.continuity(make(X), Y, k) == pytest.approx(expected, abs=1e-9)
    assert metrics.trustworthiness(X, X, k) == 1


@pytest.mark.parametrize("k", [1, 3, 5])
def test_knn_accuracy_is_that_of_scikit_learn(k, rng):
    labels = np.array(["c", "a", "b"])[rng.integers(3, size=60)]
    Y = rng.normal(size=(60, 2)) + 2 * (labels == "a")[:, None]
    train, test = slice(40), slice(40, None)
    expected = KNeighborsClassifier(k).fit(Y[train], labels[train]).score(Y[test], labels[test])
    found = metrics.knn_accuracy(Y[train], labels[train], Y[test], labels[test], k)
    assert found == pytest.approx(expected)
    left_out = [
        metrics.knn_accuracy(np.delete(Y, i, 0), np.delete(labels, i), Y[[i]], labels[[i]], k)
        for i in range(60)
    ]
    assert metrics.knn_accuracy(Y, labels, n_neighbors=k) == pytest.approx(np.mean(left_out))


def test_neighborhood_recall_is_the_share_of_true_neighbours_found(rng):
    X = rng.normal(size=(80, 4))
    Y = X[:, :2]
    found = metrics.neighborhood_recall_per_row(X, Y, n_neighbors=7)
    np.testing.assert_allclose(found, slow_recall(X, Y, 7))
    by_k = ranks.recall(ranks.nearest(X, 7), ranks.nearest(Y, 7), ks=(1, 4, 7))
    np.testing.assert_allclose(by_k.T, [slow_recall(X, Y, k) for k in (1, 4, 7)])

    train, test = X[:50], X[50:]
    assert metrics.neighborhood_recall(train, train, test, test, 5) == 1
    D = [np.square(test[:, None, :d] - train[None, :, :d]).sum(axis=2) for d in (4, 2)]
    nearest = [np.argsort(each, axis=1)[:, :5] for each in D]
    each = [len(set(true) & set(found)) / 5 for true, found in zip(*nearest, strict=True)]
    maps = train, train[:, :2], test, test[:, :2]
    assert metrics.neighborhood_recall(*maps, 5) == pytest.approx(np.mean(each))
    sample = {"sample_size": 20, "random_state": 1}
    found = metrics.neighborhood_recall_per_row(*maps, 5, **sample)
    np.testing.assert_allclose(found, np.array(each)[ranks.drawn(30, 20, 1)])
    found = metrics.neighborhood_recall_per_row(X, Y, n_neighbors=7, **sample)
    np.testing.assert_allclose(found, slow_recall(X, Y, 7)[ranks.drawn(80, 20, 1)])


@pytest.mark.parametrize("dof", [1.0, 2.0])
def test_mean_kl_divergence_weighs_batches_by_their_rows(dof, rng):
    encoder = networks.encoder(4, hidden_units=(8,), seed=0)
    parts = [np.float32(rng.normal(size=(n, 4))) for n in (30, 10)]
    batches = [(x, affinities.joint_probabilities(x, 5)) for x in parts]
    each = [reference.tsne(P, encoder(x), dof) for x, P in batches]
    expected = np.average(each, weights=[30, 10])
    found = metrics.mean_kl_divergence(encoder, batches, dof=dof)
    assert found == pytest.approx(expected, rel=1e-6)


def test_procrustes_correlation_is_that_of_scipy_and_align_finds_the_pose(rng):
    Y = rng.normal(size=(50, 2))
    other = Y + 0.5 * rng.normal(size=Y.shape)
    found = metrics.procrustes_correlation(Y, other)
    disparity = scipy.spatial.procrustes(Y, other)[2]
    assert found == pytest.approx(np.sqrt(1 - disparity), rel=1e-9)
    rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert metrics.procrustes_correlation(Y, 7 * other @ rotation - 3) == pytest.approx(found)
    assert metrics.procrustes_correlation(Y, np.ones_like(Y)) == 0.0
    assert metrics.procrustes_correlation(1e200 * Y, other) == pytest.approx(found)
    centred = Y - Y.mean(axis=0)
    np.testing.assert_allclose(metrics.align(Y), centred)
    for mirror in ([1, 1], [1, -1]):
        np.testing.assert_allclose(metrics.align(3 + Y * mirror @ rotation, Y), centred, atol=1e-9)
    for wrong in (Y[:-1], np.where(Y > 0, np.nan, Y)):
        for measure in (metrics.procrustes_correlation, metrics.align):
            with pytest.raises(ValueError, match=r"finite arrays \[N, d\] of the same rows"):
                measure(Y, wrong)


@pytest.mark.slow
def test_blocks_do_not_change_a_measure_and_keep_its_memory_small(rng, monkeypatch):
    X, Y = rng.normal(size=(200, 8)), rng.normal(size=(200, 2))
    expected = metrics.trustworthiness(X, Y), metrics.neighborhood_recall_per_row(X, Y)
    monkeypatch.setattr(ranks, "_BLOCK", 1000)  # five rows; recall takes ten at a time
    monkeypatch.setattr(ranks, "_PART", 100)
    assert metrics.trustworthiness(X, Y) == pytest.approx(expected[0], abs=1e-12)
    np.testing.assert_array_equal(metrics.neighborhood_recall_per_row(X, Y), expected[1])
    X, Y = rng.normal(size=(4000, 10)), rng.normal(size=(4000, 2))
    monkeypatch.setattr(ranks, "_BLOCK", 1 << 18)
    tracemalloc.start()
    metrics.trustworthiness(X, Y, sample_size=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1000 * 4000 * 8 / 2  # half of these distances


def test_a_sample_of_rows_is_ranked_among_all(rng):
    X = rng.normal(size=(600, 6))
    Y = X[:, :2]
    whole = metrics.trustworthiness(X, Y)
    part = metrics.trustworthiness(X, Y, sample_size=200, random_state=1)
    assert part != whole
    assert part == pytest.approx(whole, abs=0.02)
    assert metrics.trustworthiness(X, Y, sample_size=600) == whole
    chosen = ranks.drawn(600, 200, 1)
    near = ranks.nearest(Y, 12, of=chosen)
    slow = np.take_along_axis(slow_ranks(X)[chosen], near, axis=1)
    np.testing.assert_array_equal(ranks.ranks(X, chosen, near), slow)


def test_ranks_hold_far_from_the_origin_and_in_tight_clusters(rng):
    near = rng.normal(size=(50, 6))
    X = np.concatenate([1e-3 * near, 1e3 + 1e-3 * near])
    found = ranks.nearest_and_ranks(X, np.arange(50), 5, np.tile(np.arange(50, 60), (50, 1)))
    np.testing.assert_array_equal(found[0], ranks.nearest(near, 5))
    assert found[1].min() >= 50


def test_duplicates_share_a_rank_and_are_neighbours():
    X = np.array([[0.0, 0], [0, 0], [0, 0], [1, 0], [2, 0], [3, 0]])
    found = ranks.ranks(X, np.array([0]), np.array([[1, 2, 3, 4]]))
    np.testing.assert_array_equal(found, [[1, 1, 3, 4]])
    assert 0 not in ranks.nearest(X, 2, of=np.array([0]))
    assert metrics.trustworthiness(X, X, 2) == 1


def test_distance_correlation_sees_order_alone(rng):
    X = rng.normal(size=(100, 2))
    assert metrics.distance_correlation(X, 3 * X + 1) == pytest.approx(1)
    assert metrics.distance_correlation(scipy.sparse.csr_matrix(X), X) == pytest.approx(1)
    assert abs(metrics.distance_correlation(X, rng.normal(size=(100, 2)))) < 0.1
    assert metrics.distance_correlation(X, np.ones((100, 2))) == 0
    part = metrics.distance_correlation(X, X[:, :1], sample_size=50)
    assert part == pytest.approx(metrics.distance_correlation(X, X[:, :1]), abs=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X: metrics.trustworthiness(X, X[:-1]), "same number of rows. Received: 40 and 39"),
        (lambda X: metrics.trustworthiness(X, X, 20), r"below N / 2 = 20. Received: 20"),
        (lambda X: metrics.continuity(X, X, sample_size=0), "sample_size should be an integer of"),
        (lambda X: metrics.neighborhood_recall(X, X, n_neighbors=40), "from 1 to 39"),
        (lambda X: metrics.neighborhood_recall(X, X, X[:, :2], X), "X_test should have as many"),
        (lambda X: metrics.neighborhood_recall(X, X, X, X[:, :2]), "Y_test should have .* 3. Rece"),
        (lambda X: metrics.neighborhood_recall(X, X, X), "X_test and Y_test should both be given"),
        (lambda X: metrics.neighborhood_recall(X, X, Y_test=X), "Received: Y_test alone"),
        (lambda X: metrics.knn_accuracy(X, X[:, 0], X), "Y_test and labels_test should both be"),
        (lambda X: metrics.knn_accuracy(X, X[:, 0], None, X[:, 0]), "Received: labels_test alone"),
        (lambda X: metrics.knn_accuracy(X, X[:9, 0]), r"labels_train should have .* 40 rows"),
        (lambda X: metrics.knn_accuracy(X, X), r"labels_train should .*shape \(40, 3\)"),
        (lambda X: metrics.knn_accuracy(X, X[:, 0], X, [1, 2]), r"labels_test should .* \(2,\)"),
        (lambda X: metrics.knn_accuracy(X, X[:, 0], X[:, :2], X[:, 0]), "as many columns as Y_tra"),
        (lambda X: metrics.trustworthiness(np.where(X > 0, np.nan, X), X), "X should be finite"),
        (lambda X: metrics.trustworthiness(scipy.sparse.csr_matrix(X / 0), X), "X should be finit"),
        (lambda X: metrics.distance_correlation(X[:2], X[:2]), "at least 3 rows"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_input_is_named(call, message, rng):
    with pytest.raises(ValueError, match=message):
        call(rng.normal(size=(40, 3)))
