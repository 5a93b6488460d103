"""Novelty of rows: the distance to the nearest of some training rows, as a quantile.

The distance of a row to the nearest landmark is compared with the distances that training rows have
to their nearest landmark: 0 is a training row itself, 0.5 a usual row, 1 a row that is farther away
than any training row.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import keras
import numpy as np

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays, validation

# The most landmarks, and the most numbers in them: 64 MB.
_LANDMARKS = 4096
_NUMBERS = 1 << 24
# The most training rows whose distances are measured, and how many quantiles of them are kept.
_SAMPLE = 10_000
_QUANTILES = 1001
# Products of matrices find this many candidates; their distances are computed from differences.
NEAREST = 8
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
        with np.errstate(over="ignore", invalid="ignore"):
            found = [
                _distances(read(sample[start : start + _BLOCK]), rows, others=True)
                for start in range(0, len(sample), _BLOCK)
            ]
        distances = np.concatenate(found)
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

    def novelty(self, X: Any) -> FloatArray:
        """Return the novelty [N] of rows [N, D], in [0, 1]; 1 for rows that are not finite."""
        found = [np.empty(0, np.float32)]
        levels = np.linspace(0, 1, len(self.usual))
        for part in arrays.row_blocks(X, rows=_BLOCK):
            finite = np.isfinite(part).all(axis=1)
            with np.errstate(over="ignore", invalid="ignore"):
                distances = _distances(_scaled(self._scale, part), self.rows)
            novelty = np.where(distances > 0, np.interp(distances, self.usual, levels), 0.0)
            found.append(np.where(finite & np.isfinite(distances), novelty, 1.0).astype(np.float32))
        return np.concatenate(found)


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


def _distances(Z: FloatArray, L: FloatArray, *, others: bool = False) -> FloatArray:
    """Return the distances [n] to the nearest landmark, or the nearest other than the row."""
    middle = L.mean(axis=0)
    Z, L = Z - middle, L - middle  # less is lost to cancellation
    half = Z @ L.T - 0.5 * np.square(L).sum(axis=1)  # [n, m]
    k = min(NEAREST + others, len(L))
    near = np.argpartition(-half, k - 1, axis=1)[:, :k]
    D2 = np.stack([np.square(Z - L[near[:, i]]).sum(axis=1) for i in range(k)], axis=1)
    if others:
        D2[D2 == 0] = np.inf
    return np.sqrt(D2.min(axis=1))
