"""Encoders: plain Keras models from raw rows to map coordinates."""

import itertools
import math
from collections.abc import Sequence

import keras
import numpy as np

from ptsne_keras.networks.rbm import RBM
from ptsne_keras.typing import FloatArray, Scaling


def encoder(
    features: int,
    d: int = 2,
    *,
    hidden_units: Sequence[int] = (500, 500, 2000),
    activation: str = "sigmoid",
    scaling: Scaling | None = None,
    components: FloatArray | None = None,
    output: str = "linear",
    towers: bool = False,
    units: Scaling | None = None,
    seed: int | None = None,
) -> keras.Model:
    """Build an untrained encoder, such as D-500-500-2000-d, with a float32 output.

    Parameters
    ----------
    features : int
        D.
    d : int
        Map dimensions.
    hidden_units : sequence of int
        Width of each hidden layer.
    activation : str
        Of the hidden layers: any Keras activation.
    scaling : (shift [D] or float, scale [D] or float), optional
        The first layer computes (x - shift) / scale, so that the encoder takes raw rows.
    components : array [D, m], optional
        A fixed linear layer from D columns to m comes next, such as onto principal components.
    output : str
        Activation of the last layer; "sigmoid" keeps the map in the unit square.
    towers : bool
        Hidden layers of its own for each of the d coordinates.
    units : (shift [d] or float, scale [d] or float), optional
        A fixed last layer turns coordinates y into y · scale + shift.
    seed : int, optional
        Of the initial weights.

    Returns
    -------
    keras.Model
        Input `features` [B, D], output [B, d]; standard layers only.

    Examples
    --------
    >>> encoder(784, 2, hidden_units=(256, 256, 256), activation="relu").count_params()
    333058

    References
    ----------
    van der Maaten (2009), section 4.1.
    """
    names = [f"embedding_{k + 1}" for k in range(d)] if towers else ["embedding"]
    width = 1 if towers else int(d)
    seeds = np.random.default_rng(seed).integers(2**31, size=(len(names), len(hidden_units) + 1))
    stacks = [
        _stack(hidden_units, activation, width, output, name, own.tolist())
        for name, own in zip(names, seeds, strict=True)
    ]
    return _chain(features, stacks, scaling, components, units)


def _stack(
    hidden_units: Sequence[int],
    activation: str,
    d: int,
    output: str,
    name: str,
    seeds: list[int],
) -> list[keras.layers.Layer]:
    """Hidden layers and the one that gives d coordinates."""
    he = activation in ("relu", "elu", "leaky_relu", "silu", "gelu")
    initializer = keras.initializers.HeNormal if he else keras.initializers.GlorotUniform
    layers = [
        keras.layers.Dense(int(width), activation, kernel_initializer=initializer(layer_seed))
        for width, layer_seed in zip(hidden_units, seeds[:-1], strict=True)
    ]
    # float32 whatever the policy: half precision has 3 digits, which is a grid on a map of ±80.
    top = keras.initializers.GlorotUniform(seeds[-1])
    layers.append(keras.layers.Dense(d, output, kernel_initializer=top, dtype="float32", name=name))
    return layers


