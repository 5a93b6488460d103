"""The t-SNE divergence as a Keras loss."""

import math
from typing import Any

import keras
from keras import ops

from ptsne_keras.typing import Dof, Tensor

# Up to this many map dimensions squared distances are summed coordinate by coordinate, which has
# no cancellation; above it a matmul is much cheaper and maps are not that far from their centre.
_DIRECT_DIMENSIONS = 8
# Just above the smallest normal number of float32 and bfloat16.
_SMALLEST = 1.2e-38


def degrees_of_freedom(dof: Dof, d: int) -> float:
    """Resolve `dof` for a map of `d` dimensions: a number > 0, or "auto" = max(d - 1, 1).

    Raises
    ------
    ValueError
        If `dof` is neither "auto" nor a finite number above 0.

    Examples
    --------
    >>> degrees_of_freedom("auto", 3)
    2.0

    References
    ----------
    van der Maaten (2009), section 3: α = d - 1; that is 0 at d = 1, hence the maximum.
    """
    if isinstance(dof, str):
        if dof == "auto":
            return float(max(d - 1, 1))
    elif not isinstance(dof, bool) and math.isfinite(dof) and dof > 0:
        return float(dof)
    raise ValueError(f'dof should be a finite number above 0 or "auto". Received: {dof!r}.')


def squared_distances(Y: Tensor) -> Tensor:
    """Squared Euclidean distances between all rows: D²[i, j] = ‖y_i - y_j‖², Y [B, d] → [B, B].

    Squares only: the gradient of a norm is NaN at coincident rows.

    Examples
    --------
    >>> squared_distances([[0.0, 0.0], [3.0, 4.0]])[0, 1]  # 25.0
    """
    Y = ops.convert_to_tensor(Y)
    d = Y.shape[-1]
    if d is not None and d <= _DIRECT_DIMENSIONS:
        columns = [Y[:, c] for c in range(d)]
        return sum(ops.square(y[:, None] - y[None, :]) for y in columns)  # [B, B]
    Y = Y - ops.mean(Y, axis=0, keepdims=True)  # centring shrinks what cancels below
    norms = ops.sum(ops.square(Y), axis=-1)  # [B]
    D2 = norms[:, None] + norms[None, :] - 2.0 * ops.matmul(Y, ops.transpose(Y))  # [B, B]
    return ops.maximum(D2, 0.0)


