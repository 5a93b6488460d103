"""What REST and gRPC share: rows cut into requests, failures, descriptions of signatures."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import SplitResult

import numpy as np
import scipy.sparse
import tensorflow as tf

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays, validation

# The most rows in a request, by default, and the most bytes of features: by default gRPC servers
# accept 4 MB, and JSON takes three times the bytes.
ROWS = 4096
BYTES = 2 * 2**20
# The most characters of a server's text in an error.
_TEXT = 800

Rows: TypeAlias = FloatArray | Sequence[bytes]
"""What is sent: features float32 [N, D], or N serialised `tf.train.Example`."""

Signatures: TypeAlias = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""Signature → "inputs" or "outputs" → name → {"dtype": str, "shape": list}."""


class Target(NamedTuple):
    """Whom to ask, and how."""

    url: SplitResult
    model: str
    choice: Mapping[str, Any]  # of a version or label
    headers: Mapping[str, str]
    credentials: Any
    max_answer_bytes: int


class Signature(NamedTuple):
    """A signature's name, the name of its input, and the ranks of its outputs."""

    name: str
    input: str
    ranks: Mapping[str, int]


class Failure(Exception):
    """A request that failed, with a gRPC code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = printable(message, _TEXT)


def printable(text: str, most: int) -> str:
    """Return a server's text as one line without what a terminal would run."""
    line = " ".join(text[: 10 * most].split())[:most]
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in line)


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Fail with a code where an answer has another form, such as another kind of server's."""
    try:
        yield
    except Failure:
        raise
    except Exception as error:  # whatever JSON, protobuf and NumPy raise
        what = f"without {error}" if isinstance(error, KeyError) else f"of another form ({error})"
        raise Failure("UNKNOWN", f"an answer {what}, unlike TF Serving's") from None


def too_slow(timeout: float) -> Failure:
    """Return the failure of a request that was not answered in time."""
    return Failure("DEADLINE_EXCEEDED", f"no answer within {timeout:.3g} s")


def features(X: Any, count: int) -> Iterator[FloatArray]:
    """Cut X [N, D] into float32 chunks of at most `count` rows, once all rows are checked."""
    X = X.tocsr() if scipy.sparse.issparse(X) else np.asanyarray(X)
    if X.ndim == 2 and X.shape[0] == 0:
        return iter(())
    validation.check_shape(X)
    size = arrays.block_size(X.shape[1], rows=count, numbers=BYTES // 4)
    slices = list(arrays.row_slices(X.shape[0], size))

    def chunk(rows: slice) -> FloatArray:
        return validation.check_rows(arrays.dense(X[rows]), start=rows.start, dtype=np.float32)

    for rows in slices:
        chunk(rows)
    return map(chunk, slices)


def examples(given: Any, count: int) -> Iterator[Sequence[bytes]]:
    """Cut serialised examples into chunks of at most `count`, and of 2 MB unless one is larger."""
    single = isinstance(given, str | bytes) or not isinstance(given, Iterable)
    values = [] if single else list(given)
    wrong = [value for value in values if not isinstance(value, bytes)]
    if single or wrong:
        received = type(wrong[0] if wrong else given).__name__
        raise ValueError(
            "examples should be a sequence of bytes, each from Example.SerializeToString(). "
            f"Received: {'one with a ' if wrong else ''}{received}."
        )
    return _by_size(values, count)


def _by_size(values: Sequence[bytes], count: int) -> Iterator[Sequence[bytes]]:
    start = size = 0
    for end, value in enumerate(values):
        if end > start and (end - start == count or size + len(value) > BYTES):
            yield values[start:end]
            start, size = end, 0
        size += len(value)
    if values:
        yield values[start:]


@reading()
def signatures(answer: Any) -> Signatures:
    """Describe signatures by an answer about metadata."""
    definitions = answer["metadata"]["signature_def"]["signature_def"]
    return {
        name: {
            side: {key: _tensor(info) for key, info in definition.get(side, {}).items()}
            for side in ("inputs", "outputs")
        }
        for name, definition in definitions.items()
        if not name.startswith("__saved_model")  # TensorFlow's own, such as for initialising
    }


def _tensor(info: dict[str, Any]) -> dict[str, Any]:
    sizes = [int(dim.get("size", 0)) for dim in info.get("tensor_shape", {}).get("dim", [])]
    return {
        "dtype": tf.as_dtype(info["dtype"].removeprefix("DT_").lower()).name,
        "shape": [None if size < 0 else size for size in sizes],
    }
