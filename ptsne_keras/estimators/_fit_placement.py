"""A fit of `MapRegressor` that indexes the rows of a map, and trains nothing."""

import math
from dataclasses import dataclass
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
# Rows placed at a time.
_BLOCK = 4096


@dataclass(frozen=True)
class Placer:
    """The layer that places rows, the index of its reference, and the rows' projection."""

    layer: Placement
    index: Index
    project: Any
    """From raw rows [N, D] to components [N, m]."""

    def place(self, X: Any, *, skip: Any = None) -> FloatArray:
        """Place raw rows [n, D]; `skip` names a reference row [n] that each does without."""
        Z = self.project(X)
        places = np.asarray(self.layer.places)
        k = min(self.layer.n_neighbors, self.layer.n_references - (skip is not None))
        found = np.empty((len(Z), places.shape[1]), np.float32)
        for part in arrays.row_slices(len(Z), _BLOCK):
            near = self.index.search(Z[part], k, skip=None if skip is None else skip[part])
            found[part] = self.layer.among(np.square(near.distances), places[near.indices])
        return found


def fit(
    X: Any, Y: FloatArray, settings: MapSettings, *, seed: int
) -> tuple[keras.Model, dict[str, Any], Placer]:
    """Return the encoder in the map's units, its history, and what places rows in Python."""
    seeds = np.random.default_rng(seed).integers(2**31, size=3).tolist()
    watch = Stopwatch()
    reduced = pca.principal_components(X, min(_SEARCH_DIMS, *X.shape), seed=seeds[0])
    Z = reduced.apply(X)
    watch.lap("project")
    index = Index(Z, seed=seeds[1])
    watch.lap("neighbors")
    factor = natural_scale(Y, Z, index, k=settings.n_neighbors, seed=seeds[2])
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
    return encoder, history, Placer(layer, index, reduced.apply)


def restored(encoder: keras.Model) -> Placer:
    """Return what places rows in Python for an encoder that was loaded."""
    layer = encoder.get_layer("placement")
    front = keras.Model(encoder.input, encoder.get_layer("projection").output)

    def project(X: Any) -> FloatArray:
        blocks = [np.asarray(front(part, training=False)) for part in arrays.row_blocks(X)]
        return np.concatenate(blocks)

    return Placer(layer, Index(np.asarray(layer.features)[: layer.n_references], seed=0), project)


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
    keep = D2 > 0.0  # a row does not repel itself
    losses = []
    for f2 in np.square(_SCALES) / typical:
        total = np.where(keep, 1.0 / (1.0 + f2 * D2), 0.0).sum()
        log_Z = math.log(max(float(total), np.finfo(float).tiny))
        losses.append(np.mean(np.log1p(f2 * attraction)) + log_Z)
    return float(_SCALES[int(np.argmin(losses))] / math.sqrt(typical))
