"""What every export takes and gives: `features` float32 [N, D] → `embedding` float32 [N, d]."""

import re
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

# What TensorFlow takes as the name of a scope.
_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")


def feature_count(encoder: keras.Model) -> int:
    """D of an encoder with one input [N, D] and one output [N, d]."""
    # A subclassed or unbuilt model has no symbolic tensors to tell its shapes.
    tensors = [
        *(getattr(encoder, "inputs", None) or []),
        *(getattr(encoder, "outputs", None) or []),
    ]
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(shapes) != 2 or any(len(shape) != 2 or shape[1] is None for shape in shapes):
        raise ValueError(
            "encoder should be a built Functional or Sequential model with one input [N, D] and "
            f"one output [N, d]. Received: inputs and outputs of shapes {shapes}."
        )
    if not _SCOPE.fullmatch(encoder.name):
        raise ValueError(
            "encoder should have a name of letters, digits, _ . / and -, which TensorFlow takes: "
            f"build it with another. Received: {encoder.name!r}."
        )
    return int(shapes[0][1])


def spec(features: int) -> tf.TensorSpec:
    """Rows of D numbers, any count of them."""
    return tf.TensorSpec((None, features), tf.float32, name="features")


def embedding(encoder: keras.Model) -> Callable[[Any], dict[str, Any]]:
    """Give the function that is exported: [N, D] → {"embedding": float32 [N, d]}."""

    def embed(features: Any) -> dict[str, Any]:
        # The name is what a client asks for; mixed precision must not leak into the answer.
        return {"embedding": keras.ops.cast(encoder(features, training=False), "float32")}

    return embed
