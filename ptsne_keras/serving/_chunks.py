"""Rows cut into requests of a size that servers take."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import validation

# Of a request: gRPC servers read 4 MB unless told otherwise, and JSON takes three times the bytes.
# Rows of a request, at most, unless a client says otherwise.
ROWS = 4096
BYTES = 2 * 2**20


def features(X: Any, count: int) -> Iterator[FloatArray]:
    """Cut X [N, D] into float32 chunks of at most `count` rows, after a look at all of them."""
    X = X.tocsr() if scipy.sparse.issparse(X) else np.asanyarray(X)
    if X.ndim == 2 and X.shape[0] == 0:
        return iter(())
    validation.check_shape(X)
    step = min(count, max(1, BYTES // (4 * X.shape[1])))
    starts = range(0, X.shape[0], step)
    for start in starts:
        _chunk(X, start, step)
    return (_chunk(X, start, step) for start in starts)


def examples(given: Any, count: int) -> Iterator[Sequence[bytes]]:
    """Cut serialised examples into chunks of at most `count`, and of 2 MB unless one has more."""
    single = isinstance(given, str | bytes) or not isinstance(given, Iterable)
    values = [] if single else list(given)  # a generator is used up by looking at it
    wrong = [value for value in values if not isinstance(value, bytes)]
    if single or wrong:
        received = type(wrong[0] if wrong else given).__name__
        raise ValueError(
            "examples should be a sequence of bytes, each as Example.SerializeToString() makes "
            f"them. Received: {'one with a ' if wrong else ''}{received}."
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


def _chunk(X: Any, start: int, step: int) -> FloatArray:
    part = X[start : start + step]
    part = validation.check_rows(
        part.toarray() if scipy.sparse.issparse(part) else part, start=start
    )
    with np.errstate(over="ignore"):
        single = part.astype(np.float32, copy=False)
    beyond = np.flatnonzero(~np.isfinite(single).all(axis=1))
    if beyond.size:
        raise ValueError(
            "X should fit in float32, which ends at 3.4e38. "
            f"Received: a larger number in the row at index {start + beyond[0]}."
        )
    return single
