"""Rows in blocks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse

from ptsne_keras.typing import FloatArray

# Numbers of dense rows held at a time.
_BLOCK = 1 << 23


def dense_blocks(X: Any, *, rows: int = _BLOCK) -> Iterator[FloatArray]:
    """Yield the rows of an array or sparse matrix [N, D] in order, as dense float32 blocks.

    A block has at most `rows` rows, and fewer where they are wide.

    Examples
    --------
    >>> [len(part) for part in dense_blocks(scipy.sparse.csr_matrix(X))]
    [200]
    """
    step = max(1, min(rows, _BLOCK // X.shape[1]))
    for start in range(0, X.shape[0], step):
        part = X[start : start + step]
        part = part.toarray() if scipy.sparse.issparse(part) else part
        yield np.asarray(part, dtype=np.float32)
