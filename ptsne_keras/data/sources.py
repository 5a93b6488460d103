"""Where rows come from: arrays, memory-mapped files, sparse matrices, drawn by index."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import tensorflow as tf

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import validation

# Numbers looked at at a time, so that looking takes little memory.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Source:
    """Rows that batches are drawn from."""

    count: int
    take: Callable[[tf.Tensor], tf.Tensor]
    blocks: Callable[[], Iterator[FloatArray]]


def source(X: Any) -> Source:
    """Draw rows from an array, a `np.memmap` or a SciPy sparse matrix or array [N, D]."""
    if scipy.sparse.issparse(X):
        X = X.tocsr()
    elif not isinstance(X, np.memmap):
        X = validation.check_rows(X)
        constant = tf.constant(X)
        return Source(len(X), lambda i: tf.gather(constant, i), lambda: _blocks(X))
    validation.check_shape(X)
    n, features = X.shape
    dtype = validation.check_rows(_dense(X[:1])).dtype
    for _ in _blocks(X):  # raises where they are not finite
        pass

    def read(i: Any) -> FloatArray:
        return _dense(X[i]).astype(dtype, copy=False)

    def take(i: tf.Tensor) -> tf.Tensor:
        x = tf.numpy_function(read, [i], dtype, stateful=False)
        return tf.ensure_shape(x, [None, features])

    return Source(n, take, lambda: _blocks(X))


def _blocks(X: Any) -> Iterator[FloatArray]:
    step = max(1, _BLOCK // X.shape[1])
    for start in range(0, X.shape[0], step):
        yield validation.check_rows(_dense(X[start : start + step]), start=start)


def _dense(X: Any) -> FloatArray:
    return X.toarray() if scipy.sparse.issparse(X) else np.asarray(X)