def tsne(P: Tensor, Y: Tensor, *, dof: Dof = 1.0, exaggeration: float = 1.0) -> Tensor:
    """Row terms of the t-SNE divergence, in nats; their sum is KL(P‖Q) at exaggeration c = 1.

    With w_ij = (1 + ‖y_i - y_j‖²/α)^(-(α+1)/2) and Z = Σ_{k≠l} w_kl, row i is ::

        Σ_j p_ij log p_ij  -  c Σ_j p_ij log w_ij  +  (Σ_j p_ij) log Z

    Everything stays in the log domain: no floor on Q, finite at coincident points.

    Parameters
    ----------
    P : tensor [B, B] or [B, 1]
        Joint probabilities: symmetric, zero diagonal, total 1. Or, where each row has one partner,
        B/2 rows further on, and p_ij = 0 for all others, just those numbers: row i of [B, 1] is
        p_ij for j = (i + B/2) mod B. The loss is the same, in a third of the time.
    Y : tensor [B, d]
        Map coordinates.
    dof : float or "auto"
        Degrees of freedom α of the Student-t kernel; "auto" is max(d - 1, 1).
    exaggeration : float
        c, the weight of the attraction. Multiplying P itself by c would only rescale the gradient,
        which does nothing under Adam.

    Returns
    -------
    tensor [B]
        Row terms, nats.

    Raises
    ------
    ValueError
        If the static shapes do not fit, `dof` is not a number above 0 or "auto", or
        `exaggeration` is not above 0.

    Examples
    --------
    >>> P = [[0.0, 0.5], [0.5, 0.0]]
    >>> float(sum(tsne(P, [[0.0], [1.0]])))  # two points: Q = P, so KL = 0
    0.0

    References
    ----------
    van der Maaten (2009), equations 1-4; van der Maaten & Hinton (2008), equation 5.
    """
    P, Y = ops.convert_to_tensor(P), ops.convert_to_tensor(Y)
    dtype = keras.backend.result_type(P.dtype, Y.dtype, float)  # P is often the more precise
    P, Y = ops.cast(P, dtype), ops.cast(Y, dtype)
    _check_shapes(P, Y)
    _check_exaggeration(exaggeration)
    alpha = degrees_of_freedom(dof, Y.shape[-1])
    D2 = squared_distances(Y)  # [B, B]
    log_Z = _log_normalizer(D2, alpha)  # []
    if P.shape[-1] == 1:
        partners = ops.roll(Y, ops.shape(Y)[0] // 2, axis=0)
        D2 = ops.sum(ops.square(Y - partners), axis=-1, keepdims=True)  # [B, 1]
    attraction = ops.sum(P * _log_kernel(D2, alpha), axis=-1)  # [B]
    # p log p → 0 as p → 0: the floor keeps the logarithm finite, and p itself is not floored.
    negative_entropy = ops.sum(P * ops.log(ops.maximum(P, _SMALLEST)), axis=-1)  # [B]
    return negative_entropy - exaggeration * attraction + ops.sum(P, axis=-1) * log_Z


def _log_kernel(D2: Tensor, alpha: float) -> Tensor:
    """Give log w ≤ 0 of squared distances."""
    return -0.5 * (alpha + 1.0) * ops.log1p(D2 / alpha)


def _log_normalizer(D2: Tensor, alpha: float) -> Tensor:
    """Give log Σ w over all pairs of different rows, D2 [B, B]."""
    diagonal = ops.eye(ops.shape(D2)[0], dtype="bool")
    if alpha == 1.0:
        # w = 1 / (1 + d²) is above 0 as long as d² is finite: a division in place of a logarithm
        # and an exponential a pair.
        return ops.log(ops.sum(ops.where(diagonal, 0.0, 1.0 / (1.0 + D2))))
    return ops.logsumexp(ops.where(diagonal, -math.inf, _log_kernel(D2, alpha)))


def _check_exaggeration(exaggeration: float) -> None:
    if not exaggeration > 0:
        raise ValueError(f"exaggeration should be above 0. Received: {exaggeration!r}.")


def _check_shapes(P: Tensor, Y: Tensor) -> None:
    """Raise unless P and Y can belong together, as far as static shapes tell."""
    p, y = tuple(P.shape), tuple(Y.shape)
    fits = len(p) == 2 and len(y) == 2 and y[1] is not None
    if fits and p[1] == 1:  # pairs
        known = {size for size in (p[0], y[0]) if size is not None}
        fits = len(known) < 2 and not any(size % 2 for size in known)
    elif fits:
        known = {size for size in (*p, y[0]) if size is not None}
        fits = len(known) < 2 and not known & {0, 1}
    if not fits:
        raise ValueError(
            "P should be [B, B] joint probabilities, or [B, 1] of pairs with B even, and Y [B, d] "
            "map coordinates of the same B ≥ 2 rows. "
            f"Received: P of shape {p}, Y of shape {y}."
        )


@keras.saving.register_keras_serializable(package="ptsne_keras")
class TSNE(keras.losses.Loss):
    """The t-SNE divergence KL(P‖Q) of a batch as a Keras loss, in nats.

    y_true is P [B, B] (or [B, 1], of pairs), y_pred is Y [B, d]; B and d come from the tensors.
    Reported and minimised is the sum of the row terms of :func:`tsne`, the same number whatever B
    is.

    Parameters
    ----------
    dof : float or "auto"
        Degrees of freedom α of the Student-t kernel; "auto" is max(d - 1, 1).
    exaggeration : float
        Weight c of the attraction.
    name, reduction, dtype
        As in every Keras loss.

    Examples
    --------
    >>> model = keras.Sequential([keras.layers.Dense(64, "relu"), keras.layers.Dense(2)])
    >>> model.compile("adam", loss=TSNE())
    >>> model.fit(ptsne_keras.batches.from_array(X, perplexity=30), epochs=100)

    References
    ----------
    van der Maaten (2009), equations 1-4.
    """

    def __init__(
        self,
        dof: Dof = 1.0,
        exaggeration: float = 1.0,
        name: str = "tsne",
        reduction: str | None = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        degrees_of_freedom(dof, 2)  # a bad value is reported here, not at the first batch
        _check_exaggeration(exaggeration)
        self.dof = dof
        self.exaggeration = exaggeration

    def call(self, P: Tensor, Y: Tensor) -> Tensor:
        """Row terms times B [B], so that their mean over the batch is the divergence.

        A vector, because Keras scales for several replicas only inside the reduction, which a
        scalar bypasses.
        """
        rows = tsne(P, Y, dof=self.dof, exaggeration=self.exaggeration)
        return rows * ops.cast(ops.shape(rows)[0], rows.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration from which `from_config` makes an equal loss."""
        return {**super().get_config(), "dof": self.dof, "exaggeration": self.exaggeration}
