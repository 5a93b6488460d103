"""Keras metrics of a map inside a batch, for `compile(metrics=…)`: they take (P, Y)."""

from numbers import Integral
from typing import Any

import keras
import numpy as np
from keras import ops

from ptsne_keras.typing import Tensor
from ptsne_keras.utils import distribution

# Rows of a batch that are looked at, by default: a few milliseconds' work in a batch of 2,500.
_ROWS = 32


class _BatchMetric(keras.metrics.Mean):
    """A mean over some rows of each batch."""

    def __init__(
        self, k: int, rows: int, name: str, dtype: Any, *, blocks: int, spread: int
    ) -> None:
        if not all(isinstance(n, Integral) and n >= 1 for n in (k, rows)):
            raise ValueError(
                f"k and rows should be integers of at least 1. Received: k={k!r}, rows={rows!r}."
            )
        distribution.check_blocks(blocks)
        super().__init__(name=name, dtype=dtype)
        self.k = k
        self.rows = rows
        self.blocks = blocks
        self._least = spread * k + 1  # rows of a batch

    def update_state(self, P: Tensor, Y: Tensor, sample_weight: Any = None) -> None:
        """Add a batch: P [B, B] or [B, 1] and map coordinates Y [B, d]; weights are ignored."""
        P, Y = ops.convert_to_tensor(P), ops.cast(Y, "float32")
        super().update_state(distribution.by_block(self._values, self.blocks, P, Y))

    def _values(self, P: Tensor, Y: Tensor) -> Tensor:
        """Values [m] of one batch."""
        B = ops.shape(Y)[0]
        if Y.shape[0] is not None and Y.shape[0] < self._least:
            raise ValueError(
                f"k should be smaller, or batches of at least {self._least} rows. "
                f"Received: k={self.k}, a batch of {Y.shape[0]}."
            )
        # A number where B is one, as on JAX, which slices by nothing else.
        m = min(self.rows, B) if isinstance(B, int) else ops.minimum(self.rows, B)
        i = ops.arange(self.rows)[:m] * B // m  # evenly spread
        own = i[:, None] == ops.arange(B)[None]  # [m, B]
        D2 = ops.sum(ops.square(ops.take(Y, i, axis=0)[:, None] - Y[None]), axis=-1)
        neighbors = ops.top_k(self._padded(ops.where(own, -np.inf, -D2), -np.inf), self.k)[1]
        if P.shape[-1] == 1:
            values = self.of_pairs((i + B // 2) % B, neighbors)
        else:
            P = self._padded(ops.where(own, -1.0, ops.take(P, i, axis=0)), -1.0)
            values = self.of_rows(P, neighbors, ops.cast(B, "float32"))
        return ops.where(self._least <= B, values, np.nan)

    def _padded(self, x: Tensor, value: float) -> Tensor:
        """Add k columns, so that there are always k to choose from."""
        return ops.pad(x, ((0, 0), (0, self.k)), constant_values=value)

    def of_rows(self, P: Tensor, neighbors: Tensor, B: Tensor) -> Tensor:
        """Values [m] of map neighbours [m, k]; P [m, B + k] is below 0 at the row and behind B."""
        raise NotImplementedError

    def of_pairs(self, partners: Tensor, neighbors: Tensor) -> Tensor:
        """Values [m], given the one partner [m] of each row, and map neighbours [m, k]."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the configuration from which `from_config` makes an equal metric."""
        return {**super().get_config(), "k": self.k, "rows": self.rows, "blocks": self.blocks}


@keras.saving.register_keras_serializable(package="ptsne_keras")
class NeighborRecall(_BatchMetric):
    """Share of the k nearest rows by P that are among the k nearest on the map, in a batch.

    Where P is [B, 1], of pairs: share of rows whose partner is among the k nearest on the map.

    Parameters
    ----------
    k : int
        Neighbours, fewer than the rows of a batch; NaN where a batch turns out to have no more.
    rows : int
        Rows of each batch that are looked at, evenly spread.
    blocks : int
        How many batches are stacked in one; see `losses.TSNE`.

    Examples
    --------
    >>> model.compile("adam", loss=losses.TSNE(), metrics=[NeighborRecall(k=10)])
    >>> history = model.fit(batches.from_array(X, 30, seed=0), epochs=5)
    """

    def __init__(
        self,
        k: int = 10,
        rows: int = _ROWS,
        name: str = "neighbor_recall",
        dtype: Any = None,
        *,
        blocks: int = 1,
    ) -> None:
        super().__init__(k, rows, name, dtype, blocks=blocks, spread=1)

    def of_rows(self, P: Tensor, neighbors: Tensor, B: Tensor) -> Tensor:
        """Compare with the k-th largest p_ij of each row; p_ij = 0 is no neighbour."""
        least = ops.top_k(P, self.k)[0][:, -1:]  # [m, 1]
        p = ops.take_along_axis(P, neighbors, axis=1)  # [m, k]
        return ops.mean(ops.cast((p >= least) & (p > 0), "float32"), axis=1)

    def of_pairs(self, partners: Tensor, neighbors: Tensor) -> Tensor:
        """Look for the partner."""
        return ops.cast(ops.any(neighbors == partners[:, None], axis=1), "float32")


@keras.saving.register_keras_serializable(package="ptsne_keras")
class Trustworthiness(_BatchMetric):
    """Trustworthiness T(k) in a batch: how far map neighbours are neighbours by P.

    T(k) = 1 - 2 / (m k (2B - 3k - 1)) Σ_i Σ_j max(r(i, j) - k, 0) over m rows i and their k map
    neighbours j, where r(i, j) ≥ 1 is the rank of p_ij in row i of P; equal p_ij have their mean
    rank. Needs P [B, B].

    Parameters
    ----------
    k : int
        Neighbours, below B / 2; NaN where a batch turns out to be smaller.
    rows : int
        m, rows of each batch that are looked at, evenly spread.
    blocks : int
        How many batches are stacked in one; see `losses.TSNE`.

    Examples
    --------
    >>> model.compile("adam", loss=losses.TSNE(), metrics=[Trustworthiness(k=12)])
    >>> history = model.fit(batches.from_array(X, 30, seed=0), epochs=5)

    References
    ----------
    Venna & Kaski (2001).
    """

    def __init__(
        self,
        k: int = 12,
        rows: int = _ROWS,
        name: str = "trustworthiness",
        dtype: Any = None,
        *,
        blocks: int = 1,
    ) -> None:
        super().__init__(k, rows, name, dtype, blocks=blocks, spread=2)

    def of_rows(self, P: Tensor, neighbors: Tensor, B: Tensor) -> Tensor:
        """Rank the map neighbours by counting what is larger, which needs no sorting."""
        p = ops.take_along_axis(P, neighbors, axis=1)[:, :, None]  # [m, k, 1]
        above = ops.sum(ops.cast(P[:, None] > p, "float32"), axis=-1)  # [m, k]
        equal = ops.sum(ops.cast(P[:, None] == p, "float32"), axis=-1)  # itself too
        excess = ops.maximum(above + 0.5 * (equal + 1.0) - self.k, 0.0)
        return 1.0 - 2.0 * ops.sum(excess, axis=1) / (self.k * (2.0 * B - 3.0 * self.k - 1.0))

    def of_pairs(self, partners: Tensor, neighbors: Tensor) -> Tensor:
        """Pairs have no ranks."""
        raise ValueError(
            "Trustworthiness should have P [B, B], such as batches.from_array gives, to rank "
            "neighbours. Received: P [B, 1], of pairs."
        )
