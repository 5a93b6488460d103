"""Divergence and closeness at once: t-SNE that stays near places given on a map."""

import functools
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import keras
from keras import ops

from ptsne_keras import losses
from ptsne_keras.typing import Dof, Tensor


def placement(
    P_places: Tensor,
    Y: Tensor,
    *,
    weight: float,
    dof: Dof | Tensor = 1.0,
    exaggeration: float | Tensor = 1.0,
    blocks: int = 1,
) -> Tensor:
    """Row terms of the t-SNE divergence plus those of the distance to given places, in nats.

    With t_i the place that is given for row i, and B rows, row i is ::

        losses.tsne(P, Y)_i  +  λ/B · ‖y_i - t_i‖²

    so that the sum over rows is KL(P‖Q) + λ · mean ‖y - t‖² at exaggeration 1. The first term puts
    a row among its neighbours, and tells rows apart that the map has mixed; the second keeps the
    picture.

    Parameters
    ----------
    P_places : tensor [B, B + d] or [B, 1 + d]
        P as `losses.tsne` takes it, and beside it the places t [B, d].
    Y : tensor [B, d]
        Map coordinates, of the same map: distances about 1 are those of neighbours.
    weight : float
        λ ≥ 0, in nats by squared distance: 0 is plain t-SNE.
    dof, exaggeration, blocks
        As in `losses.tsne`.

    Returns
    -------
    tensor [B]

    Raises
    ------
    ValueError
        As `losses.tsne`, and if `weight` is not a finite number of at least 0.

    Examples
    --------
    >>> P_places = [[0.0, 0.5, 1.0], [0.5, 0.0, 1.0]]  # two rows, both at 1 on the line
    >>> float(sum(placement(P_places, [[0.0], [1.0]], weight=3.0)))  # 3 · (1 + 0) / 2
    1.5

    References
    ----------
    van der Maaten (2009), equations 1-4, for the divergence.
    """
    P_places, Y = ops.convert_to_tensor(P_places), ops.convert_to_tensor(Y)
    _check_weight(weight)
    P, places = split(P_places, Y)
    rows = losses.tsne(P, Y, dof=dof, exaggeration=exaggeration, blocks=blocks)
    D2 = ops.sum(ops.square(ops.cast(Y, rows.dtype) - ops.cast(places, rows.dtype)), axis=-1)  # [B]
    return rows + D2 * (weight / ops.cast(ops.shape(rows)[0] // blocks, rows.dtype))


def split(P_places: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """P [B, B] or [B, 1], and the places [B, d] beside it."""
    P_places = ops.convert_to_tensor(P_places)
    width, d = P_places.shape[-1], Y.shape[-1]
    if width is not None and width <= d:
        raise ValueError(
            "y_true should be P [B, B] or [B, 1] and beside it the places [B, d] of the rows, such "
            "as batches.from_graph(places=…) gives them. "
            f"Received: {width} columns, for a map of {d} dimensions."
        )
    return P_places[:, :-d], P_places[:, -d:]


def _check_weight(weight: Any) -> None:
    if (
        not isinstance(weight, Real)
        or isinstance(weight, bool)
        or not 0 <= float(weight) < math.inf
    ):
        raise ValueError(f"weight should be a finite number of at least 0. Received: {weight!r}.")


@keras.saving.register_keras_serializable(package="ptsne_keras")
class Placement(losses.TSNE):
    """`placement` as a Keras loss: t-SNE that stays near a map that is given.

    y_true is P with the places of the rows beside it, as `batches.from_graph(places=…)` makes them.

    Parameters
    ----------
    weight : float
        λ ≥ 0, in nats by squared distance; divided by the map's variance it does not depend on its
        units.
    **options
        As in `losses.TSNE`.

    Examples
    --------
    >>> model = networks.encoder(X.shape[1], 2)
    >>> model.compile("adam", loss=Placement(weight=10 / Y.var()))
    >>> model.fit(batches.from_graph(X, 15, 100, places=Y), epochs=5)
    """

    def __init__(self, weight: float = 1.0, **options: Any) -> None:
        super().__init__(**{"name": "placement", **options})
        _check_weight(weight)
        self.weight = float(weight)

    def _terms(self) -> Callable[[Tensor, Tensor], Tensor]:
        return functools.partial(
            placement,
            weight=self.weight,
            dof=self.dof,
            exaggeration=self.exaggeration,
            blocks=self.blocks,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the configuration from which `from_config` makes an equal loss."""
        return {**super().get_config(), "weight": self.weight}


@keras.saving.register_keras_serializable(package="ptsne_keras")
class PlacementError(keras.metrics.Mean):
    """Mean squared distance of rows from their given places, as a part of the map's variance.

    Parameters
    ----------
    variance : float
        Mean squared distance of places from their mean.

    Examples
    --------
    >>> metric = PlacementError(variance=2.0)
    >>> metric.update_state([[0.5, 1.0], [0.5, 3.0]], np.array([[1.0], [1.0]]))
    >>> float(metric.result())  # (0 + 4) / 2 / 2
    1.0
    """

    def __init__(self, variance: float = 1.0, name: str = "error", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.variance = float(variance)

    def update_state(self, P_places: Tensor, Y: Tensor, sample_weight: Any = None) -> Any:
        """Add a batch."""
        Y = ops.convert_to_tensor(Y)
        places = ops.cast(split(P_places, Y)[1], Y.dtype)
        D2 = ops.sum(ops.square(Y - places), axis=-1) / self.variance
        return super().update_state(D2, sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration from which `from_config` makes an equal metric."""
        return {**super().get_config(), "variance": self.variance}
