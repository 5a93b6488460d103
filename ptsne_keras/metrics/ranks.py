"""Exact neighbours and ranks in float64, for measures; `affinities.neighbors` is fast, for maps."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neighbors import NearestNeighbors

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays
from ptsne_keras.utils.validation import check_integer

Indices = npt.NDArray[np.int64]

# Distances held at a time: 256 MB.
_BLOCK = 1 << 25
# Values converted to float64 at a time: 64 MB.
_PART = 1 << 23
# Up to this many columns, differences are squared: exact, and no slower.
_FEW = 4


def drawn(n: int, sample_size: int | None, random_state: int = 0) -> Indices:
    """Return the sorted indices of a random sample of n rows, or of all for None."""
    if sample_size is None or check_integer(sample_size, "sample_size") >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(random_state).choice(n, sample_size, replace=False))


def nearest(X: Any, k: int, *, of: Indices | None = None, X_new: Any = None) -> Indices:
    """Return the k nearest rows of X [n, k], nearest first, of X itself or X_new, or some of it."""
    n = X.shape[0] - (X_new is None)
    if check_integer(k, "n_neighbors") > n:
        raise ValueError(f"n_neighbors should be from 1 to {n}, the other rows. Received: {k}.")
    index = NearestNeighbors(n_neighbors=k).fit(X)
    if X_new is None and of is not None and len(of) <= n:
        return arrays.without_self(index.kneighbors(X[of], k + 1, return_distance=False), of)
    X_new = X_new if X_new is None or of is None else X_new[of]
    return np.asarray(index.kneighbors(X_new, return_distance=False))


def recall(true: Indices, found: Indices, ks: Any = None) -> FloatArray:
    """Return the share of each row's k nearest that are among the k found: [n], or [n, len(ks)]."""
    width = true.shape[1]
    shares = np.empty((len(true), 1 if ks is None else len(ks)))
    for part in arrays.row_slices(len(true), arrays.block_size(width**2, numbers=_BLOCK)):
        same = true[part, :, None] == found[part, None, :]  # [b, K, K]
        for column, k in enumerate((width,) if ks is None else ks):
            shares[part, column] = same[:, :k, :k].sum(axis=(1, 2)) / k
    return shares[:, 0] if ks is None else shares


def ranks(X: Any, of: Indices, candidates: Indices) -> Indices:
    """Return the ranks [n, m] of candidates among all other rows, 1 for the nearest."""
    return nearest_and_ranks(X, of, 0, candidates)[1]


def nearest_and_ranks(X: Any, of: Indices, k: int, candidates: Indices) -> tuple[Indices, Indices]:
    """Return the k nearest rows [n, k] and the ranks of candidates [n, m] by one pass over X."""
    near = np.empty((len(of), k), np.int64)
    found = np.empty(candidates.shape, np.int64)
    for start, D2 in _distances(X, of):
        for i, row in enumerate(D2, start):
            # One comparison at a time stays within the processor's cache.
            found[i] = [1 + np.count_nonzero(row < row[j]) for j in candidates[i]]
            if k:
                part = np.argpartition(row, k - 1)[:k]
                near[i] = part[np.argsort(row[part], kind="stable")]
    return near, found


def _distances(X: Any, of: Indices) -> Iterator[tuple[int, FloatArray]]:
    """Yield squared distances [b, N] of blocks of rows, infinite to themselves, and their start."""
    (n, features), sparse = X.shape, scipy.sparse.issparse(X)
    center = 0.0 if sparse else X.mean(axis=0, dtype=np.float64)
    direct = features <= _FEW and not sparse
    columns = n if sparse else arrays.block_size(features, numbers=_PART)

    def rows(chosen: Any) -> Any:
        return X[chosen].astype(np.float64) if sparse else X[chosen] - center

    for part in arrays.row_slices(len(of), arrays.block_size(n, numbers=_BLOCK)):
        block = of[part]
        A, D2 = rows(block), np.empty((len(block), n))
        for other in arrays.row_slices(n, columns):
            B = rows(other)
            D2[:, other] = (
                cdist(A, B, "sqeuclidean") if direct else euclidean_distances(A, B, squared=True)
            )
        D2[np.arange(len(block)), block] = np.inf
        yield part.start, D2
