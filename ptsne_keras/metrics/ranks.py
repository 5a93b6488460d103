"""Which rows are near which, and how near, counted exactly and block by block."""

from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
from sklearn.neighbors import NearestNeighbors

from ptsne_keras.typing import FloatArray

Indices = npt.NDArray[np.int64]

# Distances held at a time: 256 MB.
_BLOCK = 1 << 25
# Numbers of rows made float64 at a time: 64 MB.
_PART = 1 << 23
# Columns up to which differences are squared one column at a time: exact, and no slower.
_FEW = 4


def drawn(n: int, rows: int | None, seed: int = 0) -> Indices:
    """Choose the rows that a measure is taken of: all n, or so many at random; in order."""
    if rows is not None and rows < 1:
        raise ValueError(f"rows should be at least 1, or None for all. Received: {rows!r}.")
    if rows is None or rows >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, rows, replace=False))


def positive(value: Any, name: str) -> int:
    """Return a count as an int, or raise a ValueError."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} should be a positive integer. Received: {value!r}.")
    return int(value)


def nearest(X: Any, k: int, *, of: Indices | None = None, X_new: Any = None) -> Indices:
    """Find the k nearest rows of X, nearest first: int64 [n, k], by scikit-learn."""
    n = X.shape[0] - (X_new is None)
    if positive(k, "k") > n:
        raise ValueError(f"k should be from 1 to {n}, the rows to choose from. Received: {k!r}.")
    index = NearestNeighbors(n_neighbors=k).fit(X)
    if X_new is not None:
        return np.asarray(index.kneighbors(X_new, return_distance=False))
    if of is None:
        return np.asarray(index.kneighbors(return_distance=False))
    found = index.kneighbors(X[of], k + 1, return_distance=False)
    own = found == of[:, None]
    own[~own.any(axis=1), -1] = True  # duplicates have crowded it out
    return found[~own].reshape(len(of), k)


def recall(true: Indices, found: Indices, ks: Any = None) -> FloatArray:
    """Share of each row's k nearest that are among the k found: [n], or [n, len(ks)]."""
    width = true.shape[1]
    shares = np.empty((len(true), 1 if ks is None else len(ks)))
    step = max(1, _BLOCK // width**2)
    for start in range(0, len(true), step):
        part = slice(start, start + step)
        same = true[part, :, None] == found[part, None, :]  # [b, K, K]
        for column, k in enumerate((width,) if ks is None else ks):
            shares[part, column] = same[:, :k, :k].sum(axis=(1, 2)) / k
    return shares[:, 0] if ks is None else shares


def ranks(X: Any, of: Indices, candidates: Indices) -> Indices:
    """How many rows are nearer than each candidate, and one: int64 [n, m], 1 for the nearest."""
    return nearest_and_ranks(X, of, 0, candidates)[1]


def nearest_and_ranks(X: Any, of: Indices, k: int, candidates: Indices) -> tuple[Indices, Indices]:
    """Find the k nearest rows [n, k] and the ranks of candidates [n, m] in one pass over X."""
    near = np.empty((len(of), k), np.int64)
    found = np.empty(candidates.shape, np.int64)
    for start, D2 in _distances(X, of):
        for i, row in enumerate(D2, start):
            # One comparison after the other: each stays within the processor's cache.
            found[i] = [1 + np.count_nonzero(row < row[j]) for j in candidates[i]]
            if k:
                part = np.argpartition(row, k - 1)[:k]
                near[i] = part[np.argsort(row[part], kind="stable")]
    return near, found


def _distances(X: Any, of: Indices) -> Iterator[tuple[int, FloatArray]]:
    """Squared distances [b, N] of blocks of rows, each infinite from itself; and each's start."""
    n, features = X.shape
    few = features <= _FEW and not scipy.sparse.issparse(X)
    fill = _squared_differences if few else _expanded
    center = 0.0 if scipy.sparse.issparse(X) else X.mean(axis=0, dtype=np.float64)
    step = max(1, _BLOCK // n)
    for start in range(0, len(of), step):
        block = of[start : start + step]
        D2 = np.empty((len(block), n))
        fill(X, block, center, D2)
        D2[np.arange(len(block)), block] = np.inf
        yield start, D2


def _squared_differences(X: Any, block: Indices, center: Any, D2: FloatArray) -> None:
    D2[:] = 0.0
    for column in np.asarray(X, np.float64).T:
        D2 += np.square(column[block, None] - column)


def _expanded(X: Any, block: Indices, center: Any, D2: FloatArray) -> None:
    """‖x‖² + ‖z‖² - 2 x·z of rows moved to their centre, part by part of X: no copy of all."""
    n, features = X.shape
    A, squares = _double(X[block], center)
    step = n if scipy.sparse.issparse(X) else max(1, _PART // features)
    for start in range(0, n, step):
        part = slice(start, start + step)
        B, squares_part = _double(X[part], center)
        product = A @ B.T
        D2[:, part] = product.toarray() if scipy.sparse.issparse(product) else product
        D2[:, part] *= -2.0
        D2[:, part] += squares[:, None] + squares_part
    np.maximum(D2, 0.0, out=D2)


def _double(X: Any, center: Any) -> tuple[Any, FloatArray]:
    if scipy.sparse.issparse(X):
        X = X.astype(np.float64)
        return X, np.asarray(X.multiply(X).sum(axis=1)).ravel()
    X = X - center
    return X, np.einsum("ij,ij->i", X, X)
