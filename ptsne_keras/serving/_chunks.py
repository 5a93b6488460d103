"""Rows cut into requests of a size that servers accept."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays, validation

# The most rows in a request, by default, and the most bytes of features: by default gRPC servers
# accept 4 MB, and JSON takes three times the bytes.
ROWS = 4096
BYTES = 2 * 2**20


def features(X: Any, count: int) -> Iterator[FloatArray]:
    """Cut X [N, D] into float32 chunks of at most `count` rows, once all rows are checked."""
    X = X.tocsr() if scipy.sparse.issparse(X) else np.asanyarray(X)
    if X.ndim == 2 and X.shape[0] == 0:
        return iter(())
    validation.check_shape(X)
    step = arrays.block_size(X.shape[1], rows=count, numbers=BYTES // 4)

    def chunk(start: int) -> FloatArray:
        part = arrays.dense(X[start : start + step])
        return validation.check_rows(part, start=start, dtype=np.float32)

    starts = range(0, X.shape[0], step)
    for start in starts:
        chunk(start)
    return map(chunk, starts)


def examples(given: Any, count: int) -> Iterator[Sequence[bytes]]:
    """Cut serialised examples into chunks of at most `count`, and of 2 MB unless one is larger."""
    single = isinstance(given, str | bytes) or not isinstance(given, Iterable)
    values = [] if single else list(given)  # checking would exhaust a generator
    wrong = [value for value in values if not isinstance(value, bytes)]
    if single or wrong:
        received = type(wrong[0] if wrong else given).__name__
        raise ValueError(
            "examples should be a sequence of bytes, each from Example.SerializeToString(). "
            f"Received: {'one with a ' if wrong else ''}{received}."
        )
    return _by_size(values, count)


def _by_size(values: Sequence[bytes], count: int) -> Iterator[Sequence[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for value in values:
        if chunk and (len(chunk) == count or size + len(value) > BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(value)
        size += len(value)
    if chunk:
        yield chunk
