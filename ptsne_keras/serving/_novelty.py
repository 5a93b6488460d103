"""How new a row is: its distance to the nearest of some training rows, as a quantile."""

from typing import Any, NamedTuple, Self

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import validation

# Landmarks at most, and numbers in them at most: 64 MB beside the weights.
_LANDMARKS = 4096
_NUMBERS = 1 << 24
# Training rows of which the usual distances are taken, at most, and quantiles that are kept.
_SAMPLE = 10_000
_QUANTILES = 1001
# Landmarks, nearest by matrix products, of which the distances are taken anew.
_NEAR = 4
# Rows that are compared at a time.
_BLOCK = 1024


class Landmarks(NamedTuple):
    """Training rows that others are compared with, and how far rows are from them usually."""

    rows: FloatArray
    """[m, D], scaled as the encoder scales its input"""
    usual: FloatArray
    """Quantiles [q] of the distances of training rows to the nearest landmark but themselves."""

    @classmethod
    def of(cls, X: Any, encoder: keras.Model, *, seed: int = 0) -> Self:
        """Draw at most 4,096 landmarks from training rows X [N, D]."""
        features = int(encoder.inputs[0].shape[1])
        X = X if hasattr(X, "shape") else np.asarray(X)
        if len(X.shape) != 2 or X.shape[1] != features or X.shape[0] < 2:
            raise ValueError(
                f"reference should be two or more rows of {features} columns, as the encoder "
                f"takes. Received: shape {tuple(X.shape)}."
            )
        order = np.random.default_rng(seed).permutation(X.shape[0])
        m = min(len(order), _LANDMARKS, max(2, _NUMBERS // features))
        # Of many rows the distances are those of other rows; of few, of the landmarks themselves.
        sample = np.sort(np.concatenate([order[m:], order[:m]])[:_SAMPLE])
        scaled = scaler(encoder)
        L = np.unique(_scaled(scaled, X, np.sort(order[:m])), axis=0)
        blocks = [sample[start : start + _BLOCK] for start in range(0, len(sample), _BLOCK)]
        with np.errstate(over="ignore", invalid="ignore"):
            found = [_distances(_scaled(scaled, X, block), L) for block in blocks]
        usual = np.quantile(np.concatenate(found), np.linspace(0, 1, _QUANTILES))
        if not 0 < usual[-1] < np.inf:
            raise ValueError(
                "reference should be rows that differ, by amounts whose squares float32 holds, as "
                f"the encoder scales them. Received: distances of {usual[0]:g} to {usual[-1]:g}."
            )
        return cls(L, usual.astype(np.float32))


def scaler(encoder: keras.Model) -> keras.Model:
    """Give the encoder's first layers, as far as they shift and scale each column by itself."""
    x = inputs = keras.Input(encoder.inputs[0].shape[1:], name="features")
    end = encoder.inputs[0]
    layers = [layer for layer in encoder.layers if not isinstance(layer, keras.layers.InputLayer)]
    for layer in layers:
        shifts = isinstance(layer, keras.layers.Normalization | keras.layers.Rescaling)
        if not shifts or layer.input is not end:
            break
        end, x = layer.output, layer(x)
    return keras.Model(inputs, keras.ops.cast(x, "float32"), name="scaler")


class Novelty(tf.Module):
    """Tells new rows in a graph: x [B, D] → [B], from 0, as near as any, to 1, as far as any."""

    def __init__(self, landmarks: Landmarks, encoder: keras.Model) -> None:
        super().__init__()
        self._scaler = scaler(encoder)
        # Centred, so that less of the squares cancels.
        middle = landmarks.rows.mean(axis=0)
        L = landmarks.rows - middle
        self._middle = tf.Variable(middle, trainable=False, name="landmarks_middle")
        self._L = tf.Variable(L, trainable=False, name="landmarks")  # [m, D]
        self._L2 = tf.Variable(np.square(L).sum(axis=1), trainable=False, name="landmarks_squares")
        self._usual = tf.Variable(landmarks.usual, trainable=False, name="usual_distances")
        self._near = min(_NEAR, len(L))

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Part of the training rows that are nearer; 1 for rows that are not finite."""
        X = self._scaler(x, training=False) - self._middle  # [B, D]
        half = tf.matmul(X, self._L, transpose_b=True) - 0.5 * self._L2  # [B, m]
        near = tf.math.top_k(half, self._near, sorted=False).indices  # [B, k]
        D2 = [
            tf.reduce_sum(tf.square(X - tf.gather(self._L, near[:, i])), axis=1)
            for i in range(self._near)
        ]
        distance = tf.sqrt(tf.reduce_min(tf.stack(D2), axis=0))  # [B]
        last = _QUANTILES - 1
        above = tf.clip_by_value(tf.searchsorted(self._usual, distance, side="right"), 1, last)
        low, high = tf.gather(self._usual, above - 1), tf.gather(self._usual, above)
        inside = tf.math.divide_no_nan(distance - low, high - low)
        inside = tf.where(high > low, inside, tf.cast(distance >= high, tf.float32))
        novelty = (tf.cast(above - 1, tf.float32) + tf.clip_by_value(inside, 0.0, 1.0)) / last
        # A training row itself is not new, however many others are at no distance too.
        novelty = tf.where(distance > 0.0, novelty, 0.0)
        finite = tf.reduce_all(tf.math.is_finite(x), axis=1)
        return tf.where(finite & tf.math.is_finite(distance), novelty, 1.0)


def taken(X: Any, chosen: Any) -> FloatArray:
    """Read rows of these ascending numbers: float32 [n, D]."""
    part = X.tocsr()[chosen].toarray() if scipy.sparse.issparse(X) else np.asarray(X)[chosen]
    with np.errstate(over="ignore"):
        part = validation.check_rows(part, name="reference").astype(np.float32)
    return validation.check_rows(part, name="reference, as float32,")


def _scaled(scaled: keras.Model, X: Any, chosen: Any) -> FloatArray:
    """Rows of these ascending numbers as the encoder scales them: [n, D]."""
    return np.asarray(scaled.predict(taken(X, chosen), batch_size=_BLOCK, verbose=0))


def _distances(Z: FloatArray, L: FloatArray) -> FloatArray:
    """Distances [n] of rows [n, D] to the nearest of the landmarks [m, D] but themselves."""
    middle = L.mean(axis=0)
    Z, L = Z - middle, L - middle
    half = Z @ L.T - 0.5 * np.square(L).sum(axis=1)  # [n, m]
    # Products find the nearest, but for what cancels in them; their distances are taken anew.
    k = min(_NEAR + 1, len(L))
    near = np.argpartition(-half, k - 1, axis=1)[:, :k]
    D2 = np.stack([np.square(Z - L[near[:, i]]).sum(axis=1) for i in range(k)], axis=1)
    D2[D2 == 0] = np.inf
    return np.sqrt(D2.min(axis=1))