def from_rows(model: keras.Model, features: int) -> keras.Model:
    """Let a model of images, sequences or several inputs take rows [B, D] of numbers.

    The columns go to the model's inputs in their order (those of a dict by name, as Keras sorts
    them), each reshaped to what that input expects.

    Parameters
    ----------
    model : keras.Model
        Its inputs have D numbers in all. A subclass of keras.Model takes rows. One that is not
        built yet is built.
    features : int
        D.

    Returns
    -------
    keras.Model
        The model itself if it takes rows already, else one that holds it.

    Raises
    ------
    ValueError
        If the model does not give [B, d], or takes other than D numbers.

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
    """Give the part of an encoder between its fixed layers: same weights, projected rows [B, m] in.

    What the fixed first layers give can be computed once; training the head then trains the
    encoder. A fixed last layer, to a map's own units, is left out as well.

    Parameters
    ----------
    model : keras.Model
        From :func:`encoder` with `components`.

    Returns
    -------
    keras.Model
        Shares its layers with `model`.

    Examples
    --------
    >>> model = encoder(64, 2, components=np.eye(64)[:, :10])
    >>> head(model).input_shape
    (None, 10)
    """
    projection = model.get_layer("projection")
    layers = model.layers[model.layers.index(projection) + 1 :]
    layers = [layer for layer in layers if layer.name != "units"]
    x = inputs = keras.Input((projection.units,), name="components")
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x, name="head")


def from_rbms(rbms: Sequence[RBM], *, scaling: Scaling | None = None) -> keras.Model:
    """Unroll a stack of RBMs: its forward pass E[h | v] as a plain Keras model.

    Parameters
    ----------
    rbms : sequence of RBM
        Built; each takes as many visible units as the one below has hidden units. A Bernoulli
        layer becomes a sigmoid Dense layer, a Gaussian layer a linear one.
    scaling : (shift, scale), optional
        As in :func:`encoder`: what was done to the rows that the lowest RBM was trained on.

    Returns
    -------
    keras.Model
        Its outputs are exactly the stack's hidden means.

    Raises
    ------
    ValueError
        If the stack is empty, not built, or its widths do not fit.

    Examples
    --------
    >>> model = from_rbms(stages.pretrain(X, (500, 500, 2000, 2), seed=0))

    References
    ----------
    van der Maaten (2009), section 3, figure 1.
    """
    if not rbms or not all(rbm.built for rbm in rbms):
        raise ValueError("rbms should be one or more trained RBMs. Received: none or untrained.")
    widths = [rbm.kernel.shape for rbm in rbms]
    for (_, below), (above, _) in itertools.pairwise(widths):
        if below != above:
            raise ValueError(
                "Each RBM should have as many visible units as the one below has hidden units. "
                f"Received: {below} hidden units under {above} visible ones."
            )
    layers = [
        keras.layers.Dense(
            rbm.units,
            "sigmoid" if rbm.hidden == "bernoulli" else "linear",
            kernel_initializer="zeros",  # the RBM's weights come below; no seed is drawn
            # float32 on the map, whatever the policy of the layers below.
            **({"name": "embedding", "dtype": "float32"} if rbm is rbms[-1] else {}),
        )
        for rbm in rbms
    ]
    model = _chain(widths[0][0], [layers], scaling)
    for layer, rbm in zip(layers, rbms, strict=True):
        layer.set_weights([np.asarray(rbm.kernel), np.asarray(rbm.hidden_bias)])
    return model


def _chain(
    features: int,
    stacks: Sequence[Sequence[keras.layers.Layer]],
    scaling: Scaling | None,
    components: FloatArray | None = None,
    units: Scaling | None = None,
) -> keras.Model:
    """Input → (x - shift) / scale → components → stacks side by side → y · scale + shift."""
    x = inputs = keras.Input((features,), name="features")
    if scaling is not None:
        shift, scale = scaling
        # Two layers, because Normalization squares the scale, which over- or underflows for rows
        # of 1e±20, and takes no scale below 1e-7. float32 whatever the policy: rounding rows at
        # 1000 ± 1 to bfloat16 would erase them.
        mean = np.broadcast_to(np.float32(shift), (features,))
        ones = np.ones(features, np.float32)
        x = keras.layers.Normalization(mean=mean, variance=ones, dtype="float32", name="shift")(x)
        factor = (1.0 / np.float64(scale)).tolist()
        x = keras.layers.Rescaling(factor, dtype="float32", name="scale")(x)
    if components is not None:
        projection = keras.layers.Dense(
            components.shape[1],
            use_bias=False,
            kernel_initializer="zeros",  # the components come below; no seed is drawn
            trainable=False,
            dtype="float32",
            name="projection",
        )
        x = projection(x)
        projection.set_weights([components])
    ends = []
    for layers in stacks:
        y = x
        for layer in layers:
            y = layer(y)
        ends.append(y)
    Y = keras.layers.Concatenate(dtype="float32", name="towers")(ends) if len(ends) > 1 else ends[0]
    if units is not None:
        shift, scale = (np.broadcast_to(np.float64(v), (Y.shape[1],)).tolist() for v in units)
        Y = keras.layers.Rescaling(scale, shift, dtype="float32", name="units")(Y)
    return keras.Model(inputs, Y, name="encoder")
