"""The t-SNE divergence as a Keras loss."""

import functools
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import keras
from keras import ops

from ptsne_keras.typing import Dof, Tensor
from ptsne_keras.utils import distribution, xla

# Up to this many map dimensions squared distances are summed coordinate by coordinate, which has
# no cancellation; above it a matmul is much cheaper and maps are not that far from their centre.
_DIRECT_DIMENSIONS = 8
# How far from 1 the total of pairs may be, by rounding in half precision too.
_UNEVEN = 0.05
# Just above the smallest normal number of float32 and bfloat16.
_SMALLEST = 1.2e-38


def degrees_of_freedom(dof: Dof | Tensor, d: int) -> float | Tensor:
    """Resolve `dof` for a map of `d` dimensions: a number > 0, or "auto" = max(d - 1, 1).

    A scalar tensor or variable, such as degrees of freedom that are learned, stays what it is.

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
    elif not isinstance(dof, Real):
        return ops.convert_to_tensor(dof)
    elif not isinstance(dof, bool) and math.isfinite(float(dof)) and float(dof) > 0:
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


def tsne(
    P: Tensor,
    Y: Tensor,
    *,
    dof: Dof | Tensor = 1.0,
    exaggeration: float | Tensor = 1.0,
    blocks: int = 1,
) -> Tensor:
    """Row terms of the t-SNE divergence, in nats; their sum is KL(P‖Q) at exaggeration c = 1.

    With w_ij = (1 + ‖y_i - y_j‖²/α)^(-(α+1)/2) and Z = Σ_{k≠l} w_kl, row i is ::

        Σ_j p_ij log p_ij  -  c Σ_j p_ij log w_ij  +  (Σ_j p_ij) log Z

    Everything stays in the log domain: no floor on Q, finite at coincident points.

    Parameters
    ----------
    P : tensor [B, B] or [B, 1]
        Joint probabilities: symmetric, zero diagonal, total 1. Or, where each row has one partner,
        B/2 rows further on, and p_ij = 0 for all others, just those numbers: row i of [B, 1] is
        p_ij for j = (i + B/2) mod B. The loss is the same, in a third of the time. It is NaN where
        these do not total 1: then they are part of a batch, or several, and not those pairs.
    Y : tensor [B, d]
        Map coordinates.
    dof : float, "auto" or scalar tensor
        Degrees of freedom α of the Student-t kernel; "auto" is max(d - 1, 1).
    exaggeration : float or scalar tensor
        c, the weight of the attraction. Multiplying P itself by c would only rescale the gradient,
        which does nothing under Adam.
    blocks : int
        R, how many batches are stacked, P [R b, b] or [R b, 1] and Y [R b, d], as by
        `batches.from_array(replicas=R)`. Each is a batch of its own; the terms are those of all.

    Returns
    -------
    tensor [B]
        Row terms, nats.

    Raises
    ------
    ValueError
        If the static shapes do not fit, `dof` is not a number above 0 or "auto",
        `exaggeration` is not above 0, or `blocks` is not an integer ≥ 1.

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
    # P is often the more precise; never half precision, in which Z overflows.
    dtype = keras.backend.result_type(P.dtype, Y.dtype, "float32")
    P, Y = ops.cast(P, dtype), ops.cast(Y, dtype)
    distribution.check_blocks(blocks)
    _check_shapes(P, Y, blocks)
    _check_exaggeration(exaggeration)
    alpha = degrees_of_freedom(dof, Y.shape[-1])
    if not isinstance(alpha, float):
        alpha = ops.cast(alpha, dtype)
    if not isinstance(exaggeration, Real):
        exaggeration = ops.cast(exaggeration, dtype)
    terms = functools.partial(_row_terms, alpha=alpha, exaggeration=exaggeration)
    return distribution.by_block(terms, blocks, P, Y)


