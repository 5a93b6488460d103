"""The encoder that a fit starts from: how it scales the rows, copies of it, its fixed part."""

import copy
import itertools
import json
import math
import warnings
from typing import Any

import keras
import numpy as np
from sklearn.utils.validation import check_is_fitted

from ptsne_keras import networks
from ptsne_keras.networks.encoder import metric_of, of_metric
from ptsne_keras.typing import FloatArray, Scaling, Units
from ptsne_keras.utils import arrays, pca

# The rows mapped at a time: 130 MB a layer of 2,000 units.
_BLOCK = 1 << 14
# Keeps the least squares of the last layer solvable, relative to the mean square of its inputs.
_RIDGE = 1e-6


def copied(encoder: keras.Model, kind: str = "encoder") -> keras.Model:
    """Return a copy that is not compiled, or raise if Keras cannot copy the encoder."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its loss and optimizer, which are left out
            model = copy.deepcopy(encoder)
    except TypeError as error:  # Keras copies a model by its configuration
        raise ValueError(
            f"{kind} should be one that Keras can copy: functional, Sequential, or of a class "
            "registered by keras.saving.register_keras_serializable. "
            f"Received: {encoder.name!r} of {type(encoder).__name__}."
        ) from error
    for part in model._flatten_layers():
        if isinstance(part, keras.Model):
            part.compiled = False  # or it would be saved with a loss that may not load
    return model


def free_name(model: keras.Model, name: str) -> str:
    """Return a name for a layer to add, which a layer of the user's own may have."""
    taken = {layer.name for layer in model.layers}
    return next(n for i in itertools.count() if (n := f"{name}_{i}" if i else name) not in taken)


def own(encoder: keras.Model, features: int, d: int, why: str, metric: str) -> keras.Model:
    """Return a copy of the user's encoder that takes rows, so that every fit starts alike."""
    built = networks.from_rows(encoder, features)  # checks it, and builds it if need be
    if built.output_shape[-1] != d:
        raise ValueError(
            f"encoder should give {why}, [B, {d}]. "
            f"Received: [B, {built.output_shape[-1]}] from {encoder.name!r}."
        )
    check_savable(encoder)
    found = networks.from_rows(copied(encoder), features)
    if metric == "euclidean":
        return found
    rows = keras.Input((features,), name="features")
    return keras.Model(rows, found(of_metric(rows, metric)), name="encoder")


def check_savable(model: keras.Model, kind: str = "encoder") -> None:
    """Raise unless Keras can load each layer in safe mode, before hours of training."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            check_savable(layer, kind)
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Keras warns of what is refused here
                config = json.dumps(keras.saving.serialize_keras_object(layer))
                keras.saving.deserialize_keras_object(json.loads(config), safe_mode=True)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{kind} should consist of layers that a saved model can be loaded with: classes "
                "and functions registered by keras.saving.register_keras_serializable, and no "
                f"lambda. Received: layer {layer.name!r} of {type(layer).__name__}."
            ) from error


def mapped(network: keras.Model, X: Any) -> FloatArray:
    """Return the map coordinates that a network gives rows."""
    blocks = arrays.row_blocks(X, rows=arrays.block_size(network.output_shape[-1], rows=_BLOCK))
    # float32 under whatever policy the user's own encoder was built.
    return np.concatenate([np.asarray(network(x, training=False), np.float32) for x in blocks])


def aligned(network: keras.Model, X: Any, Y: FloatArray) -> keras.Model:
    """Return the network with its last layer solved by least squares for the places Y of X.

    The rows have moved since it was trained: it should answer in the coordinates of their new map.
    """
    last = network.layers[-1]
    solvable = (
        type(last) is keras.layers.Dense
        and last.activation is keras.activations.linear
        and last.trainable
        and len(last.weights) == 2
        and last.output is network.outputs[0]  # of its first call, which is then its only one
    )
    if not solvable:
        last = keras.layers.Dense(Y.shape[1], dtype="float32", name=free_name(network, "alignment"))
        network = keras.Model(network.inputs[0], last(network.outputs[0]), name=network.name)
    hidden = keras.Model(network.inputs[0], last.input)
    mean = Y.mean(axis=0, dtype=np.float64)
    gram, moments, count = np.zeros((1, 1)), np.zeros((1, 1)), 0
    for part in arrays.row_blocks(X, rows=_BLOCK):
        H = np.asarray(hidden(part, training=False), np.float64)
        H = np.column_stack([H, np.ones(len(H))])
        gram, moments = gram + H.T @ H, moments + H.T @ (Y[count : count + len(H)] - mean)
        count += len(H)
    ridge = _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    solved = np.linalg.solve(gram + ridge, moments)  # [m + 1, d]
    last.set_weights([solved[:-1], solved[-1] + mean])
    return network


def projection(network: keras.Model) -> pca.Projection:
    """Return the principal components that the fixed first layers of a network compute."""
    shift, scale, last = (network.get_layer(name) for name in ("shift", "scale", "projection"))
    factor = float(np.ravel(scale.scale)[0])
    offset = np.asarray(shift.offset, np.float32)
    return pca.Projection(-offset, 1 / factor, np.asarray(last.kernel))


def start_of(init: Any, settings: Any, features: int) -> keras.Model:
    """Return the network of another fit, or raise unless a fit can start from it."""
    check_is_fitted(init)
    network = init.network_
    names = [layer.name for layer in network.layers]
    found = {
        "columns": network.input_shape[-1],
        "n_components": network.output_shape[-1],
        "metric": metric_of(network),
        "initial_dims": network.get_layer("projection").units if "projection" in names else None,
    }
    wanted = {name: getattr(settings, name) for name in found if name != "columns"}
    wanted["columns"] = features
    for name, value in found.items():
        if value != wanted[name]:
            raise ValueError(
                f"init should be a fit with the same {name}, {wanted[name]!r}. Received: {value!r}."
            )
    return network


def projected(encoder: keras.Model, X: Any) -> FloatArray:
    """Return the rows as the fixed first layers hand them to the trained ones."""
    return mapped(keras.Model(encoder.input, encoder.get_layer("projection").output), X)


def column_scaling(X: FloatArray, scaling: str) -> tuple[Units, Scaling | None]:
    """Return the units that suit rows scaled so, and (shift, scale), or None to leave them."""
    low, high = float(X.min()), float(X.max())
    if scaling == "auto":
        pixels = low >= 0 and (high <= 1 or (high <= 255 and bool((np.rint(X) == X).all())))
        scaling = "unit" if pixels else "standard"
    if scaling == "unit":
        inside = low >= 0 and high <= 1
        return "bernoulli", None if inside else (low, (high - low) or 1.0)
    # One scale for all columns: if a nearly constant column were divided by its own deviation, a
    # new row with an ordinary value there could land anywhere.
    mean = X.mean(axis=0, dtype=np.float64)
    squares = sum(float(np.square(part - mean).sum()) for part in arrays.row_blocks(X))
    return "gaussian", (mean.astype(np.float32), math.sqrt(squares / X.size) or 1.0)
