"""The SavedModel itself: signatures, what lies beside them, written into one folder."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from ptsne_keras.serving import _precision, signatures, warmup
from ptsne_keras.serving._novelty import Novelty
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils.novelty import Landmarks, scaler

FACTS = Path("assets.extra") / "ptsne_keras.json"
"""Where in the folder it is told what no server needs."""
SERVING, EXAMPLES, NOVELTY = "serving_default", "embed_examples", "embed_with_novelty"

# Batches of the warm-up: a single row, and one of many, for which other code may be chosen.
_WARM = (1, 64)


class Reference(NamedTuple):
    """What is told of the training rows."""

    landmarks: Landmarks
    sample: FloatArray
    """Raw rows [n, D], to measure the map error by and to warm up with."""


def write(
    encoder: keras.Model,
    path: Path,
    *,
    model: str,
    reference: Reference | None,
    bfloat16: bool,
    facts: Mapping[str, Any],
) -> None:
    """Write the SavedModel of an encoder, on TensorFlow."""
    served, facts = encoder, dict(facts)
    if bfloat16:
        assert reference is not None
        served = _precision.bfloat16(encoder)
        error = _precision.map_error(encoder, served, reference.sample)
        facts |= {"precision": "bfloat16", "map_error": error}
    archive = keras.export.ExportArchive()
    # No track(): it writes every weight a second time, and a server then holds both.
    endpoints = _endpoints(served, None if reference is None else reference.landmarks)
    for name, (function, spec) in endpoints.items():
        archive.add_endpoint(name, function, input_signature=[spec])
    archive.write_out(str(path), verbose=False)
    rows = _rows(encoder) if reference is None else reference.sample[: max(_WARM)]
    warmup.write(
        path, model, [(name, _request(name, rows[:n])) for name in endpoints for n in _WARM]
    )
    if facts:
        (path / FACTS).write_text(json.dumps(facts))


def _endpoints(
    encoder: keras.Model, landmarks: Landmarks | None
) -> dict[str, tuple[Callable[[tf.Tensor], dict[str, Any]], tf.TensorSpec]]:
    """Functions by signature, each with the tensor that it takes."""
    features = int(encoder.inputs[0].shape[1])
    matrix, plain = signatures.spec(features), signatures.embedding(encoder)
    strings = tf.TensorSpec((None,), tf.string, name="examples")
    spec = {"features": tf.io.FixedLenFeature([features], tf.float32)}

    def embed(rows: tf.Tensor) -> dict[str, Any]:
        # One column would be broadcast to all: a server does not look at a request's shape.
        rows = tf.ensure_shape(rows, [None, features])
        Y = plain(rows)["embedding"]
        # ReLU makes a 0 of NaN, and a place on the map of it. No error: with batching on, it would
        # be that of all clients whose rows are in the same batch.
        finite = tf.reduce_all(tf.math.is_finite(rows), axis=1, keepdims=True)
        return {"embedding": tf.where(finite, Y, float("nan"))}

    def embed_examples(examples: tf.Tensor) -> dict[str, Any]:
        return embed(tf.io.parse_example(examples, spec)["features"])

    endpoints = {SERVING: (embed, matrix), EXAMPLES: (embed_examples, strings)}
    if landmarks is not None:
        novelty = Novelty(landmarks, encoder)

        def embed_with_novelty(rows: tf.Tensor) -> dict[str, Any]:
            return embed(rows) | {"novelty": novelty(rows)}

        endpoints[NOVELTY] = (embed_with_novelty, matrix)
    return endpoints


def example(row: FloatArray) -> bytes:
    """Serialise one row [D] as the `tf.train.Example` that `embed_examples` takes."""
    values = tf.train.FloatList(value=np.asarray(row, np.float32).tolist())
    features = tf.train.Features(feature={"features": tf.train.Feature(float_list=values)})
    return tf.train.Example(features=features).SerializeToString()


def _request(name: str, rows: FloatArray) -> dict[str, tf.Tensor]:
    if name == EXAMPLES:
        return {"examples": tf.constant([example(row) for row in rows])}
    return {"features": tf.constant(rows, tf.float32)}


def _rows(encoder: keras.Model) -> FloatArray:
    """Rows of ordinary size: where the encoder's first layers bring them, they are normal."""
    z = np.random.default_rng(0).normal(size=(max(_WARM), encoder.inputs[0].shape[1]))
    edges = scaler(encoder)(np.stack([np.zeros(z.shape[1]), np.ones(z.shape[1])]).astype("float32"))
    low, high = np.asarray(edges, np.float64)
    slope = np.where(high == low, 1.0, high - low)
    with np.errstate(over="ignore"):
        rows = ((z - low) / slope).astype(np.float32)
    return np.nan_to_num(rows, posinf=0.0, neginf=0.0)
