"""Signatures of an export: `features` float32 [N, D] → `embedding` float32 [N, d], and more."""

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from ptsne_keras import networks
from ptsne_keras.typing import FloatArray

SERVING, EXAMPLES, FAST = "serving_default", "embed_examples", "embed_fast"
NOVELTY, INVERSE = "embed_with_novelty", "inverse"

Endpoint: TypeAlias = tuple[Callable[[tf.Tensor], dict[str, Any]], tf.TensorSpec]

# The answers to rows that are not finite.
_LOST = {"embedding": float("nan"), "novelty": 1.0, "features": float("nan")}
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


def embedding(model: keras.Model, name: str = "embedding") -> Callable[[Any], dict[str, Any]]:
    """Return the function [N, D] → {name: float32 [N, d]}."""

    def embed(features: Any) -> dict[str, Any]:
        # Mixed precision must not leak into the answer.
        return {name: keras.ops.cast(model(features, training=False), "float32")}

    return embed


def endpoints(
    encoder: keras.Model, judge: keras.Model | None = None, decoder: keras.Model | None = None
) -> dict[str, Endpoint]:
    """Return the functions to export by signature, each with the spec of its input.

    `judge` is the model whose placement tells novelty, the encoder itself or another; `decoder`
    goes from places back to rows.
    """
    features = feature_count(encoder)
    matrix = spec(features)
    strings = tf.TensorSpec((None,), tf.string, name="examples")
    parsed = {"features": tf.io.FixedLenFeature([features], tf.float32)}
    embed = _finite(embedding(encoder), features)

    def embed_examples(examples: tf.Tensor) -> dict[str, Any]:
        return embed(tf.io.parse_example(examples, parsed)["features"])

    found: dict[str, Endpoint] = {SERVING: (embed, matrix), EXAMPLES: (embed_examples, strings)}
    network = networks.network(encoder)
    if network is not None:
        found[FAST] = (_finite(embedding(network), features), matrix)
    if judge is not None:
        found[NOVELTY] = (_finite(_with_novelty(encoder, judge), features), matrix)
    if decoder is not None:
        d = feature_count(decoder)
        places = tf.TensorSpec((None, d), tf.float32, name="embedding")
        found[INVERSE] = (_finite(embedding(decoder, "features"), d), places)
    return found


def _finite(
    answer: Callable[[Any], dict[str, Any]], features: int
) -> Callable[..., dict[str, Any]]:
    """Return the function with the answers of `_LOST` for rows that are not finite."""

    def checked(rows: tf.Tensor) -> dict[str, Any]:
        # Servers do not check the shape of a request, and one column would be broadcast to all.
        rows = tf.ensure_shape(rows, [None, features])
        # ReLU turns NaN into 0, and so into a place on the map. Raising an error instead would
        # fail all requests that the server has put into the same batch.
        finite = tf.reduce_all(tf.math.is_finite(rows), axis=1)
        return {
            name: tf.where(finite if name == "novelty" else finite[:, None], value, _LOST[name])
            for name, value in answer(rows).items()
        }

    return checked


def _with_novelty(encoder: keras.Model, judge: keras.Model) -> Callable[[Any], dict[str, Any]]:
    """Return the function that gives the novelty of rows beside their places, by one search."""
    front, layer, network = networks.front(judge), judge.layers[-1], networks.network(encoder)
    embed = embedding(encoder)

    def of_both(rows: tf.Tensor) -> dict[str, Any]:
        z, outside2 = front(rows)
        D2, near = layer.nearest(z)
        found = {"novelty": layer.novelty(D2, near, outside2)}
        if judge is not encoder:
            return found | embed(rows)
        start = None if network is None else network(rows, training=False)
        places = layer.among(D2, tf.gather(layer.places, near), start)
        finite = tf.reduce_all(tf.math.is_finite(z), axis=1, keepdims=True)
        return found | {"embedding": tf.where(finite, places, np.nan)}

    return of_both


def example(row: FloatArray) -> bytes:
    """Serialise one row [D] as the `tf.train.Example` that `embed_examples` takes."""
    values = tf.train.FloatList(value=np.asarray(row, np.float32).tolist())
    features = tf.train.Features(feature={"features": tf.train.Feature(float_list=values)})
    return tf.train.Example(features=features).SerializeToString()


def inputs(signature: str, rows: FloatArray) -> dict[str, tf.Tensor]:
    """Return rows [n, D], or places [n, d], as the inputs of a signature."""
    if signature == EXAMPLES:
        return {"examples": tf.constant([example(row) for row in rows])}
    name = "embedding" if signature == INVERSE else "features"
    return {name: tf.constant(rows, tf.float32)}


def normal_rows(encoder: keras.Model, n: int) -> FloatArray:
    """Return random rows [n, D] that are standard normal once the encoder has scaled them."""
    z = np.random.default_rng(0).normal(size=(n, feature_count(encoder)))
    edges = np.stack([np.zeros(z.shape[1]), np.ones(z.shape[1])]).astype(np.float32)
    low, high = np.asarray(_scaler(encoder)(edges), np.float64)
    slope = np.where(high == low, 1.0, high - low)
    with np.errstate(over="ignore"):
        rows = ((z - low) / slope).astype(np.float32)
    return np.nan_to_num(rows, posinf=0.0, neginf=0.0)


def _scaler(encoder: keras.Model) -> keras.Model:
    """Return a model of the encoder's first layers, as far as they scale each column by itself."""
    x = inputs = keras.Input(encoder.inputs[0].shape[1:], name="features")
    end = encoder.inputs[0]
    for layer in encoder.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        scales = isinstance(layer, keras.layers.Normalization | keras.layers.Rescaling)
        if not scales or layer.input is not end:
            break
        end, x = layer.output, layer(x)
    return keras.Model(inputs, keras.ops.cast(x, "float32"), name="scaler")
