"""Freed rows: KL(P‖Q) falls, exactly or approximately, in one to three dimensions."""

import numpy as np
import pytest

from ptsne_keras import affinities, training
from ptsne_keras.affinities.neighbors import nearest


@pytest.fixture(scope="module")
def graph(digits):
    X = digits[0][0][:300]
    found = nearest(X, 30)
    return found, affinities.neighbor_probabilities(found.distances, 10)


def joint(found, C):
    """P [N, N] by a double loop."""
    P = np.zeros((len(C), len(C)))
    for i, (neighbors, row) in enumerate(zip(found.indices, C, strict=True)):
        for j, p in zip(neighbors, row, strict=True):
            P[i, j] += p
            P[j, i] += p
    return P / P.sum()


def divergence(P, Y, dof=1.0):
    w = (1 + np.square(Y[:, None] - Y[None]).sum(axis=2) / dof) ** (-(dof + 1) / 2)
    np.fill_diagonal(w, 0)
    held = P > 0
    return (P[held] * np.log(P[held] * w.sum() / w[held])).sum()


def start(d, n=300):
    return np.random.default_rng(0).normal(size=(n, d)).astype("float32")


@pytest.mark.parametrize("d", [2, *(pytest.param(d, marks=pytest.mark.slow) for d in (1, 3))])
@pytest.mark.parametrize("dof", [1.0, 2.0])
def test_the_divergence_falls_and_is_told(d, dof, graph):
    told = []
    Y = training.refine(
        start(d), *graph, dof=dof, callback=lambda steps, loss: told.append((steps, loss))
    )
    P = joint(*graph)
    assert Y.shape == (300, d)
    assert Y.dtype == np.float32
    assert divergence(P, Y, dof) < 0.7 * divergence(P, start(d), dof)
    assert [steps for steps, _ in told] == [50, 100, 150, 200, 250]
    # Told before the step after it, by the tree.
    assert told[-1][1] == pytest.approx(divergence(P, Y, dof), rel=0.05)


@pytest.mark.parametrize(
    "tree", [5000, pytest.param(200, marks=pytest.mark.slow)], ids=["tree", "grid"]
)
def test_the_approximations_come_as_low_as_the_exact_descent(tree, graph, monkeypatch):
    monkeypatch.setattr("ptsne_keras.training.descent._EXACT_ROWS", 300)
    exact = training.refine(start(2), *graph)
    monkeypatch.setattr("ptsne_keras.training.descent._EXACT_ROWS", 200)
    monkeypatch.setattr("ptsne_keras.training.descent._TREE_ROWS", tree)
    found = training.refine(start(2), *graph)
    P = joint(*graph)
    assert divergence(P, found) == pytest.approx(divergence(P, exact), rel=0.1)


def test_with_exaggeration_clusters_are_tighter(graph):
    plain, tight = (training.refine(start(2), *graph, exaggeration=c) for c in (1.0, 3.0))
    assert np.ptp(tight) < np.ptp(plain)


def test_the_start_is_not_changed_and_the_result_is_the_same_again(graph):
    Y = start(2)
    first, second = (training.refine(Y, *graph) for _ in range(2))
    np.testing.assert_array_equal(Y, start(2))
    np.testing.assert_array_equal(first, second)


def test_a_true_answer_ends_the_descent(graph):
    told = []

    def stop(steps, loss):
        told.append(steps)
        return steps == 100

    assert np.isfinite(training.refine(start(2), *graph, callback=stop)).all()
    assert told == [50, 100]


def test_rows_that_are_not_free_keep_their_places_to_the_bit(graph):
    Y = training.refine(start(2), *graph) + 5
    free = np.arange(300) >= 250
    Y[free] += np.float32(3)
    found = training.refine(Y, *graph, free=free)
    np.testing.assert_array_equal(found[~free], Y[~free])
    P = joint(*graph)
    # As low as where all are free, of which 250 need not move.
    assert divergence(P, found) < 1.1 * divergence(P, training.refine(Y, *graph))
    assert divergence(P, found) < 0.9 * divergence(P, Y)


def test_what_does_not_belong_together_is_refused(graph):
    found, P = graph
    with pytest.raises(ValueError, match="at most 3 dimensions"):
        training.refine(start(4), found, P)
    with pytest.raises(ValueError, match="should be of the 299 rows of Y"):
        training.refine(start(2, 299), found, P)
    with pytest.raises(ValueError, match="free should tell of each of the 300 rows"):
        training.refine(start(2), found, P, free=[True])
    with pytest.raises(ValueError, match="Y should be finite"):
        training.refine(np.full((300, 2), np.nan), found, P)


@pytest.mark.parametrize(
    "options",
    [{"dof": 0.0}, {"dof": np.inf}, {"exaggeration": -1.0}, {"iterations": 0}],
    ids=str,
)
def test_options_out_of_their_range_are_named(options, graph):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} should be .* Received: "):
        training.refine(start(2), *graph, **options)
