"""An encoder in half precision, and how far rows then move on the map."""

from typing import Any

import keras
import numpy as np
from sklearn.neighbors import NearestNeighbors

from ptsne_keras import networks
from ptsne_keras.typing import FloatArray


def bfloat16(encoder: keras.Model) -> keras.Model:
    """Copy an encoder with all layers but the last in bfloat16; a reference stays as it is."""
    placed = isinstance(encoder.layers[-1], networks.Placement)
    network = networks.network(encoder) if placed else encoder
    layers = [] if network is None else _flat(network)
    learned = [layer for layer in layers if layer.weights and not _scales(layer)]
    changed = {id(layer) for layer in learned[:-1]}

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if id(layer) in changed:
            config["dtype"] = "bfloat16"
        return layer.__class__.from_config(config)

    if not changed:
        raise ValueError(
            "encoder should have a hidden layer with weights for precision='bfloat16'. Received: "
            f"{encoder.name!r}, without one."
        )
    try:
        smaller = keras.models.clone_model(encoder, clone_function=copy, recursive=True)
        smaller.set_weights(encoder.get_weights())
    except Exception as error:  # many kinds, depending on the layer
        raise ValueError(
            "encoder should have layers that Keras can copy and run in half precision for "
            f"precision='bfloat16'. Received: {encoder.name!r}; {str(error).splitlines()[0]}"
        ) from error
    return smaller


def map_error(encoder: keras.Model, smaller: keras.Model, X: FloatArray) -> dict[str, Any]:
    """Measure how far rows X [n, D] move, relative to the spread of the map."""
    if isinstance(encoder.layers[-1], networks.Placement):
        # Reference rows land on their places in any precision: rows halfway to another.
        near = NearestNeighbors(n_neighbors=2).fit(X).kneighbors(return_distance=False)
        X = 0.5 * (X + X[near[:, 1]])
    Y, moved = (m.predict(X, batch_size=1024, verbose=0) for m in (encoder, smaller))
    spread = np.sqrt(np.square(Y - Y.mean(axis=0)).sum(axis=1).mean()) or 1.0
    distance = np.linalg.norm(np.subtract(Y, moved, dtype=np.float64), axis=1) / spread
    rms = float(np.sqrt(np.square(distance).mean()))
    return {"rms": rms, "max": float(distance.max()), "rows": len(X)}


def _flat(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers in order, with those of nested models."""
    found = []
    for layer in model.layers:
        found += _flat(layer) if isinstance(layer, keras.Model) else [layer]
    return found


def _scales(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.Normalization)  # its weights: mean and variance
