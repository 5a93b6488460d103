"""A fit of `MapRegressor` that indexes the rows of a map, and trains nothing."""

import math
from typing import Any

import keras
import numpy as np
import scipy.spatial

from ptsne_keras.affinities.neighbors import Index
from ptsne_keras.estimators import _placer
from ptsne_keras.estimators._placer import Placer
from ptsne_keras.estimators._settings import SEARCH_DIMS, MapSettings
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import pca
from ptsne_keras.utils.stopwatch import Stopwatch

# The most rows that tell the scale of a map, and the scales that are tried.
_SCALE_ROWS = 4096
_SCALES = np.geomspace(1e-3, 1e5, 161)
_BINS = 4096
# The most neighbours among which those that attract a row are drawn.
_NEAR = 15


def fit(
    X: Any, Y: FloatArray, settings: MapSettings, *, seed: int
) -> tuple[keras.Model, dict[str, Any], Placer]:
    """Return the encoder in the map's units, its history, and what places rows in Python."""
    seeds = np.random.default_rng(seed).integers(2**31, size=2).tolist()
    watch = Stopwatch()
    reduced = pca.principal_components(X, min(SEARCH_DIMS, *X.shape), seed=seeds[0])
    Z = reduced.apply(X)
    watch.lap("project")
    index = _placer.index_of(Z)
    watch.lap("neighbors")
    factor = natural_scale(Y, Z, index, k=settings.n_neighbors, seed=seeds[1])
    watch.lap("scale")
    encoder = _placer.encoder(
        X,
        Z,
        Y,
        reduced,
        index,
        n_neighbors=settings.n_neighbors,
        perplexity=settings.perplexity,
        dof=settings.dof / factor**2,
        metric=settings.metric,
    )
    watch.lap("placement")
    history = {"pretrain": [], "finetune": {}, "seconds": watch.seconds}
    return encoder, history, Placer(encoder, index)


def natural_scale(Y: FloatArray, Z: FloatArray, index: Index, *, k: int, seed: int) -> float:
    """Return the factor that brings a map to the size at which its rows have the least loss.

    The kernel of t-SNE has a width of about 1, but a map made elsewhere may have any units.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(Y), min(len(Y), _SCALE_ROWS), replace=False)
    k = min(k, len(Y) - 1, _NEAR)
    near = index.search(Z[chosen], k, skip=chosen).indices
    neighbors = near[np.arange(len(chosen)), rng.integers(k, size=len(chosen))]
    others = chosen[rng.permutation(len(chosen))[:1024]]
    attraction = np.square(Y[chosen] - Y[neighbors], dtype=np.float64).sum(axis=1)  # [n]
    D2 = scipy.spatial.distance.cdist(Y[chosen], Y[others], "sqeuclidean")  # [n, m]
    typical = float(np.var(Y, axis=0, dtype=np.float64).mean()) or 1.0
    # The pairs are counted by their distances; a row does not repel itself.
    counts, edges = np.histogram(np.log(D2[D2 > 0.0] / typical), _BINS)
    middles = np.exp((edges[1:] + edges[:-1]) / 2)
    f2 = np.square(_SCALES)
    repulsion = counts @ (1.0 / (1.0 + np.outer(middles, f2)))
    losses = np.log1p(np.outer(attraction / typical, f2)).mean(axis=0)
    losses += np.log(np.maximum(repulsion, np.finfo(float).tiny))
    return float(_SCALES[int(np.argmin(losses))] / math.sqrt(typical))
