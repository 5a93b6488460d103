"""The batches of rows on which KL(P‖Q) of a map is measured."""

import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from ptsne_keras import affinities, metrics
from ptsne_keras.affinities.perplexity import several
from ptsne_keras.data import order
from ptsne_keras.estimators import _encoders
from ptsne_keras.estimators._base import MapEstimator
from ptsne_keras.estimators._settings import Settings
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays

# The most batches, and the rows in a batch unless the perplexity needs more.
_BATCHES, _ROWS = 10, 2500
_PERPLEXITY = 15.0


class ScoredRows(NamedTuple):
    """The rows on which a map is scored, as the trained part of a network sees them."""

    rows: FloatArray
    numbers: Any
    """The indices of these rows in X."""
    perplexity: float | tuple[float, ...]
    batch_size: int

    def check(self) -> None:
        """Raise if there are too few rows for the perplexity."""
        order.check_batches(len(self.rows), self.perplexity, self.batch_size)

    def joint(self) -> Iterator[tuple[Any, Any]]:
        """Yield P [b, b] of each batch and the indices of its rows."""
        for i in order.index_batches(len(self.rows), self.batch_size, shuffle="once", seed=0):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # `fit` has warned of duplicates
                P = affinities.joint_probabilities(self.rows[i.numpy()], self.perplexity)
            yield P, self.numbers[i.numpy()]

    def divergence(self, Y: FloatArray, dof: float) -> float:
        """Return the mean KL(P‖Q) in nats of a map Y [N, d] of X; raise for too few rows."""
        self.check()
        values = [(len(i), metrics.kl_divergence(P, Y[i], dof=dof)) for P, i in self.joint()]
        return float(np.average([kl for _, kl in values], weights=[n for n, _ in values]))


def scored_rows(estimator: Any, X: Any) -> ScoredRows:
    """Choose rows of X [N, D] to score the map of any fitted estimator on."""
    settings = getattr(estimator, "_settings", None)
    size = None
    if isinstance(settings, Settings):
        perplexity = settings.perplexity_of(X.shape[0])
        size = settings.batch_size if settings.sampling != "graph" else None
    else:
        # That of a MapRegressor is of the neighbours among which rows are placed.
        ours = isinstance(estimator, MapEstimator)
        own = None if ours else getattr(estimator, "perplexity", None)
        perplexity = min(float(own or _PERPLEXITY), max(1.5, (X.shape[0] - 1) / 3))
    if size is None:  # large enough for the perplexity
        size = max(_ROWS, math.ceil(3 * max(several(perplexity))))
    numbers = np.arange(X.shape[0])
    if len(numbers) > _BATCHES * size:
        numbers = np.random.default_rng(0).choice(len(numbers), _BATCHES * size, replace=False)
        numbers.sort()
        X = X[numbers]
    network = getattr(estimator, "network_", getattr(estimator, "encoder_", None))
    layers = getattr(network, "layers", ())
    fixed = getattr(estimator, "encoder", None) is None  # ours, not one of the user's own
    if fixed and any(layer.name == "projection" for layer in layers):
        X = _encoders.projected(network, X)
    else:
        X = arrays.unit_rows(X, getattr(settings, "metric", "euclidean"))
        X = X.toarray() if scipy.sparse.issparse(X) else X
    return ScoredRows(X, numbers, perplexity, size)
