"""Novelty of rows: the distance to the nearest of some training rows, as a quantile.

The distance of a row to the nearest landmark is compared with the distances that training rows have
to their nearest landmark: 0 is a training row itself, 0.5 a usual row, 1 a row that is farther away
than any training row.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays, validation

# The most landmarks, and the most numbers in them: 64 MB.
_LANDMARKS = 4096
_NUMBERS = 1 << 24
# The most training rows whose distances are measured, and how many quantiles of them are kept.
_SAMPLE = 10_000
_QUANTILES = 1001
# Products of matrices find this many candidates; their distances are computed from differences.
_NEAREST = 8
_BLOCK = 1024

Scale = Callable[[FloatArray], Any]


class Landmarks:
    """Training rows that new rows are compared with, and the usual distances to them."""

    def __init__(self, rows: FloatArray, usual: FloatArray, scale: Scale | None = None) -> None:
        self.rows = rows  # [m, D], scaled
        self.usual = usual  # [q], quantiles of the training rows' distances
        self._scale = scale

    @classmethod
    def of(cls, X: Any, *, scale: Scale | None = None, seed: int = 0, name: str = "X") -> Self:
        """Choose landmarks among training rows X [N, D], dense or sparse; N ≥ 2."""
        X = X if hasattr(X, "shape") else np.asarray(X)

        def read(chosen: Any) -> FloatArray:
            part = arrays.rows_at(X, chosen)
            return _scaled(scale, validation.check_rows(part, name=name, dtype=np.float32))

        order = np.random.default_rng(seed).permutation(X.shape[0])
        m = min(len(order), _LANDMARKS, max(2, _NUMBERS // X.shape[1]))
        # Measure rows that are no landmarks; where there are too few, the landmarks as well.
        sample = np.sort(np.concatenate([order[m:], order[:m]])[:_SAMPLE])
        rows = np.unique(read(np.sort(order[:m])), axis=0)
        centre, L, squares = _centred(rows)
        found = [
            _distances(read(sample[part]) - centre, L, squares, others=True)
            for part in arrays.row_slices(len(sample), _BLOCK)
        ]
        distances = np.concatenate([ops.convert_to_numpy(part) for part in found])
        if not 0 < distances.max() < np.inf:
            raise ValueError(
                f"{name} should have rows that differ, with squared distances within float32, once "
                f"scaled as the encoder does. Received: distances of {distances.min():g} to "
                f"{distances.max():g}."
            )
        usual = np.quantile(distances, np.linspace(0, 1, _QUANTILES))
        return cls(rows, usual.astype(np.float32), scale)

    @classmethod
    def from_arrays(cls, saved: Mapping[str, Any], *, scale: Scale | None = None) -> Self:
        """Return the landmarks that `arrays` described."""
        return cls(np.asarray(saved["rows"]), np.asarray(saved["usual"]), scale)

    def arrays(self) -> dict[str, FloatArray]:
        """Return what to save; `scale` is the caller's to save."""
        return {"rows": self.rows, "usual": self.usual}

    def tensors(self) -> tuple[FloatArray, ...]:
        """Return what the function `novelty` takes beside rows."""
        return (*_centred(self.rows), self.usual)

    def novelty(self, X: Any) -> FloatArray:
        """Return the novelty [N] of rows [N, D], in [0, 1]; 1 for rows that are not finite."""
        known = [ops.convert_to_tensor(array) for array in self.tensors()]
        found = [np.empty(0, np.float32)]
        for part in arrays.row_blocks(X, rows=_BLOCK):
            found.append(ops.convert_to_numpy(novelty(_scaled(self._scale, part), *known)))
        return np.concatenate(found)


def novelty(z: Any, centre: Any, L: Any, squares: Any, usual: Any) -> Any:
    """Return the novelty [B] of scaled rows [B, D] as a tensor; 1 for rows that are not finite."""
    distance = _distances(z - centre, L, squares)
    last = usual.shape[0] - 1
    above = ops.clip(ops.searchsorted(usual, distance, side="right"), 1, last)
    low, high = ops.take(usual, above - 1), ops.take(usual, above)
    inside = ops.clip(ops.divide_no_nan(distance - low, high - low), 0.0, 1.0)
    inside = ops.where(high > low, inside, ops.cast(distance >= high, "float32"))
    quantile = (ops.cast(above - 1, "float32") + inside) / last
    # A landmark itself is not new, even where the lowest quantiles are 0 as well.
    quantile = ops.where(distance > 0.0, quantile, 0.0)
    return ops.where(ops.isfinite(distance), quantile, 1.0)


def scaler(encoder: keras.Model) -> keras.Model:
    """Return a model of the encoder's first layers, as far as they scale each column by itself."""
    x = inputs = keras.Input(encoder.inputs[0].shape[1:], name="features")
    end = encoder.inputs[0]
    layers = [layer for layer in encoder.layers if not isinstance(layer, keras.layers.InputLayer)]
    for layer in layers:
        scales = isinstance(layer, keras.layers.Normalization | keras.layers.Rescaling)
        if not scales or layer.input is not end:
            break
        end, x = layer.output, layer(x)
    return keras.Model(inputs, keras.ops.cast(x, "float32"), name="scaler")


def scale_of(encoder: keras.Model) -> Scale:
    """Return a function that scales rows [n, D] as the encoder does."""
    model = scaler(encoder)
    return lambda rows: model(rows, training=False)


def _scaled(scale: Scale | None, rows: FloatArray) -> FloatArray:
    return rows if scale is None else np.asarray(scale(rows), np.float32)


def _centred(rows: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the centre, the rows relative to it, which lose less to cancellation, and squares."""
    centre = rows.mean(axis=0)
    L = rows - centre
    with np.errstate(over="ignore"):
        return centre, L, np.square(L).sum(axis=1)


def _distances(Z: Any, L: Any, squares: Any, *, others: bool = False) -> Any:
    """Return the distances [B] to the nearest landmark, or the nearest that is not the row."""
    k = min(_NEAREST + others, L.shape[0])
    half = ops.matmul(Z, ops.transpose(L)) - 0.5 * squares  # [B, m]
    near = ops.top_k(half, k, sorted=False)[1]
    D2 = [ops.sum(ops.square(Z - ops.take(L, near[:, i], axis=0)), axis=1) for i in range(k)]
    if others:
        D2 = [ops.where(d2 == 0, np.inf, d2) for d2 in D2]
    return ops.sqrt(ops.min(ops.stack(D2), axis=0))
