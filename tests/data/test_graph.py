"""Pairs drawn along the neighbour graph: `batches.from_graph`."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.neighbors import NearestNeighbors
from support.pipelines import arrays

from ptsne_keras import affinities
from ptsne_keras.affinities import neighbors
from ptsne_keras.data import batches
from ptsne_keras.data._pairs import PairSampler


@pytest.fixture
def X(digits):
    return digits[0][0][:200].astype(np.float32)


def rows_of(X, x):
    """Which row of X each row of x is."""
    position = {row.tobytes(): i for i, row in enumerate(X)}
    return np.array([position[row.tobytes()] for row in x])


@pytest.mark.parametrize("n", [200, 193])
def test_every_row_is_drawn_once_an_epoch_with_one_neighbour(X, n):
    """And without jitter, rows are unchanged."""
    X = X[:n]
    found = neighbors.nearest(X, 30)
    dataset = batches.from_graph(X, 10, 64, neighbors=found, seed=0)
    assert dataset.cardinality() == 7
    drawn = []
    for x, P in arrays(dataset):
        h = len(x) // 2
        assert len(x) == 2 * h <= 64
        np.testing.assert_allclose(P, np.full((2 * h, 1), 1 / (2 * h)))
        i, j = np.split(rows_of(X, x), 2)
        assert all(b in found.indices[a] for a, b in zip(i, j, strict=True))
        drawn.append(i)
    np.testing.assert_array_equal(np.sort(np.concatenate(drawn)), np.arange(n))


def test_neighbours_are_drawn_in_proportion_to_their_probabilities(X):
    found = neighbors.nearest(X, 12)
    P = affinities.neighbor_probabilities(found.distances, 4)
    sampler = PairSampler(X, found, 4)
    draws = 20_000
    x, _ = sampler(tf.fill([draws], 17), 5)
    j = rows_of(X, x.numpy()[draws:])
    counts = np.array([(j == neighbor).sum() for neighbor in found.indices[17]])
    assert counts.sum() == draws
    deviation = (counts - draws * P[17]) / np.sqrt(draws * P[17] * (1 - P[17]) + 1)
    assert np.abs(deviation).max() < 4.5


def test_each_batch_draws_its_neighbours_anew(X):
    sampler = PairSampler(X, neighbors.nearest(X, 12), 4)
    first, again, other = (sampler(tf.range(100), number)[0] for number in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[:100], other[:100])
    assert 0.3 < np.any(first[100:] != other[100:], axis=1).mean() < 0.95


def test_epochs_differ_and_seeds_repeat(X):
    first, other = (batches.from_graph(X, 10, 64, seed=seed) for seed in (0, 1))
    a, b, c = arrays(first), arrays(first), arrays(other)
    tf.random.set_seed(99)
    for again, *others in zip(arrays(batches.from_graph(X, 10, 64, seed=0)), a, b, c, strict=True):
        assert [np.array_equal(again[0], x) for x, _ in others] == [True, False, False]


def test_batches_of_one_epoch_and_of_two_draw_differently():
    """Corners of a simplex have nearly the same noise but for its random numbers."""
    X = np.diag(np.linspace(1, 1.2, 64))
    data = batches.from_graph(X, 10, 32, jitter=0.5, seed=0).repeat(2)  # as finetune does
    epochs = [x - np.round(x) for x, _ in data.as_numpy_iterator()]
    assert len(epochs) == 8
    noises = np.stack([x[:8].ravel() for x in epochs])
    shared = np.corrcoef(noises) - np.eye(8)
    assert np.abs(shared).max() < 0.5


def test_jitter_has_the_covariance_it_says(rng):
    """(x_a - x_b) / 2 over the 15 nearest, plus r / √(2D) in every direction."""
    X = rng.normal(size=(100, 3)) * [1.0, 0.5, 0.1]
    found = neighbors.nearest(X, 20)
    row, draws, jitter = 7, 40_000, 0.5
    x, _ = PairSampler(X, found, 5, jitter)(tf.fill([draws], row), 3)
    noise = x.numpy()[:draws] - X[row]
    r = np.linalg.norm(X[row] - X[found.indices[row, 0]])
    near = X[found.indices[row, :15]]
    expected = jitter**2 * (0.5 * np.cov(near.T, bias=True) + r**2 / 6 * np.eye(3))
    np.testing.assert_allclose(np.cov(noise.T), expected, atol=0.05 * np.abs(expected).max())
    assert np.abs(noise.mean(axis=0)).max() < 0.05 * np.sqrt(expected.max())


def test_neighbours_found_elsewhere_will_do(rng):
    """scikit-learn's, of int64 and float64."""
    X = rng.normal(size=(200, 5))
    distances, indices = NearestNeighbors(n_neighbors=30).fit(X).kneighbors()
    found = neighbors.Neighbors(indices, distances)
    assert indices.dtype == np.int64
    theirs = batches.from_graph(X, 10, 64, neighbors=found, seed=0)
    ours = batches.from_graph(X, 10, 64, seed=0)
    for (a, _), (b, _) in zip(arrays(theirs), arrays(ours), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("scale", [1e-25, 1e20])
def test_jitter_keeps_the_scale_of_the_rows(X, scale):
    both, options = (X, X * np.float32(scale)), {"jitter": 0.5, "seed": 0}
    small, scaled = (arrays(batches.from_graph(Z, 10, 64, **options))[0][0] for Z in both)
    np.testing.assert_allclose(scaled / scale, small, atol=1e-3)


def given(indices):
    return {"perplexity": 2, "neighbors": neighbors.Neighbors(indices, np.ones(indices.shape))}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (np.eye(3), {}, "X should have at least 4 rows. Received: n_samples=3"),
        (np.eye(9), {"perplexity": 8}, "perplexity should be above 1 and below N - 1 = 8"),
        (np.eye(9), {"perplexity": 3, "batch_size": 3}, "batch_size should be an integer of at"),
        (np.eye(9), {"perplexity": 3, "batch_size": 8.0}, "batch_size should be an integer of at"),
        (np.eye(9), given(np.zeros((8, 4))), r"the N = 9 rows of X. Received: shapes \(8, 4\) and"),
        (np.eye(9), given(np.full((9, 4), 9)), "from 0 to N - 1 = 8. Received: int64 from 9 to 9"),
        (np.eye(9), given(np.tile(np.arange(4), (9, 1))), "own neighbour.*4 such .* at index 0"),
        (np.full((9, 2), np.nan), {"perplexity": 3}, "X should be finite"),
        (np.eye(9), {"perplexity": 3, "jitter": -1}, "jitter should be a finite number of at"),
    ],
)
def test_bad_input_is_named(rows, options, message):
    with pytest.raises(ValueError, match=message):
        batches.from_graph(rows, **options)
