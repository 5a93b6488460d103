"""A fit of `MapRegressor` that indexes the rows of a map, and trains nothing."""

import math
from typing import Any

import keras
import numpy as np

from ptsne_keras import networks
from ptsne_keras.affinities.neighbors import Index
from ptsne_keras.estimators._settings import MapSettings
from ptsne_keras.networks import Placement
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays, pca
from ptsne_keras.utils.stopwatch import Stopwatch

# The most principal components that neighbours are sought by.
_SEARCH_DIMS = 50
# The most rows that tell the scale of a map, and the scales that are tried.
_SCALE_ROWS = 4096
_SCALES = np.geomspace(1e-3, 1e5, 161)
_BINS = 4096
# Rows placed at a time.
_BLOCK = 4096


class Placer:
    """Places raw rows where the encoder does, with a search index for its reference."""

    def __init__(self, encoder: keras.Model, index: Index | None = None) -> None:
        self._layer = encoder.get_layer("placement")
        self._places = np.asarray(self._layer.places)
        projection = encoder.get_layer("projection").output
        self._components = keras.Model(encoder.inputs[0], projection)
        if index is None:
            index = _index(np.asarray(self._layer.features)[: self._layer.n_references])
        self._index = index

    def place(self, X: Any, *, skip: Any = None) -> FloatArray:
        """Place rows [n, D]; `skip` names a reference row [n] that each does without."""
        k = min(self._layer.n_neighbors, self._layer.n_references - (skip is not None))
        found = np.empty((X.shape[0], self._places.shape[1]), np.float32)
        start = 0
        for rows in arrays.row_blocks(X, rows=_BLOCK):
            part = slice(start, start + len(rows))
            Z = np.asarray(self._components(rows, training=False))
            lost = ~np.isfinite(Z).all(axis=1)  # rows at the limits of float32
            Z = np.where(lost[:, None], np.float32(0), Z)
            near = self._index.search(Z, k, skip=None if skip is None else skip[part])
            found[part] = self._layer.among(np.square(near.distances), self._places[near.indices])
            found[part][lost] = np.nan
            start = part.stop
        return found


def fit(
    X: Any, Y: FloatArray, settings: MapSettings, *, seed: int
) -> tuple[keras.Model, dict[str, Any], Placer]:
    """Return the encoder in the map's units, its history, and what places rows in Python."""
    seeds = np.random.default_rng(seed).integers(2**31, size=2).tolist()
    watch = Stopwatch()
    reduced = pca.principal_components(X, min(_SEARCH_DIMS, *X.shape), seed=seeds[0])
    Z = reduced.apply(X)
    watch.lap("project")
    index = _index(Z)
    watch.lap("neighbors")
    factor = natural_scale(Y, Z, index, k=settings.n_neighbors, seed=seeds[1])
    layer = Placement.from_reference(
        Z,
        Y,
        n_neighbors=settings.n_neighbors,
        perplexity=settings.perplexity,
        dof=settings.dof / factor**2,
        name="placement",
    )
    encoder = networks.placed(layer, X.shape[1], scaling=reduced[:2], components=reduced.components)
    watch.lap("scale")
    history = {"pretrain": [], "finetune": {}, "seconds": watch.seconds}
    return encoder, history, Placer(encoder, index)


def placer(encoder: keras.Model) -> Placer | None:
    """Return what places rows in Python for an encoder that was loaded, unless it is a network."""
    return Placer(encoder) if isinstance(encoder.layers[-1], Placement) else None


def _index(Z: FloatArray) -> Index:
    """Return the index of reference rows, the same whenever it is built."""
    return Index(Z, seed=0)


def natural_scale(Y: FloatArray, Z: FloatArray, index: Index, *, k: int, seed: int) -> float:
    """Return the factor that brings a map to the size at which its rows have the least loss.

    The kernel of t-SNE has a width of about 1, but a map made elsewhere may have any units.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(Y), min(len(Y), _SCALE_ROWS), replace=False)
    k = min(k, len(Y) - 1)
    near = index.search(Z[chosen], k, skip=chosen).indices
    neighbors = near[np.arange(len(chosen)), rng.integers(k, size=len(chosen))]
    others = chosen[rng.permutation(len(chosen))[:1024]]
    attraction = np.square(Y[chosen] - Y[neighbors], dtype=np.float64).sum(axis=1)  # [n]
    D2 = np.square(Y[chosen][:, None] - Y[others][None], dtype=np.float64).sum(axis=2)  # [n, m]
    typical = float(np.var(Y, axis=0, dtype=np.float64).mean()) or 1.0
    # The pairs are counted by their distances; a row does not repel itself.
    counts, edges = np.histogram(np.log(D2[D2 > 0.0] / typical), _BINS)
    middles = np.exp((edges[1:] + edges[:-1]) / 2)
    f2 = np.square(_SCALES)
    repulsion = counts @ (1.0 / (1.0 + np.outer(middles, f2)))
    losses = np.log1p(np.outer(attraction / typical, f2)).mean(axis=0)
    losses += np.log(np.maximum(repulsion, np.finfo(float).tiny))
    return float(_SCALES[int(np.argmin(losses))] / math.sqrt(typical))
