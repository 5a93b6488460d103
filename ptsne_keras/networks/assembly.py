"""Models that place rows: a fixed front, a network for the start, and the placement layer."""

import keras
import numpy as np
import scipy.spatial

from ptsne_keras.networks.encoder import chain
from ptsne_keras.networks.placement import Placement
from ptsne_keras.typing import FloatArray, Scaling

# Rows whose distances to a smaller reference are measured, and how many at a time.
_MEASURED, _MEASURED_AT_ONCE = 4096, 512
# Steps of k-means, and the error that its search is allowed in more dimensions than are searched
# exactly.
_ITERATIONS, _EXACT_DIMS, _LOOSE = 6, 3, 1.0


def placed(
    layer: keras.layers.Layer,
    features: int,
    *,
    scaling: Scaling,
    components: FloatArray,
    metric: str = "euclidean",
    network: keras.Model | None = None,
) -> keras.Model:
    """Return a model that places raw rows [B, D] by a layer that sees their components [B, m].

    Parameters
    ----------
    layer : keras.layers.Layer
        The last layer, such as `Placement`.
    features, scaling, components, metric
        As in :func:`encoder`.
    network : keras.Model, default=None
        A model from raw rows [B, D] to the starting places [B, d].

    Returns
    -------
    keras.Model

    Examples
    --------
    >>> components = np.eye(64, dtype="float32")[:, :10]
    >>> layer = Placement.from_reference(X @ components, Y)
    >>> placed(layer, 64, scaling=(0.0, 1.0), components=components)(X).shape
    TensorShape([200, 2])
    """
    front = chain(features, [], scaling, components, metric=metric)
    rows, z = front.inputs[0], front.outputs[0]
    y = layer(z if network is None else [z, network(rows)])
    return keras.Model(rows, y, name="encoder")


def network(model: keras.Model) -> keras.Model | None:
    """Return the network of a model that :func:`placed` made, or None if it has none.

    Examples
    --------
    >>> network(tsne.encoder_) is tsne.network_
    True
    """
    if not isinstance(model.layers[-1], Placement):
        return None
    return next((layer for layer in model.layers if isinstance(layer, keras.Model)), None)


def front(model: keras.Model) -> keras.Model:
    """Return the fixed first layers of a model that :func:`placed` made.

    Parameters
    ----------
    model : keras.Model

    Returns
    -------
    keras.Model
        From raw rows [B, D] to their components [B, m], and their squared distances [B] to the
        space of the components.

    Examples
    --------
    >>> z, outside2 = front(tsne.encoder_)(X)
    """
    projection = next((layer for layer in model.layers if layer.name == "projection"), None)
    if projection is None:
        raise ValueError(
            f"The model should be one that `networks.placed` made. Received: {model.name!r}, "
            "without its layer 'projection'."
        )
    scaled = inputs = keras.Input(model.inputs[0].shape[1:], name="features")
    for layer in model.layers[1 : model.layers.index(projection)]:
        if not isinstance(layer, keras.Model):  # the network is beside these layers
            scaled = layer(scaled)
    z = projection(scaled)
    length2 = float(np.square(np.asarray(projection.kernel)[:, 0], dtype=np.float64).sum())
    inside2 = keras.ops.sum(keras.ops.square(z), axis=1)
    outside2 = length2 * keras.ops.sum(keras.ops.square(scaled), axis=1) - inside2
    return keras.Model(inputs, [z, keras.ops.maximum(outside2, 0.0)], name="front")


def smaller(model: keras.Model, n_references: int, *, seed: int = 0) -> keras.Model:
    """Return a model that :func:`placed` made, with fewer reference rows.

    The rows are parted into as many cells of the map by k-means, and each cell leaves the means of
    its rows and of their places, which lose less than rows drawn at random.

    Parameters
    ----------
    model : keras.Model
    n_references : int
        The most reference rows to keep; places that coincide leave fewer.
    seed : int, default=0

    Returns
    -------
    keras.Model
        The model itself if it has no more reference rows, or none at all; else one that shares its
        network, and whose `novelty` compares with the distances of rows that no mean contains.

    Examples
    --------
    >>> smaller(tsne.encoder_, 50).layers[-1].n_references
    50
    """
    layer = model.layers[-1]
    if not isinstance(layer, Placement) or layer.n_references <= n_references:
        return model
    reference = layer.reference()
    cells, sizes = _cells(reference[1], n_references, seed)
    means = [_means(values, cells, sizes) for values in reference]
    part = layer.like(*means, name=layer.name)
    order = np.random.default_rng(seed).permutation(len(cells))[:_MEASURED]
    k = max(1, min(layer.n_neighbors, len(sizes) - 1))
    # One neighbour more, for the cell of the row itself.
    twin = layer.like(*means, n_neighbors=layer.n_neighbors + 1)
    distances = []
    for rows in np.array_split(order, -(-len(order) // _MEASURED_AT_ONCE)):
        D2, near = (np.asarray(found) for found in twin.nearest(reference[0][rows]))
        size = sizes[cells[rows]][:, None]
        # As if the mean were without the row itself.
        without = np.where(size > 1, D2 * np.square(size / np.maximum(size - 1, 1)), np.inf)
        D2 = np.where(near == cells[rows][:, None], without, D2)
        distances.append(np.asarray(part.distance(np.sort(D2)[:, :k], reference[2][rows])))
    part.set_usual(np.concatenate(distances))
    return exchanged(model, part)


def exchanged(model: keras.Model, layer: keras.layers.Layer) -> keras.Model:
    """Return a model with another last layer that shares all others."""
    last = model.layers[-1]
    return keras.models.clone_model(model, clone_function=lambda old: layer if old is last else old)


def _cells(Y: FloatArray, n_cells: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cell [N] of each place by k-means, and the sizes of those that are not empty."""
    centers = Y[np.random.default_rng(seed).permutation(len(Y))[:n_cells]]
    loose = 0.0 if Y.shape[1] <= _EXACT_DIMS else _LOOSE
    for _ in range(_ITERATIONS):
        cells = scipy.spatial.cKDTree(centers).query(Y, eps=loose, workers=-1)[1]
        _, cells, sizes = np.unique(cells, return_inverse=True, return_counts=True)
        centers = _means(Y, cells, sizes)
    return cells, sizes


def _means(values: FloatArray, cells: np.ndarray, sizes: np.ndarray) -> FloatArray:
    """Return the mean of the values [N, …] of each cell."""
    order = np.argsort(cells, kind="stable")
    sums = np.add.reduceat(values[order].astype(np.float64), np.cumsum(sizes) - sizes)
    return (sums.T / sizes).T.astype(np.float32)
