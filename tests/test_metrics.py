import numpy as np
import pytest
import reference

from ptsne_keras import affinities, metrics, networks


def ranks(X):
    """ranks[i, j]: 1 for the nearest other row of i, and so on."""
    D2 = reference.squared_distances(X)
    np.fill_diagonal(D2, -1)
    return np.argsort(np.argsort(D2, axis=1), axis=1)


def slow_trustworthiness(X, Y, k):
    in_data, on_map, n = ranks(X), ranks(Y), len(X)
    penalty = 0
    for i in range(n):
        for j in range(n):
            if 1 <= on_map[i, j] <= k and in_data[i, j] > k:
                penalty += in_data[i, j] - k
    return 1 - 2 * penalty / (n * k * (2 * n - 3 * k - 1))


@pytest.mark.parametrize("k", [1, 5, 12])
def test_trustworthiness_and_continuity_agree_with_a_double_loop(k, rng):
    X, Y = rng.normal(size=(40, 5)), rng.normal(size=(40, 2))
    Y[:, 0] += X[:, 0] * 3
    assert metrics.trustworthiness(X, Y, k) == pytest.approx(slow_trustworthiness(X, Y, k))
    assert metrics.continuity(X, Y, k) == pytest.approx(slow_trustworthiness(Y, X, k))
    assert metrics.trustworthiness(X, X, k) == 1


def test_knn_accuracy_counts_the_majority_of_the_nearest():
    Y_train, labels = np.array([[0.0, 0], [1, 0], [2, 0], [10, 0]]), [0, 0, 1, 1]
    Y_test, truth = np.array([[1.8, 0], [9.0, 0]]), [0, 1]
    assert metrics.knn_accuracy(Y_train, labels, Y_test, truth, 1) == 0.5
    assert metrics.knn_accuracy(Y_train, labels, Y_test, truth, 3) == 1.0


def test_neighborhood_recall_is_the_share_of_true_neighbours_found(rng):
    X = rng.normal(size=(60, 4))
    train, test = X[:50], X[50:]
    assert metrics.neighborhood_recall(train, train, test, test, 5) == 1
    Y_train, Y_test = train[:, :2], test[:, :2]
    expected = []
    for x, y in zip(test, Y_test, strict=True):
        true = np.argsort(((train - x) ** 2).sum(axis=1))[:5]
        found = np.argsort(((Y_train - y) ** 2).sum(axis=1))[:5]
        expected.append(len(set(true) & set(found)) / 5)
    found = metrics.neighborhood_recall(train, Y_train, test, Y_test, 5)
    assert found == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("dof", [1.0, 2.0])
def test_kl_divergence_agrees_with_a_double_loop(dof, rng):
    X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    P = affinities.joint_probabilities(X, 5)
    expected = reference.tsne(P, Y, dof)
    assert metrics.kl_divergence(P, Y, dof=dof) == pytest.approx(expected, rel=1e-6)


def test_mean_kl_divergence_weighs_batches_by_their_rows(rng):
    encoder = networks.encoder(4, hidden_units=(8,), seed=0)
    parts = [np.float32(rng.normal(size=(n, 4))) for n in (30, 10)]
    batches = [(x, affinities.joint_probabilities(x, 5)) for x in parts]
    each = [metrics.kl_divergence(P, encoder(x)) for x, P in batches]
    expected = (30 * each[0] + 10 * each[1]) / 40
    assert metrics.mean_kl_divergence(encoder, batches) == pytest.approx(expected)


def test_procrustes_correlation_is_that_of_scipy(rng):
    from scipy.spatial import procrustes

    Y = rng.normal(size=(50, 2))
    other = Y + 0.5 * rng.normal(size=Y.shape)
    disparity = procrustes(Y, other)[2]
    found = metrics.procrustes_correlation(Y, other)
    assert found == pytest.approx(np.sqrt(1 - disparity), rel=1e-9)
    rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert metrics.procrustes_correlation(Y, 7 * other @ rotation - 3) == pytest.approx(found)
    assert metrics.procrustes_correlation(Y, np.ones_like(Y)) == 0.0
    assert metrics.procrustes_correlation(1e200 * Y, other) == pytest.approx(found)
    for wrong in (Y[:-1], np.where(Y > 0, np.nan, Y)):
        with pytest.raises(ValueError, match="finite maps \\[N, d\\] of the same rows"):
            metrics.procrustes_correlation(Y, wrong)
