"""Rows placed in Python: by the layers of an encoder, and a search index for its reference."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from ptsne_keras import networks
from ptsne_keras.affinities.neighbors import Index, Neighbors
from ptsne_keras.estimators import _encoders
from ptsne_keras.networks import Placement
from ptsne_keras.networks.assembly import exchanged
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays, pca

# Rows placed at a time, and the most values of them: a large index is searched by many at once.
_BLOCK, _NUMBERS = 1 << 17, 1 << 26
# The most training rows whose distances to others are measured.
_MEASURED = 10_000
# A batch is foreign if more than this part of its rows, which are at least so many, is.
_FOREIGN, _TELLING = 0.5, 20
# The quantile of the usual distances, in thousandths, above which a row is foreign.
_LEVEL = 990


class Placer:
    """Places raw rows where the encoder does, with a search index in place of its exact search."""

    def __init__(self, encoder: keras.Model, index: Index | None = None) -> None:
        self._layer: Placement = encoder.layers[-1]
        self._network = networks.network(encoder)
        self._front = networks.front(encoder)
        features, self._places, _ = self._layer.reference()
        self._index = index_of(features) if index is None else index

    def place(self, X: Any, *, skip: Any = None) -> FloatArray:
        """Place rows [n, D]; `skip` names a reference row [n] that each does without."""
        Y, foreign = np.empty((X.shape[0], self._places.shape[1]), np.float32), 0
        usual = np.asarray(self._layer.usual)[_LEVEL]
        for part, rows, near, outside2, lost in self._searched(X, skip):
            start = None if self._network is None else _encoders.mapped(self._network, rows)
            D2, places = np.square(near.distances), self._places[near.indices]
            Y[part] = self._layer.among(D2, places, start)
            Y[part][lost] = np.nan
            foreign += int((np.asarray(self._layer.distance(D2, outside2)) > usual).sum())
        if foreign > _FOREIGN * len(Y) and len(Y) >= _TELLING and skip is None:
            warnings.warn(
                "X should be rows like those of the fit; the map has no place for others, see "
                f"`novelty`. Received: {len(Y)} rows, {foreign} of which are farther from their "
                "nearest training rows than 99 % of these are from others.",
                stacklevel=4,
            )
        return Y

    def novelty(self, X: Any) -> FloatArray:
        """Return the novelty [n] of rows [n, D]."""
        found = np.empty(X.shape[0], np.float32)
        for part, _, near, outside2, lost in self._searched(X):
            found[part] = self._layer.novelty(np.square(near.distances), near.indices, outside2)
            found[part][lost] = 1.0
        return found

    def _searched(self, X: Any, skip: Any = None) -> Iterator[tuple[Any, Any, Neighbors, Any, Any]]:
        """Yield the slice, rows, neighbours, outside2 and whether not finite, by blocks."""
        k = min(self._layer.n_neighbors, self._layer.n_references - (skip is not None))
        step = arrays.block_size(X.shape[1], rows=_BLOCK, numbers=_NUMBERS)
        for part in arrays.row_slices(X.shape[0], step):
            rows = np.asarray(arrays.dense(X[part]), np.float32)
            z, outside2 = (np.asarray(v) for v in self._front(rows, training=False))
            lost = ~np.isfinite(z).all(axis=1)  # rows at the limits of float32
            z = np.where(lost[:, None], np.float32(0), z)
            own = None if skip is None else skip[part]
            yield part, rows, self._index.search(z, k, skip=own), outside2, lost


def index_of(Z: FloatArray) -> Index:
    """Return the index of reference rows, the same whenever it is built."""
    return Index(Z, seed=0)


def encoder(
    X: Any,
    Z: FloatArray,
    Y: FloatArray,
    reduced: pca.Projection,
    index: Index,
    *,
    metric: str = "euclidean",
    network: keras.Model | None = None,
    **options: Any,
) -> keras.Model:
    """Return the model that places rows among X [N, D] by their components Z [N, m], at Y."""
    layer = Placement.from_reference(Z, Y, reduced.outside2(X, Z), name="placement", **options)
    fixed: dict[str, Any] = {"scaling": reduced[:2], "components": reduced.components}
    whole = networks.placed(layer, X.shape[1], metric=metric, network=network, **fixed)
    _measure(layer, index)
    return whole


def extended(
    encoder: keras.Model,
    X: Any,
    Y: FloatArray,
    free: Callable[[FloatArray, Index, int], FloatArray] | None = None,
) -> keras.Model:
    """Return the model with rows X [n, D] and their places Y added to the reference.

    `free` returns the places of all from them, an index of all rows and the number of old ones.
    """
    old, front = encoder.layers[-1], networks.front(encoder)
    blocks = arrays.row_blocks(X, rows=_BLOCK)
    found = [[np.asarray(v) for v in front(rows, training=False)] for rows in blocks]
    z, outside2 = (np.concatenate(parts) for parts in zip(*found, strict=True))
    pairs = zip(old.reference(), (z, Y, outside2), strict=True)
    Z, places, outside2 = map(np.concatenate, pairs)
    index = index_of(Z)
    places = places if free is None else free(places, index, old.n_references)
    layer = old.like(Z, places, outside2, name=old.name)
    _measure(layer, index)
    return exchanged(encoder, layer)


def _measure(layer: Placement, index: Index) -> None:
    """Set the usual distances of a layer: those of reference rows to others."""
    Z, _, outside2 = layer.reference()
    chosen = np.sort(np.random.default_rng(0).permutation(len(Z))[:_MEASURED])
    near = index.search(Z[chosen], min(layer.n_neighbors, len(Z) - 1), skip=chosen)
    layer.set_usual(np.asarray(layer.distance(np.square(near.distances), outside2[chosen])))


def placer(encoder: keras.Model) -> Placer | None:
    """Return what places rows in Python for an encoder, or None for a network."""
    return Placer(encoder) if isinstance(encoder.layers[-1], Placement) else None
