"""Novelty of rows, as in :mod:`ptsne_keras.utils.novelty`, by the operations of a server."""

import keras
import numpy as np
import tensorflow as tf

from ptsne_keras.utils import novelty
from ptsne_keras.utils.novelty import Landmarks


class Novelty(tf.Module):
    """Computes the novelty of rows, x [B, D] → [B], in a graph."""

    def __init__(self, landmarks: Landmarks, encoder: keras.Model) -> None:
        super().__init__()
        self._scaler = novelty.scaler(encoder)
        # Centred: less is lost to cancellation.
        middle = landmarks.rows.mean(axis=0)
        L = landmarks.rows - middle
        self._middle = tf.Variable(middle, trainable=False, name="landmarks_middle")
        self._L = tf.Variable(L, trainable=False, name="landmarks")  # [m, D]
        self._L2 = tf.Variable(np.square(L).sum(axis=1), trainable=False, name="landmarks_squares")
        self._usual = tf.Variable(landmarks.usual, trainable=False, name="usual_distances")
        self._near = min(novelty.NEAREST, len(L))

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Return the novelty; 1 for rows that are not finite."""
        X = self._scaler(x, training=False) - self._middle  # [B, D]
        half = tf.matmul(X, self._L, transpose_b=True) - 0.5 * self._L2  # [B, m]
        near = tf.math.top_k(half, self._near, sorted=False).indices  # [B, k]
        D2 = [
            tf.reduce_sum(tf.square(X - tf.gather(self._L, near[:, i])), axis=1)
            for i in range(self._near)
        ]
        distance = tf.sqrt(tf.reduce_min(tf.stack(D2), axis=0))  # [B]
        last = int(self._usual.shape[0]) - 1
        above = tf.clip_by_value(tf.searchsorted(self._usual, distance, side="right"), 1, last)
        low, high = tf.gather(self._usual, above - 1), tf.gather(self._usual, above)
        inside = tf.math.divide_no_nan(distance - low, high - low)
        inside = tf.where(high > low, inside, tf.cast(distance >= high, tf.float32))
        quantile = (tf.cast(above - 1, tf.float32) + tf.clip_by_value(inside, 0.0, 1.0)) / last
        # A landmark itself is not new, even where the lowest quantiles are 0 as well.
        quantile = tf.where(distance > 0.0, quantile, 0.0)
        finite = tf.reduce_all(tf.math.is_finite(x), axis=1)
        return tf.where(finite & tf.math.is_finite(distance), quantile, 1.0)
