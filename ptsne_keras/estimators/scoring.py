"""The batches of rows on which KL(P‖Q) of a map is measured."""

import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import tensorflow as tf

from ptsne_keras import networks
from ptsne_keras.affinities.perplexity import several
from ptsne_keras.data import batches, order
from ptsne_keras.estimators import _encoders
from ptsne_keras.estimators._settings import Settings
from ptsne_keras.typing import FloatArray

# The most batches, and the rows in a batch unless the perplexity needs more.
_BATCHES, _ROWS = 10, 2500
_PERPLEXITY = 15.0


class ScoredRows(NamedTuple):
    """The rows on which a map is scored, as the trained part of the encoder sees them."""

    model: Any
    """Maps these rows; None for an estimator without an encoder."""
    rows: FloatArray
    numbers: Any
    """The indices of these rows in X."""
    perplexity: float | tuple[float, ...]
    batch_size: int

    def batches(self) -> tf.data.Dataset:
        """Return the batches (X, P)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `fit` has warned of duplicates
            return batches.from_array(
                self.rows, self.perplexity, self.batch_size, shuffle="once", seed=0
            )

    def joint(self) -> Iterator[tuple[Any, Any]]:
        """Yield P [b, b] of each batch and the indices of its rows; nothing for too few rows."""
        n = len(self.rows)
        try:
            order.check_batches(n, self.perplexity, self.batch_size)
        except ValueError:
            return
        indices = order.index_batches(n, self.batch_size, shuffle="once", seed=0)
        for (_, P), i in zip(self.batches(), indices, strict=True):
            yield P, self.numbers[i.numpy()]


def scored_rows(estimator: Any, X: Any) -> ScoredRows:
    """Choose rows of X [N, D] to score the map of any fitted estimator on."""
    settings = getattr(estimator, "_settings", None)
    size = None
    if isinstance(settings, Settings):
        perplexity = settings.perplexity_of(X.shape[0])
        size = settings.batch_size if settings.sampling != "graph" else None
    else:
        most = max(1.5, (X.shape[0] - 1) / 3)
        perplexity = min(float(getattr(estimator, "perplexity", _PERPLEXITY)), most)
    if size is None:  # large enough for the perplexity
        size = max(_ROWS, math.ceil(3 * max(several(perplexity))))
    numbers = np.arange(X.shape[0])
    if len(numbers) > _BATCHES * size:
        numbers = np.random.default_rng(0).choice(len(numbers), _BATCHES * size, replace=False)
        numbers.sort()
        X = X[numbers]
    encoder = getattr(estimator, "encoder_", None)
    layers = getattr(encoder, "layers", ())
    fixed = getattr(estimator, "encoder", None) is None  # ours, not one of the user's own
    if fixed and any(layer.name == "projection" for layer in layers):
        encoder, X = networks.head(encoder), _encoders.projected(encoder, X)
    elif scipy.sparse.issparse(X):
        X = X.toarray()
    return ScoredRows(encoder, X, numbers, perplexity, size)
