"""Rows of arrays, memory maps and sparse matrices, one dense block at a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse

from ptsne_keras.typing import FloatArray

# Numbers in the largest block.
_NUMBERS = 1 << 23


def row_blocks(X: Any, *, rows: int = _NUMBERS, numbers: int = _NUMBERS) -> Iterator[FloatArray]:
    """Yield the rows of X [N, D] in order, as dense float32 blocks of at most `rows` rows."""
    step = block_size(X.shape[1], rows=rows, numbers=numbers)
    for start in range(0, X.shape[0], step):
        yield np.asarray(dense(X[start : start + step]), dtype=np.float32)


def block_size(features: int, *, rows: int = _NUMBERS, numbers: int = _NUMBERS) -> int:
    """Return how many rows of so many columns a block holds."""
    return max(1, min(rows, numbers // max(1, features)))


def dense(X: Any) -> Any:
    """Return rows as a NumPy array, whether they are sparse or not."""
    return X.toarray() if scipy.sparse.issparse(X) else np.asarray(X)


def rows_at(X: Any, indices: Any) -> Any:
    """Return the rows with these indices as a dense array."""
    return dense(X.tocsr()[indices] if scipy.sparse.issparse(X) else X[indices])
