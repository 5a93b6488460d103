"""Rows of arrays, memory maps and sparse matrices, one dense block at a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.preprocessing import normalize

from ptsne_keras.typing import FloatArray

# Largest number of values in a block.
_NUMBERS = 1 << 23


def row_blocks(
    X: Any, *, rows: int = _NUMBERS, numbers: int = _NUMBERS, dtype: Any = np.float32
) -> Iterator[FloatArray]:
    """Yield X [N, D] in order as dense blocks; dtype=None keeps the type of X."""
    for part in row_slices(X.shape[0], block_size(X.shape[1], rows=rows, numbers=numbers)):
        yield np.asarray(dense(X[part]), dtype=dtype)


def row_slices(n: int, rows: int) -> Iterator[slice]:
    """Yield slices that divide n rows into blocks of at most `rows` rows."""
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


def block_size(features: int, *, rows: int = _NUMBERS, numbers: int = _NUMBERS) -> int:
    """Return the number of rows in a block: at most `rows`, and at most `numbers` values."""
    return max(1, min(rows, numbers // max(1, features)))


def dense(X: Any) -> Any:
    """Return rows as a NumPy array, whether they are sparse or not."""
    return X.toarray() if scipy.sparse.issparse(X) else np.asarray(X)


def rows_at(X: Any, indices: Any) -> Any:
    """Return the rows with these indices as a dense array."""
    return dense(X.tocsr()[indices] if scipy.sparse.issparse(X) else X[indices])


def unit_rows(X: Any, metric: str) -> Any:
    """Return rows whose Euclidean distances order as the metric does, as the encoder makes them."""
    if metric == "euclidean":
        return X
    if scipy.sparse.issparse(X):
        if metric == "correlation":
            raise ValueError('X should be dense with metric="correlation". Received: sparse rows.')
        return normalize(X)
    rows = np.empty(X.shape, np.float32)
    for part in row_slices(len(rows), block_size(X.shape[1])):
        block = np.asarray(X[part], dtype=np.float64)
        if metric == "correlation":
            block = block - block.mean(axis=1, keepdims=True)
        length = np.linalg.norm(block, axis=1, keepdims=True)
        size = 1.0 if metric == "cosine" else np.sqrt(X.shape[1])  # that of keras's layers
        rows[part] = size * np.divide(block, length, out=np.zeros_like(block), where=length > 0)
    return rows


def without_self(found: Any, rows: Any) -> Any:
    """Return neighbours [n, k] of k + 1, without the index of each row itself."""
    own = found == np.asarray(rows)[:, None]
    own[~own.any(axis=1), -1] = True  # duplicates have displaced it: drop the farthest
    return found[~own].reshape(len(found), -1)
