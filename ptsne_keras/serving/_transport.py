"""What REST and gRPC share: the kinds of rows, failures, descriptions of signatures."""

from collections.abc import Sequence
from typing import Any, TypeAlias

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
