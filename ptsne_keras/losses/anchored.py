"""The t-SNE divergence plus the distance of rows from given places on a map."""

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from ptsne_keras.losses.tsne import TSNE, tsne
from ptsne_keras.typing import Dof, Tensor
from ptsne_keras.utils.validation import check_not_negative


def anchored_tsne(
    P_anchors: Tensor,
    Y: Tensor,
    *,
    weight: float,
    dof: Dof | Tensor = 1.0,
    exaggeration: float | Tensor = 1.0,
    blocks: int = 1,
) -> Tensor:
    """Return the row terms of t-SNE that keeps rows near given places, in nats.

    With a_i the anchor of row i, its given place on the map, and B rows, the term of row i is ::

        losses.tsne(P, Y)_i  +  λ/B · ‖y_i - a_i‖²

    Their sum is KL(P‖Q) + λ · mean ‖y - a‖² at exaggeration 1. The first part places a row among
    its neighbours, and separates rows that the given map mixes; the second preserves that map.

    Parameters
    ----------
    P_anchors : tensor of shape [B, B + d] or [B, 1 + d]
        P as in :func:`tsne`, followed by the anchors [B, d].
    Y : tensor of shape [B, d]
        Coordinates on the same map, in units in which neighbours are about 1 apart.
    weight : float
        λ ≥ 0, in nats per squared distance. 0 is plain t-SNE.
    dof : float, "auto" or scalar tensor, default=1.0
        Degrees of freedom of the Student-t kernel, as in :func:`tsne`.
    exaggeration : float or scalar tensor, default=1.0
        Weight of the attraction, as in :func:`tsne`.
    blocks : int, default=1
        Number of batches that are stacked, as in :func:`tsne`.

    Returns
    -------
    tensor of shape [B]

    Raises
    ------
    ValueError
        If `weight` is not a finite number of at least 0, and as :func:`tsne`.

    Examples
    --------
    >>> P_anchors = [[0.0, 0.5, 1.0], [0.5, 0.0, 1.0]]  # two rows, both anchored at 1 on the line
    >>> float(sum(anchored_tsne(P_anchors, [[0.0], [1.0]], weight=3.0)))  # 3 · (1 + 0) / 2
    1.5

    References
    ----------
    van der Maaten (2009), equations 1-4, for the divergence.
    """
    check_not_negative(weight, "weight")
    Y = ops.convert_to_tensor(Y)
    P, anchors = split_anchors(P_anchors, Y)
    rows = tsne(P, Y, dof=dof, exaggeration=exaggeration, blocks=blocks)
    D2 = ops.sum(ops.square(ops.cast(Y, rows.dtype) - ops.cast(anchors, rows.dtype)), axis=-1)
    return rows + D2 * (weight / ops.cast(ops.shape(rows)[0] // blocks, rows.dtype))


def split_anchors(P_anchors: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """Return P [B, B] or [B, 1], and the anchors [B, d] that follow it."""
    P_anchors = ops.convert_to_tensor(P_anchors)
    width, d = P_anchors.shape[-1], Y.shape[-1]
    if width is not None and width <= d:
        raise ValueError(
            "y_true should be P [B, B] or [B, 1] followed by the places [B, d] of the rows, such "
            f"as batches.from_graph(places=…) gives. Received: {width} columns, for a map of {d} "
            "dimensions."
        )
    return P_anchors[:, :-d], P_anchors[:, -d:]


@keras.saving.register_keras_serializable(package="ptsne_keras")
class AnchoredTSNE(TSNE):
    """Keras loss of t-SNE that keeps rows near their places on a given map.

    y_true is P followed by the places of the rows, as `batches.from_graph(places=…)` makes it. The
    loss is the sum of the row terms of :func:`anchored_tsne`.

    Parameters
    ----------
    weight : float, default=1.0
        λ ≥ 0, in nats per squared distance. A multiple of one over the variance of the map does
        not depend on the map's units.
    **options
        `dof`, `exaggeration`, `blocks`, `jit_compile`, `name`, `reduction` and `dtype`, as in
        :class:`TSNE`.

    Raises
    ------
    ValueError
        If `weight` is not a finite number of at least 0, and as :class:`TSNE`.

    Examples
    --------
    >>> model = networks.encoder(X.shape[1], 2)
    >>> model.compile("adam", loss=AnchoredTSNE(weight=10 / Y.var()))
    >>> model.fit(batches.from_graph(X, 15, 100, places=Y), epochs=5)
    """

    def __init__(self, weight: float = 1.0, **options: Any) -> None:
        super().__init__(**{"name": "anchored_tsne", **options})
        self.weight = check_not_negative(weight, "weight")

    def _terms(self) -> Callable[[Tensor, Tensor], Tensor]:
        return functools.partial(anchored_tsne, weight=self.weight, **self._options())

    def get_config(self) -> dict[str, Any]:
        """Return the configuration from which `from_config` makes an equal loss."""
        return {**super().get_config(), "weight": self.weight}
