"""Pairs of rows drawn along the neighbour graph, by graph ops."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ptsne_keras.affinities import neighbor_probabilities
from ptsne_keras.affinities.neighbors import Neighbors
from ptsne_keras.affinities.perplexity import is_variable, several
from ptsne_keras.affinities.probabilities import calibrate_neighbors
from ptsne_keras.typing import FloatArray, Perplexity
from ptsne_keras.utils import arrays

# Neighbours whose differences give the noise its directions.
_NEAR = 15
# Rows whose distances are computed at a time.
_BLOCK = 1 << 15


class PairSampler:
    """Draws one neighbour j of each row i from p_{j|i}, and adds noise to both."""

    def __init__(
        self,
        X: FloatArray,
        neighbors: Neighbors,
        perplexity: Perplexity,
        jitter: float = 0.0,
        probabilities: FloatArray | None = None,
    ) -> None:
        self.X = tf.constant(X)
        self.indices = tf.constant(neighbors.indices)  # [N, k]
        self.probabilities: Callable[[tf.Tensor], tf.Tensor]
        if probabilities is None and any(map(is_variable, several(perplexity))):
            D = tf.constant(neighbors.distances)
            self.probabilities = lambda i: calibrate_neighbors(tf.gather(D, i), perplexity)[0]
        else:
            if probabilities is None:
                probabilities = neighbor_probabilities(neighbors.distances, perplexity)
            P = tf.constant(probabilities)
            self.probabilities = lambda i: tf.gather(P, i)
        self.jitter = jitter
        if jitter:
            # From the rows: neighbours may have been searched on principal components.
            r = _distances(X, neighbors.indices[:, 0])
            self.spread = tf.constant(r / math.sqrt(2 * X.shape[1]), self.X.dtype)  # [N, 1]

    def __call__(self, i: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return X [2h, D] of rows i [h] and their partners, and P [2h, 1]."""
        number = tf.cast(number, tf.int64)
        partners = self._partners(i, tf.stack([number, 0]))
        both = tf.concat([tf.cast(i, tf.int32), partners], axis=0)  # [2h]
        x = tf.gather(self.X, both)  # [2h, D]
        if self.jitter:
            x += self.jitter * self._noise(both, number)
        b = tf.shape(x)[0]
        return x, tf.fill([b, 1], tf.cast(1 / b, x.dtype))

    def _partners(self, i: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draw j [h] by inverting the cumulative distribution of each row i."""
        cumulative = tf.cumsum(self.probabilities(i), axis=1)  # [h, k]
        u = tf.random.stateless_uniform([tf.shape(i)[0], 1], seed=seed, dtype=cumulative.dtype)
        below = tf.cast(cumulative < u, tf.int32)  # [h, k]
        # Rounding may end the cumulative sum below 1, and u may lie above that.
        position = tf.minimum(tf.reduce_sum(below, axis=1), self.indices.shape[1] - 1)
        return tf.gather(tf.gather(self.indices, i), position, batch_dims=1)

    def _noise(self, rows: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        """Draw (x_a - x_b) / 2 + r / √(2D) · ε, [2h, D]."""
        count = tf.shape(rows)[0]
        near = min(_NEAR, self.indices.shape[1])
        chosen = tf.random.stateless_uniform(
            [count, 2], seed=tf.stack([number, 1]), maxval=near, dtype=tf.int32
        )
        ends = tf.gather(tf.gather(self.indices, rows), chosen, batch_dims=1)  # [2h, 2]
        difference = tf.gather(self.X, ends[:, 0]) - tf.gather(self.X, ends[:, 1])
        normal = tf.random.stateless_normal(
            tf.shape(difference), seed=tf.stack([number, 2]), dtype=self.X.dtype
        )
        return 0.5 * difference + tf.gather(self.spread, rows) * normal


def _distances(X: FloatArray, others: npt.NDArray[np.int32]) -> FloatArray:
    """Return the distance [N, 1] of each row to another, in blocks that need little memory."""
    r = np.empty((len(X), 1), X.dtype)
    for part in arrays.row_slices(len(X), _BLOCK):
        difference = (X[part] - X[others[part]]).astype(np.float64)  # for squares of 1e±30
        r[part] = np.linalg.norm(difference, axis=1, keepdims=True)
    return r
