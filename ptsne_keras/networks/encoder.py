"""Encoders: plain Keras models from raw rows to map coordinates."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from ptsne_keras.networks.rbm import RBM
from ptsne_keras.typing import FloatArray, Scaling

_HE_ACTIVATIONS = ("relu", "elu", "leaky_relu", "silu", "gelu")


def encoder(
    features: int,
    d: int = 2,
    *,
    hidden_units: Sequence[int] = (500, 500, 2000),
    activation: str = "sigmoid",
    scaling: Scaling | None = None,
    components: FloatArray | None = None,
    units: Scaling | None = None,
    metric: str = "euclidean",
    seed: int | None = None,
) -> keras.Model:
    """Return an untrained encoder, such as D-500-500-2000-d, with a linear float32 output.

    Parameters
    ----------
    features : int
        D, the number of columns.
    d : int, default=2
        Dimensions of the map.
    hidden_units : sequence of int, default=(500, 500, 2000)
        Width of each hidden layer.
    activation : str, default="sigmoid"
        Any Keras activation, for the hidden layers.
    scaling : tuple (shift, scale), default=None
        Numbers or arrays of shape (D,). The first layer then computes (x - shift) / scale, so that
        the encoder takes raw rows.
    components : ndarray of shape (D, m), default=None
        Weights of a fixed linear layer that follows, such as principal components.
    units : tuple (shift, scale), default=None
        Numbers or arrays of shape (d,). A fixed last layer then computes y · scale + shift.
    metric : {"euclidean", "cosine", "correlation"}, default="euclidean"
        The first layer scales rows to one length for "cosine", and centres each before that for
        "correlation", so that the squared Euclidean distances behind it are proportional to theirs.
    seed : int, default=None
        Seed of the initial weights.

    Returns
    -------
    keras.Model
        Input `features` [B, D], output [B, d]; made of standard layers only.

    Examples
    --------
    >>> encoder(784, 2, hidden_units=(256, 256, 256), activation="relu").count_params()
    333058

    References
    ----------
    van der Maaten (2009), section 4.1.
    """
    seeds = np.random.default_rng(seed).integers(2**31, size=len(hidden_units) + 1).tolist()
    he = activation in _HE_ACTIVATIONS
    initializer = keras.initializers.HeNormal if he else keras.initializers.GlorotUniform
    layers = [
        keras.layers.Dense(int(width), activation, kernel_initializer=initializer(layer_seed))
        for width, layer_seed in zip(hidden_units, seeds[:-1], strict=True)
    ]
    layers.append(_embedding(d, keras.initializers.GlorotUniform(seeds[-1])))
    return chain(features, layers, scaling, components, units, metric)


def unroll(
    rbms: Sequence[RBM], *, scaling: Scaling | None = None, metric: str = "euclidean"
) -> keras.Model:
    """Return the forward pass E[h | v] of a stack of RBMs as a plain Keras model (stage 2).

    Parameters
    ----------
    rbms : sequence of RBM
        A trained stack, lowest first. A Bernoulli layer becomes a sigmoid Dense layer, a Gaussian
        layer, such as the top one, a linear one.
    scaling, metric
        As in :func:`encoder`: what was done to the rows that the lowest RBM was trained on.

    Returns
    -------
    keras.Model
        Its outputs are exactly the hidden means of the stack.

    Raises
    ------
    ValueError
        If the stack is empty, an RBM is not built, or widths do not fit.

    Examples
    --------
    >>> model = unroll(stages.pretrain(X, (50, 2), epochs=1, top_epochs=1))
    >>> model(X).shape
    TensorShape([200, 2])

    References
    ----------
    van der Maaten (2009), section 3, figure 1.
    """
    if not rbms or not all(rbm.built for rbm in rbms):
        raise ValueError("rbms should be one or more trained RBMs. Received: none or untrained.")
    shapes = [rbm.kernel.shape for rbm in rbms]
    for (_, below), (above, _) in itertools.pairwise(shapes):
        if below != above:
            raise ValueError(
                "Each RBM should have as many visible units as the one below has hidden units. "
                f"Received: {below} hidden units under {above} visible ones."
            )
    activations = ["sigmoid" if rbm.hidden == "bernoulli" else "linear" for rbm in rbms]
    layers = [  # the RBMs' weights replace the zeros, which draw no seed
        keras.layers.Dense(rbm.units, activation, kernel_initializer="zeros")
        for rbm, activation in zip(rbms[:-1], activations[:-1], strict=True)
    ]
    layers.append(_embedding(rbms[-1].units, "zeros", activations[-1]))
    model = chain(shapes[0][0], layers, scaling, metric=metric)
    for layer, rbm in zip(layers, rbms, strict=True):
        layer.set_weights([np.asarray(rbm.kernel), np.asarray(rbm.hidden_bias)])
    return model


def from_rows(model: keras.Model, features: int) -> keras.Model:
    """Return a model that takes rows [B, D], for a model of images, sequences or several inputs.

    The columns go to the model's inputs in order (those of a dict by name, as Keras sorts them),
    each reshaped to what that input expects.

    Parameters
    ----------
    model : keras.Model
        Its inputs have D numbers in all; it is built if need be. A subclass of keras.Model takes
        rows.
    features : int
        D, the number of columns.

    Returns
    -------
    keras.Model
        The model itself if it takes rows already, else a model that contains it.

    Raises
    ------
    ValueError
        If the output is not [B, d], or the inputs do not take D numbers.

    Examples
    --------
    >>> layers = [keras.layers.Conv2D(8, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
    >>> model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    >>> from_rows(model, 64).input_shape
    (None, 64)
    """
    if not model.built:
        try:
            model(np.zeros((1, features), np.float32))
        except ValueError as error:
            raise ValueError(
                f"encoder should take rows of {features} numbers, or be built for what it takes: "
                f"begin with keras.Input. Received: {model.name!r}, not built."
            ) from error
    outputs = getattr(model, "outputs", None) or [None]
    if len(outputs) > 1:
        raise ValueError(
            f"encoder should have one output, map coordinates [B, d]. Received: {len(outputs)}."
        )
    inputs = getattr(model, "inputs", None)  # a subclass of keras.Model has none
    shapes = [tuple(x.shape[1:]) for x in inputs] if inputs else [(features,)]
    sizes = [math.prod(shape) if None not in shape else 0 for shape in shapes]
    if 0 in sizes or sum(sizes) != features:
        raise ValueError(
            f"encoder should take the {features} columns of X, in one or more inputs. "
            f"Received: inputs of shapes {shapes}."
        )
    if inputs and len(shapes) == 1 and len(shapes[0]) == 1:
        Y, whole = model.outputs[0], model
    else:
        rows = keras.Input((features,), name="features")
        ends = np.cumsum(sizes).tolist()
        parts = [
            keras.layers.Reshape(shape)(rows if size == features else rows[:, end - size : end])
            for end, size, shape in zip(ends, sizes, shapes, strict=True)
        ]
        single = isinstance(model, keras.Sequential) or not inputs
        Y = model(parts[0] if single else keras.tree.pack_sequence_as(model.input, parts))
        whole = keras.Model(rows, Y, name="encoder")
    if not hasattr(Y, "shape") or len(Y.shape) != 2 or Y.shape[1] is None:
        raise ValueError(f"encoder should give map coordinates [B, d]. Received: {Y}.")
    return whole


def head(model: keras.Model) -> keras.Model:
    """Return the part of an encoder between its fixed layers: projected rows [B, m] to [B, d].

    What the fixed first layers compute can be computed once; training the head trains the encoder,
    because they share their layers. A fixed last layer, `units`, is left out as well.

    Parameters
    ----------
    model : keras.Model
        From :func:`encoder` with `components`.

    Examples
    --------
    >>> model = encoder(64, 2, components=np.eye(64)[:, :10])
    >>> head(model).input_shape
    (None, 10)
    """
    projection = model.get_layer("projection")
    x = inputs = keras.Input((projection.units,), name="components")
    for layer in model.layers[model.layers.index(projection) + 1 :]:
        if layer.name != "units":
            x = layer(x)
    return keras.Model(inputs, x, name="head")


def of_metric(rows: Any, metric: str) -> Any:
    """Return symbolic rows whose Euclidean distances order as the metric does."""
    options = {"dtype": "float32", "name": "metric"}
    if metric == "cosine":
        return keras.layers.UnitNormalization(**options)(rows)
    if metric == "correlation":
        plain = {"center": False, "scale": False, "epsilon": 1e-30}
        return keras.layers.LayerNormalization(**plain, **options)(rows)
    return rows


def metric_of(model: keras.Model) -> str:
    """Return the metric of an encoder, by its first layer."""
    layer = next((layer for layer in model.layers if layer.name == "metric"), None)
    kinds = {
        keras.layers.UnitNormalization: "cosine",
        keras.layers.LayerNormalization: "correlation",
    }
    return kinds.get(type(layer), "euclidean")


def _embedding(d: int, initializer: Any, activation: str = "linear") -> keras.layers.Layer:
    """Return the layer of map coordinates."""
    # float32 whatever the policy: half precision has 3 digits, which is a grid on a map of ±80.
    return keras.layers.Dense(
        int(d), activation, kernel_initializer=initializer, dtype="float32", name="embedding"
    )


def chain(
    features: int,
    layers: Sequence[keras.layers.Layer],
    scaling: Scaling | None,
    components: FloatArray | None = None,
    units: Scaling | None = None,
    metric: str = "euclidean",
) -> keras.Model:
    """Return the model: metric → (x - shift) / scale → components → layers → y · scale + shift."""
    inputs = keras.Input((features,), name="features")
    x = of_metric(inputs, metric)
    if scaling is not None:
        shift, scale = scaling
        # Shift before scaling, and in float32 whatever the policy: one layer, x · factor + offset,
        # would lose digits of rows far from 0, and rounding rows at 1000 ± 1 to bfloat16 all.
        # Not Normalization, whose square of the scale over- or underflows for rows of 1e±20.
        offset = (-np.broadcast_to(np.float32(shift), (features,))).tolist()
        x = keras.layers.Rescaling(1.0, offset, dtype="float32", name="shift")(x)
        factor = (1.0 / np.float64(scale)).tolist()
        x = keras.layers.Rescaling(factor, dtype="float32", name="scale")(x)
    if components is not None:
        projection = keras.layers.Dense(
            components.shape[1],
            use_bias=False,
            kernel_initializer="zeros",  # replaced below; draws no seed
            trainable=False,
            dtype="float32",
            name="projection",
        )
        x = projection(x)
        projection.set_weights([components])
    for layer in layers:
        x = layer(x)
    if units is not None:
        shift, scale = (np.broadcast_to(np.float64(v), (x.shape[1],)).tolist() for v in units)
        x = keras.layers.Rescaling(scale, shift, dtype="float32", name="units")(x)
    return keras.Model(inputs, x, name="encoder")
