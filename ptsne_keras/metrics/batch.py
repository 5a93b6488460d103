"""Keras metrics of a map inside a batch, for `compile(metrics=…)`."""

from typing import Any

import keras
import numpy as np
from keras import ops

from ptsne_keras.typing import Tensor
from ptsne_keras.utils import distribution
from ptsne_keras.utils.validation import check_integer

# Rows of a batch that are examined by default: a few milliseconds of work in a batch of 2,500.
_SAMPLE = 32


class _NeighborMetric(keras.metrics.Mean):
    """Mean of a measure of neighbours over some rows of each batch."""

    # A batch has at least this many rows per neighbour, and one more.
    spread = 1

    def __init__(
        self, n_neighbors: int, sample_size: int, *, blocks: int = 1, **options: Any
    ) -> None:
        super().__init__(**options)
        self.n_neighbors = check_integer(n_neighbors, "n_neighbors")
        self.sample_size = check_integer(sample_size, "sample_size")
        self.blocks = check_integer(blocks, "blocks")

    def update_state(self, P: Tensor, Y: Tensor, sample_weight: Any = None) -> None:
        """Add a batch: P [B, B] or [B, 1] and map coordinates Y [B, d]; weights are ignored."""
        P, Y = ops.convert_to_tensor(P), ops.cast(Y, "float32")
        super().update_state(distribution.by_block(self._values, self.blocks, P, Y))

    def _values(self, P: Tensor, Y: Tensor) -> Tensor:
        """Return the values [m] of one batch."""
        B, least = ops.shape(Y)[0], self.spread * self.n_neighbors + 1
        if Y.shape[0] is not None and Y.shape[0] < least:
            raise ValueError(
                f"n_neighbors should be smaller, or batches have at least {least} rows. "
                f"Received: n_neighbors={self.n_neighbors}, a batch of {Y.shape[0]}."
            )
        # On JAX B is a number, as slices there have to be.
        m = min(self.sample_size, B) if isinstance(B, int) else ops.minimum(self.sample_size, B)
        i = ops.arange(self.sample_size, dtype="int32")[:m] * B // m  # evenly spread
        own = i[:, None] == ops.arange(B, dtype="int32")[None]  # [m, B]
        D2 = ops.sum(ops.square(ops.take(Y, i, axis=0)[:, None] - Y[None]), axis=-1)
        near = self._padded(ops.where(own, -np.inf, -D2), -np.inf)
        neighbors = ops.top_k(near, self.n_neighbors)[1]  # [m, k]
        if P.shape[-1] == 1:
            values = self._of_pairs((i + B // 2) % B, neighbors)
        else:
            P = self._padded(ops.where(own, -1.0, ops.take(P, i, axis=0)), -1.0)
            values = self._of_rows(P, neighbors, ops.cast(B, "float32"))
        return ops.where(least <= B, values, np.nan)

    def _padded(self, x: Tensor, value: float) -> Tensor:
        """Add k columns, so that there are always k to choose from."""
        return ops.pad(x, ((0, 0), (0, self.n_neighbors)), constant_values=value)

    def _of_rows(self, P: Tensor, neighbors: Tensor, B: Tensor) -> Tensor:
        """Return values [m] of map neighbours [m, k]; P [m, B + k] is -1 at itself and after B."""
        raise NotImplementedError

    def _of_pairs(self, partners: Tensor, neighbors: Tensor) -> Tensor:
        """Return values [m] for the one partner [m] of each row and its map neighbours [m, k]."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the configuration from which `from_config` makes an equal metric."""
        names = ("n_neighbors", "sample_size", "blocks")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="ptsne_keras")
class NeighborRecall(_NeighborMetric):
    """Share of the k nearest rows by P that are among the k nearest on the map, in a batch.

    For pairs, P [B, 1], it is the share of rows whose partner is among their k nearest on the map.

    Parameters
    ----------
    n_neighbors : int, default=10
        k, smaller than a batch; the metric is NaN if a batch turns out to have too few rows.
    sample_size : int, default=32
        Number of rows of each batch that are examined, evenly spread.
    **options
        `blocks`, default=1, the number of batches that are stacked in one, as in `losses.TSNE`;
        `name`, default="neighbor_recall", and `dtype`, as in every Keras metric.

    Raises
    ------
    ValueError
        If a number is not an integer of at least 1, or a batch of known size is too small.

    Examples
    --------
    >>> model.compile("adam", loss=losses.TSNE(), metrics=[NeighborRecall(n_neighbors=10)])
    >>> history = model.fit(data.from_array(X, 30, seed=0), epochs=5, shuffle=False)
    """

    def __init__(self, n_neighbors: int = 10, sample_size: int = _SAMPLE, **options: Any) -> None:
        super().__init__(n_neighbors, sample_size, **{"name": "neighbor_recall", **options})

    def _of_rows(self, P: Tensor, neighbors: Tensor, B: Tensor) -> Tensor:
        # Compare with the k-th largest p_ij of each row; p_ij = 0 is not a neighbour.
        least = ops.top_k(P, self.n_neighbors)[0][:, -1:]  # [m, 1]
        p = ops.take_along_axis(P, neighbors, axis=1)  # [m, k]
        return ops.mean(ops.cast((p >= least) & (p > 0), "float32"), axis=1)

    def _of_pairs(self, partners: Tensor, neighbors: Tensor) -> Tensor:
        return ops.cast(ops.any(neighbors == partners[:, None], axis=1), "float32")


@keras.saving.register_keras_serializable(package="ptsne_keras")
class Trustworthiness(_NeighborMetric):
    """Trustworthiness T(k) in a batch: whether neighbours on the map are neighbours by P.

    T(k) = 1 - 2 / (m k (2B - 3k - 1)) Σ_i Σ_j max(r(i, j) - k, 0) over m rows i and their k map
    neighbours j, where r(i, j) ≥ 1 is the rank of p_ij in row i of P [B, B]; ties share a rank.
    Compare :func:`trustworthiness`, which names the source.

    Parameters
    ----------
    n_neighbors : int, default=12
        k, below B / 2.
    sample_size, **options
        As in :class:`NeighborRecall`.

    Raises
    ------
    ValueError
        As :class:`NeighborRecall`, and if P is [B, 1].

    Examples
    --------
    >>> model.compile("adam", loss=losses.TSNE(), metrics=[Trustworthiness(n_neighbors=12)])
    >>> history = model.fit(data.from_array(X, 30, seed=0), epochs=5, shuffle=False)
    """

    spread = 2

    def __init__(self, n_neighbors: int = 12, sample_size: int = _SAMPLE, **options: Any) -> None:
        super().__init__(n_neighbors, sample_size, **{"name": "trustworthiness", **options})

    def _of_rows(self, P: Tensor, neighbors: Tensor, B: Tensor) -> Tensor:
        # Ranks come from counting larger values, which needs no sorting.
        k = self.n_neighbors
        p = ops.take_along_axis(P, neighbors, axis=1)[:, :, None]  # [m, k, 1]
        above = ops.sum(ops.cast(P[:, None] > p, "float32"), axis=-1)  # [m, k]
        equal = ops.sum(ops.cast(P[:, None] == p, "float32"), axis=-1)  # itself too
        excess = ops.maximum(above + 0.5 * (equal + 1.0) - k, 0.0)
        return 1.0 - 2.0 * ops.sum(excess, axis=1) / (k * (2.0 * B - 3.0 * k - 1.0))

    def _of_pairs(self, partners: Tensor, neighbors: Tensor) -> Tensor:
        raise ValueError(
            "Trustworthiness should have P [B, B], such as data.from_array gives, to rank "
            "neighbours. Received: P [B, 1], of pairs."
        )
