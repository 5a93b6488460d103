"""Rows that batches are drawn from by index: arrays, memory-mapped files, sparse matrices."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import tensorflow as tf

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays
from ptsne_keras.utils.validation import check_rows, check_shape

# Largest number of values read at a time while rows are checked.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Source:
    """Rows that batches are drawn from."""

    count: int
    take: Callable[[tf.Tensor], tf.Tensor]  # the rows with these indices, as a graph op
    blocks: Callable[[], Iterator[FloatArray]]


def source(X: Any) -> Source:
    """Return a source of the rows of an array, a `np.memmap` or a sparse matrix [N, D]."""
    if scipy.sparse.issparse(X):
        X = X.tocsr()
    elif not isinstance(X, np.memmap):
        X = check_rows(X)
        constant = tf.constant(X)
        return Source(len(X), lambda i: tf.gather(constant, i), lambda: _blocks(X))
    check_shape(X)
    n, features = X.shape
    dtype = check_rows(arrays.dense(X[:1])).dtype
    for _ in _blocks(X):  # raises an error if they are not finite
        pass

    def read(i: Any) -> FloatArray:
        return arrays.dense(X[i]).astype(dtype, copy=False)

    def take(i: tf.Tensor) -> tf.Tensor:
        x = tf.numpy_function(read, [i], dtype, stateful=False)
        return tf.ensure_shape(x, [None, features])

    return Source(n, take, lambda: _blocks(X))


def _blocks(X: Any) -> Iterator[FloatArray]:
    start = 0
    for block in arrays.row_blocks(X, numbers=_BLOCK, dtype=None):
        yield check_rows(block, start=start)
        start += len(block)
