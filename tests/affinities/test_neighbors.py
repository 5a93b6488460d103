import numpy as np
import pytest

from ptsne_keras.affinities import neighbors
from ptsne_keras.affinities.neighbors import nearest


def brute(X, k):
    """Indices and distances of the nearest other rows, in float64."""
    X = np.asarray(X, np.float64)
    D = np.sqrt(np.square(X[:, None] - X[None]).sum(axis=2))
    np.fill_diagonal(D, np.inf)
    order = np.argsort(D, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(D, order, axis=1)


@pytest.fixture
def X(rng):
    return rng.normal(size=(300, 7))


@pytest.mark.parametrize("k", [1, 20, 299])
def test_exact_search_agrees_with_brute_force(X, k, monkeypatch):
    monkeypatch.setattr(neighbors, "_BLOCK", 7 * 200 * 30)  # several blocks
    found = nearest(X, k)
    indices, distances = brute(X, k)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-5)
    assert (found.indices.dtype, found.distances.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("k", [1, 200])
def test_an_index_finds_the_neighbours_of_new_rows(X, k):
    D = np.sqrt(np.square(X[200:, None] - X[None, :200]).sum(axis=2))
    found = neighbors.Index(X[:200]).search(X[200:], k)
    np.testing.assert_array_equal(found.indices, np.argsort(D, axis=1)[:, :k])
    np.testing.assert_allclose(found.distances, np.sort(D, axis=1)[:, :k], rtol=1e-5)


def test_approximate_search_finds_nearly_all_and_repeats_with_its_seed(rng):
    X = rng.normal(size=(5000, 10))
    true, found, again = nearest(X, 30), *(nearest(X, 30, exact=False, seed=3) for _ in range(2))
    common = [len(np.intersect1d(a, b)) for a, b in zip(true.indices, found.indices, strict=True)]
    assert np.mean(common) / 30 > 0.95
    assert (np.diff(found.distances, axis=1) >= 0).all()
    assert (found.indices != np.arange(5000)[:, None]).all()
    np.testing.assert_array_equal(again.indices, found.indices)


@pytest.fixture
def searched(monkeypatch):
    """The numbers of queries that were searched one after the other, not cell by cell."""
    each, counts = neighbors._search_each, []
    monkeypatch.setattr(neighbors, "_QUERIES", 4000)
    monkeypatch.setattr(neighbors, "_search_each", lambda *a: counts.append(len(a[1])) or each(*a))
    return counts


@pytest.mark.parametrize("own", [False, True])
def test_many_queries_are_searched_cell_by_cell_and_have_the_same_neighbours(rng, own, searched):
    X = rng.normal(size=(40_000, 4)) + 100.0
    Q = X[:9000].copy() if own else rng.normal(size=(9000, 4)) + 100.0
    Q[7] = 120.0  # far from all
    index = neighbors.Index(X, seed=0)
    rows = np.arange(9000)
    found = index.search(Q, 5, skip=rows if own else None)
    assert sum(searched) < 20
    for few in (rows[:500], rows[8000:8500]):
        alone = index.search(Q[few], 5, skip=few if own else None)
        np.testing.assert_array_equal(found.indices[few], alone.indices)
        np.testing.assert_array_equal(found.distances[few], alone.distances)
    assert searched[-2:] == [500, 500]


def test_neighbours_too_near_for_differences_of_squares_are_found_cell_by_cell_too(rng, searched):
    """Clumps a millionth as wide as the cells: the row itself is first, its clump follows."""
    X = np.repeat(rng.normal(size=(1000, 4)), 40, axis=0) + 1e-6 * rng.normal(size=(40_000, 4))
    X = X.astype(np.float32)
    found = neighbors.Index(X, seed=0).search(X[:9000], 5)
    assert sum(searched) > 8000
    np.testing.assert_array_equal(found.distances[:, 0], 0)
    assert (found.indices // 40 == np.arange(9000)[:, None] // 40).all()


def test_one_cell_may_hold_most_rows_and_others_fewer_than_k(rng, searched, monkeypatch):
    monkeypatch.setattr(neighbors, "_BLOCK", 1 << 18)
    X = np.concatenate([np.zeros((30_000, 4)), rng.normal(size=(10_000, 4))])
    X[:30_000, 0] = np.arange(30_000) * 1e-9  # of which k-means makes one cell
    X[-3:] += 50  # and of these another
    index = neighbors.Index(X, seed=0)
    found = index.search(X[-9000:], 5)
    assert 0 < sum(searched) < 9000
    np.testing.assert_array_equal(found.indices[-500:], index.search(X[-500:], 5).indices)


def test_cells_with_too_few_rows_do_not_limit_k(rng, monkeypatch):
    """Forty far clusters of five: one cell does not hold the 150 neighbours asked for."""
    monkeypatch.setattr(neighbors, "_PROBES", 1)
    X = np.repeat(np.eye(40) * 100, 5, axis=0) + rng.normal(size=(200, 40)) * 0.01
    found = nearest(X, 150, exact=False, seed=0)
    assert (found.indices >= 0).all()
    assert (np.diff(np.sort(found.indices)) > 0).all()
    np.testing.assert_array_equal(found.indices[:, 3], nearest(X, 4).indices[:, 3])


@pytest.mark.parametrize("exact", [True, False])
def test_duplicates_are_at_exactly_zero_and_no_row_is_its_own_neighbour(rng, exact, monkeypatch):
    monkeypatch.setattr(neighbors, "_PROBES", 1)
    X = np.repeat(rng.normal(size=(50, 5)) + 1000.0, 8, axis=0)
    found = nearest(X, 7, exact=exact, seed=0)
    np.testing.assert_array_equal(found.distances, 0)
    assert (found.indices != np.arange(400)[:, None]).all()
    assert (found.indices // 8 == np.repeat(np.arange(50), 8)[:, None]).all()


def test_scale_and_place_do_not_matter_and_one_far_outlier_does_not_blur_the_others(X):
    indices, distances = brute(X, 20)
    for scale, shift in ((1e-20, 0.0), (1e-3, 30.0), (1e18, 30.0)):
        found = nearest((X + shift) * scale, 20)
        assert (found.indices == indices).mean() > 0.999
        np.testing.assert_allclose(found.distances, distances * scale, rtol=1e-3)
    X[0] = 1e4
    indices, _ = brute(X, 20)
    assert (nearest(X, 20).indices[1:] == indices[1:]).mean() > 0.99


@pytest.mark.parametrize(
    ("rows", "k", "message"),
    [
        (np.ones((5, 2)), 5, r"k should be from 1 to N - 1 = 4. Received: 5"),
        (np.ones((5, 2)), 0, "k should be from 1"),
        (np.full((5, 2), np.nan), 2, "X should be finite"),
        (np.ones(5), 2, "should be a 2-D array"),
    ],
)
def test_bad_input_is_named(rows, k, message):
    with pytest.raises(ValueError, match=message):
        nearest(rows, k)
