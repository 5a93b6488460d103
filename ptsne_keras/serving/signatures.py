"""Signatures of an export: `features` float32 [N, D] → `embedding` float32 [N, d], and more."""

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import novelty
from ptsne_keras.utils.novelty import Landmarks

SERVING, EXAMPLES, NOVELTY = "serving_default", "embed_examples", "embed_with_novelty"

Endpoint: TypeAlias = tuple[Callable[[tf.Tensor], dict[str, Any]], tf.TensorSpec]

# Scope names that TensorFlow accepts.
_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")


def feature_count(encoder: keras.Model) -> int:
    """Return D of an encoder, or raise unless it has one input [N, D] and one output [N, d]."""
    # Subclassed and unbuilt models have no symbolic tensors.
    sides = (getattr(encoder, side, None) or [] for side in ("inputs", "outputs"))
    shapes = [tuple(tensor.shape) for side in sides for tensor in side]
    if len(shapes) != 2 or any(len(shape) != 2 or shape[1] is None for shape in shapes):
        raise ValueError(
            "encoder should be a built Functional or Sequential model with one input [N, D] and "
            f"one output [N, d]. Received: inputs and outputs of shapes {shapes}."
        )
    if not _SCOPE.fullmatch(encoder.name):
        raise ValueError(
            "encoder should have a name that TensorFlow accepts, of letters, digits, _ . / and -; "
            f"build it with another. Received: {encoder.name!r}."
        )
    return int(shapes[0][1])


def spec(features: int) -> tf.TensorSpec:
    """Return the spec of any number of rows of D columns."""
    return tf.TensorSpec((None, features), tf.float32, name="features")


def embedding(encoder: keras.Model) -> Callable[[Any], dict[str, Any]]:
    """Return the function [N, D] → {"embedding": float32 [N, d]}."""

    def embed(features: Any) -> dict[str, Any]:
        # Mixed precision must not leak into the answer.
        return {"embedding": keras.ops.cast(encoder(features, training=False), "float32")}

    return embed


def endpoints(encoder: keras.Model, landmarks: Landmarks | None) -> dict[str, Endpoint]:
    """Return the functions to export by signature, each with the spec of its input."""
    features = feature_count(encoder)
    matrix, plain = spec(features), embedding(encoder)
    strings = tf.TensorSpec((None,), tf.string, name="examples")
    parsed = {"features": tf.io.FixedLenFeature([features], tf.float32)}

    def embed(rows: tf.Tensor) -> dict[str, Any]:
        # Servers do not check the shape of a request, and one column would be broadcast to all.
        rows = tf.ensure_shape(rows, [None, features])
        Y = plain(rows)["embedding"]
        # ReLU turns NaN into 0, and so into a place on the map. Raising an error instead would
        # fail all requests that the server has put into the same batch.
        finite = tf.reduce_all(tf.math.is_finite(rows), axis=1, keepdims=True)
        return {"embedding": tf.where(finite, Y, float("nan"))}

    def embed_examples(examples: tf.Tensor) -> dict[str, Any]:
        return embed(tf.io.parse_example(examples, parsed)["features"])

    found = {SERVING: (embed, matrix), EXAMPLES: (embed_examples, strings)}
    if landmarks is not None:
        scale = novelty.scale_of(encoder)
        # Variables, which are written once; constants would be a part of each graph.
        known = [tf.Variable(array, trainable=False) for array in landmarks.tensors()]

        def embed_with_novelty(rows: tf.Tensor) -> dict[str, Any]:
            return embed(rows) | {"novelty": novelty.novelty(scale(rows), *known)}

        found[NOVELTY] = (embed_with_novelty, matrix)
    return found


def example(row: FloatArray) -> bytes:
    """Serialise one row [D] as the `tf.train.Example` that `embed_examples` takes."""
    values = tf.train.FloatList(value=np.asarray(row, np.float32).tolist())
    features = tf.train.Features(feature={"features": tf.train.Feature(float_list=values)})
    return tf.train.Example(features=features).SerializeToString()


def inputs(signature: str, rows: FloatArray) -> dict[str, tf.Tensor]:
    """Return rows [n, D] as the inputs of a signature."""
    if signature == EXAMPLES:
        return {"examples": tf.constant([example(row) for row in rows])}
    return {"features": tf.constant(rows, tf.float32)}


def normal_rows(encoder: keras.Model, n: int) -> FloatArray:
    """Return random rows [n, D] that are standard normal once the encoder has scaled them."""
    z = np.random.default_rng(0).normal(size=(n, feature_count(encoder)))
    edges = np.stack([np.zeros(z.shape[1]), np.ones(z.shape[1])]).astype(np.float32)
    low, high = np.asarray(novelty.scale_of(encoder)(edges), np.float64)
    slope = np.where(high == low, 1.0, high - low)
    with np.errstate(over="ignore"):
        rows = ((z - low) / slope).astype(np.float32)
    return np.nan_to_num(rows, posinf=0.0, neginf=0.0)