def _row_terms(P: Tensor, Y: Tensor, alpha: float | Tensor, exaggeration: float | Tensor) -> Tensor:
    """Row terms of one batch, [B]."""
    D2 = squared_distances(Y)  # [B, B]
    log_Z = _log_normalizer(D2, alpha)  # []
    if P.shape[-1] == 1:
        partners = ops.roll(Y, ops.shape(Y)[0] // 2, axis=0)
        D2 = ops.sum(ops.square(Y - partners), axis=-1, keepdims=True)  # [B, 1]
        # Shapes do not tell where a device has a part of a batch, or several batches as one.
        whole = ops.abs(ops.sum(P) - 1.0) < _UNEVEN
        log_Z = ops.where(whole, log_Z, math.nan)
    attraction = ops.sum(P * _log_kernel(D2, alpha), axis=-1)  # [B]
    # p log p → 0 as p → 0: the floor keeps the logarithm finite, and p itself is not floored.
    negative_entropy = ops.sum(P * ops.log(ops.maximum(P, _SMALLEST)), axis=-1)  # [B]
    return negative_entropy - exaggeration * attraction + ops.sum(P, axis=-1) * log_Z


def _log_kernel(D2: Tensor, alpha: float | Tensor) -> Tensor:
    """Give log w ≤ 0 of squared distances."""
    return -0.5 * (alpha + 1.0) * ops.log1p(D2 / alpha)


def _log_normalizer(D2: Tensor, alpha: float | Tensor) -> Tensor:
    """Give log Σ w over all pairs of different rows, D2 [B, B]."""
    diagonal = ops.eye(ops.shape(D2)[0], dtype="bool")
    if isinstance(alpha, float) and alpha == 1.0:
        # w = 1 / (1 + d²) is above 0 as long as d² is finite: a division in place of a logarithm
        # and an exponential a pair.
        shift = 0.0
        w = ops.where(diagonal, 0.0, 1.0 / (1.0 + D2))
    else:
        log_w = ops.where(diagonal, -math.inf, _log_kernel(D2, alpha))
        shift = ops.stop_gradient(ops.max(log_w))
        w = ops.exp(log_w - shift)
    double = D2.dtype if keras.backend.backend() == "jax" else "float64"
    total = ops.sum(ops.cast(ops.sum(w, axis=-1), double))
    return shift + ops.cast(ops.log(total), D2.dtype)


def _check_exaggeration(exaggeration: float | Tensor) -> None:
    if isinstance(exaggeration, Real):
        fits = 0 < float(exaggeration) < math.inf
    else:
        shape = getattr(exaggeration, "shape", None)
        fits = shape is not None and tuple(shape) == ()
    if not fits:
        raise ValueError(
            "exaggeration should be above 0: a number, or a scalar variable such as the `value` of "
            f"a Schedule. Received: {exaggeration!r}."
        )


def _check_shapes(P: Tensor, Y: Tensor, blocks: int) -> None:
    """Raise unless P and Y can belong together, as far as static shapes tell."""
    p, y = tuple(P.shape), tuple(Y.shape)
    matrices = len(p) == 2 and len(y) == 2 and y[1] is not None
    rows = {size for size in (p[:1] + y[:1]) if size is not None}  # R b
    fits = matrices and len(rows) < 2 and not any(size % blocks for size in rows)
    known = {size // blocks for size in rows}  # b
    if fits and p[1] == 1:  # pairs
        fits = not any(size % 2 for size in known)
    elif fits:
        known |= {p[1]} - {None}
        fits = len(known) < 2 and not known & {0, 1}
    if fits:
        return
    mend = ""
    stack = matrices and blocks == 1 and len(rows) == 1 and p[1] and 1 < p[1] < min(rows)
    if stack and not min(rows) % p[1]:
        mend = f" If they are {min(rows) // p[1]} batches stacked, blocks should say so."
    raise ValueError(
        "P should be [B, B] joint probabilities, or [B, 1] of pairs with B even, and Y [B, d] "
        f"map coordinates of the same B ≥ 2 rows; or so many of them stacked as blocks.{mend} "
        f"Received: P of shape {p}, Y of shape {y}, blocks={blocks}."
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
        Degrees of freedom α of the Student-t kernel; "auto" is max(d - 1, 1). To learn them with
        the weights, see `training.Trainer`.
    exaggeration : float or scalar variable
        Weight c of the attraction. A variable may change while the model trains, on the TensorFlow
        backend: see `callbacks.Schedule`. The loss is saved with the value that it has then.
    blocks : int
        R, how many batches are stacked in one, each a block of its own; the loss is the mean of
        theirs. For `keras.distribution.DataParallel` over R devices, on the JAX backend, where the
        loss sees what all devices have; a replica of a `tf.distribute` strategy sees its own block
        alone.
    jit_compile : bool
        Whether XLA compiles the loss alone. For models that are compiled with `jit_compile=False`,
        as Keras does on CPUs: inside a step that XLA compiles as a whole, TensorFlow would compile
        it anew at each step.
    name, reduction, dtype
        As in every Keras loss.

    Examples
    --------
    >>> model = keras.Sequential([keras.layers.Dense(64, "relu"), keras.layers.Dense(2)])
    >>> model.compile("adam", loss=TSNE())
    >>> model.fit(batches.from_array(X, perplexity=30), epochs=100)

    Early exaggeration:

    >>> exaggeration = ptsne_keras.callbacks.Schedule(lambda epoch: 12.0 if epoch < 10 else 1.0)
    >>> model.compile("adam", loss=TSNE(exaggeration=exaggeration.value))
    >>> model.fit(
    ...     batches.from_array(X, perplexity=30), epochs=50, callbacks=[exaggeration]
    ... )

    References
    ----------
    van der Maaten (2009), equations 1-4.
    """

    def __init__(
        self,
        dof: Dof | Tensor = 1.0,
        exaggeration: float | Tensor = 1.0,
        jit_compile: bool = False,
        name: str = "tsne",
        reduction: str | None = "sum_over_batch_size",
        dtype: Any = None,
        *,
        blocks: int = 1,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        degrees_of_freedom(dof, 2)  # a bad value is reported here, not at the first batch
        _check_exaggeration(exaggeration)
        distribution.check_blocks(blocks)
        distribution.check_backend()
        if not isinstance(exaggeration, Real) and keras.backend.backend() != "tensorflow":
            raise ValueError(  # it would be compiled in as the number that it is at first
                "exaggeration should be a number on other backends than TensorFlow. "
                f"Received: {exaggeration!r} on {keras.backend.backend()}."
            )
        self.dof = dof
        self.exaggeration = exaggeration
        self.blocks = int(blocks)
        self.jit_compile = jit_compile

    def call(self, P: Tensor, Y: Tensor) -> Tensor:
        """Row terms [R b] times b, so that their mean over the batch is that of the divergences.

        A vector, because Keras scales for several replicas only inside the reduction, which a
        scalar bypasses.
        """
        distribution.check_backend()
        terms = self._terms()
        rows = (xla.compiled(terms) if self.jit_compile else terms)(P, Y)
        return rows * ops.cast(ops.shape(rows)[0] // self.blocks, rows.dtype)

    def _terms(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Give the function of (y_true, Y) whose row terms the loss has."""
        return functools.partial(
            tsne, dof=self.dof, exaggeration=self.exaggeration, blocks=self.blocks
        )

    def get_config(self) -> dict[str, Any]:
        """Return the configuration from which `from_config` makes an equal loss."""
        return {
            **super().get_config(),
            "dof": _number(self.dof),
            "exaggeration": _number(self.exaggeration),
            "blocks": self.blocks,
            "jit_compile": self.jit_compile,
        }


def _number(value: Any) -> Any:
    """Give the value of a scalar variable or tensor; anything else as it is."""
    return value if isinstance(value, Real | str) else float(ops.convert_to_numpy(value))
