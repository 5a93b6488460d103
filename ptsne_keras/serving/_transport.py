"""What `Client` needs of REST or gRPC, and how a request fails over either."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import tensorflow as tf

from ptsne_keras.typing import FloatArray

Rows: TypeAlias = FloatArray | Sequence[bytes]
"""What is sent: features float32 [N, D], or N serialised `tf.train.Example`."""

Signatures: TypeAlias = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""Signature → "inputs" or "outputs" → name → {"dtype": str, "shape": list}."""


class Failure(Exception):
    """A request that failed, with a gRPC code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = " ".join(message.split())


class Transport(Protocol):
    """A connection; each call is one request of at most `timeout` seconds, or a Failure."""

    def predict(
        self, signature: str, name: str, rows: Rows, outputs: Sequence[str], timeout: float
    ) -> dict[str, FloatArray]:
        """Send rows as the signature's input `name`; return those outputs that are answered."""

    def metadata(self, timeout: float) -> dict[str, Any]:
        """Fetch the signature definitions, in protobuf's JSON form."""

    def states(self, timeout: float) -> list[str]:
        """Fetch the states of the model's versions, such as "AVAILABLE"."""

    def close(self) -> None:
        """Close the connection."""


def too_slow(timeout: float) -> Failure:
    """Return the failure of a request that was not answered in time."""
    return Failure("DEADLINE_EXCEEDED", f"no answer within {timeout:.3g} s")


def signatures(definitions: dict[str, Any]) -> Signatures:
    """Describe signatures by the JSON form of their definitions."""
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
