"""How new a row is: its distance to the nearest of some training rows, as a quantile."""

from typing import Any, NamedTuple, Self

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from ptsne_keras import rows
from ptsne_keras.typing import FloatArray

# Landmarks at most, and numbers in them at most: 64 MB beside the weights.
_LANDMARKS = 4096
_NUMBERS = 1 << 24
# Training rows of which the usual distances are taken, at most, and quantiles that are kept.
_SAMPLE = 10_000
_QUANTILES = 1001
# Rows that are compared at a time.
_BLOCK = 1024


class Landmarks(NamedTuple):
    """Training rows that others are compared with, and how far rows are from them usually.

    Examples
    --------
    >>> found = Landmarks.of(X, encoder, seed=0)
    >>> found.rows.shape
    (200, 64)
    """

    rows: FloatArray
    """[m, D], scaled as the encoder scales its input"""
    usual: FloatArray
    """Quantiles [q] of the distances of training rows to the nearest landmark but themselves."""

    @classmethod
    def of(cls, X: Any, encoder: keras.Model, *, seed: int = 0) -> Self:
        """Draw at most 4,096 landmarks from training rows X [N, D].

        Parameters
        ----------
        X : array, `np.memmap` or sparse rows [N, D]
            Two rows at least; at most 14,096 are read.
        encoder : keras.Model
            Distances are taken where its first layers have shifted and scaled the columns.
        seed : int
            Of the draw.

        Raises
        ------
        ValueError
            If the rows are not finite numbers, fewer than two, or of another width.

        Examples
        --------
        >>> Landmarks.of(X, encoder).usual.shape
        (1001,)
        """
        features = int(encoder.inputs[0].shape[1])
        X = X if hasattr(X, "shape") else np.asarray(X)
        if len(X.shape) != 2 or X.shape[1] != features or X.shape[0] < 2:
            raise ValueError(
                f"reference should be two or more rows of {features} columns, as the encoder "
                f"takes. Received: shape {tuple(X.shape)}."
            )
        n = X.shape[0]
        order = np.random.default_rng(seed).permutation(n)
        m = min(n, _LANDMARKS, max(2, _NUMBERS // features))
        # Of many rows the distances are those of other rows; of few, of the landmarks themselves.
        sample = np.concatenate([order[m:], order[:m]])[:_SAMPLE]
        scaled = scaler(encoder)
        L = _scaled(scaled, X, order[:m])
        position = np.full(n, -1)
        position[order[:m]] = np.arange(m)
        return cls(L, _quantiles(_distances(scaled, X, sample, L, position[sample])))


def scaler(encoder: keras.Model) -> keras.Model:
    """Give the encoder's first layers, as far as they shift and scale each column by itself.

    Examples
    --------
    >>> scaler(encoder).output_shape
    (None, 64)
    """
    x = inputs = keras.Input(encoder.inputs[0].shape[1:], name="features")
    for layer in encoder.layers[1:]:
        if not isinstance(layer, keras.layers.Normalization | keras.layers.Rescaling):
            break
        x = layer(x)
    return keras.Model(inputs, x, name="scaler")


class Novelty(tf.Module):
    """Tells new rows in a graph: x [B, D] → [B], from 0, as near as any, to 1, as far as any.

    Examples
    --------
    >>> novelty = Novelty(Landmarks.of(X, encoder), encoder)
    >>> novelty(tf.constant(X[:3])).shape
    TensorShape([3])
    """

    def __init__(self, landmarks: Landmarks, encoder: keras.Model) -> None:
        super().__init__()
        self._scaler = scaler(encoder)
        # Centred, so that squares do not cancel.
        middle = landmarks.rows.mean(axis=0)
        L = landmarks.rows - middle
        self._middle = tf.Variable(middle, trainable=False, name="landmarks_middle")
        self._L = tf.Variable(L.T, trainable=False, name="landmarks")  # [D, m]
        self._L2 = tf.Variable(np.square(L).sum(axis=1), trainable=False, name="landmarks_squares")
        self._usual = tf.Variable(landmarks.usual, trainable=False, name="usual_distances")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Part of the training rows that are nearer; 1 for rows that are not finite."""
        X = tf.cast(self._scaler(x, training=False), tf.float32) - self._middle  # [B, D]
        D2 = tf.reduce_min(self._L2 - 2.0 * tf.matmul(X, self._L), axis=1)  # [B]
        distance = tf.sqrt(tf.maximum(D2 + tf.reduce_sum(tf.square(X), axis=1), 0.0))
        last = _QUANTILES - 1
        above = tf.clip_by_value(tf.searchsorted(self._usual, distance, side="right"), 1, last)
        low, high = tf.gather(self._usual, above - 1), tf.gather(self._usual, above)
        inside = tf.math.divide_no_nan(distance - low, high - low)
        inside = tf.where(high > low, inside, tf.cast(distance >= high, tf.float32))
        novelty = (tf.cast(above - 1, tf.float32) + tf.clip_by_value(inside, 0.0, 1.0)) / last
        return tf.where(tf.math.is_finite(distance), novelty, 1.0)


def taken(X: Any, chosen: Any) -> FloatArray:
    """Read rows of these ascending numbers: float32 [n, D].

    Examples
    --------
    >>> taken(X, [0, 2]).shape
    (2, 64)
    """
    part = X.tocsr()[chosen].toarray() if scipy.sparse.issparse(X) else np.asarray(X)[chosen]
    return rows.check(part, name="reference").astype(np.float32)


def _scaled(scaled: keras.Model, X: Any, chosen: Any) -> FloatArray:
    """Rows of these numbers as the encoder scales them: [n, D]."""
    order = np.sort(chosen)  # so that a file is read in its order
    whole = np.asarray(scaled.predict(taken(X, order), batch_size=_BLOCK, verbose=0))
    return np.ascontiguousarray(whole[np.searchsorted(order, chosen)])


def _distances(
    scaled: keras.Model, X: Any, sample: Any, L: FloatArray, position: Any
) -> FloatArray:
    """Distances [n] of sampled rows to the nearest landmark but themselves."""
    middle = L.mean(axis=0)
    L = L - middle
    L2 = np.square(L).sum(axis=1)
    found = []
    for start in range(0, len(sample), _BLOCK):
        part = slice(start, start + _BLOCK)
        Z = _scaled(scaled, X, sample[part]) - middle  # [b, D]
        D2 = L2 - 2.0 * Z @ L.T + np.square(Z).sum(axis=1)[:, None]  # [b, m]
        own = position[part]
        D2[np.flatnonzero(own >= 0), own[own >= 0]] = np.inf
        found.append(np.sqrt(np.maximum(D2.min(axis=1), 0.0)))
    return np.concatenate(found)


def _quantiles(distances: FloatArray) -> FloatArray:
    return np.quantile(distances, np.linspace(0, 1, _QUANTILES)).astype(np.float32)
