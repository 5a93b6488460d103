"""The t-SNE divergence, as a function and as a Keras loss."""

import functools
import math
from numbers import Real
from typing import Any

import keras
from keras import ops

from ptsne_keras.typing import Dof, Tensor
from ptsne_keras.utils import distribution, xla
from ptsne_keras.utils.validation import check_integer, unmasked

# Up to this many map dimensions, squared distances are summed coordinate by coordinate, without
# cancellation; above it a matmul is much cheaper.
_DIRECT_DIMENSIONS = 8
# Largest deviation of the total of pairs from 1; half precision needs this much.
_UNEVEN = 0.05
# Just above the smallest normal number of float32 and bfloat16.
_SMALLEST = 1.2e-38


def degrees_of_freedom(dof: Dof | Tensor, d: int) -> float | Tensor:
    """Return the degrees of freedom α that `dof` stands for on a map of `d` dimensions.

    Parameters
    ----------
    dof : float, "auto" or scalar tensor
        "auto" is max(d - 1, 1). A tensor or variable, such as one that is learned, is returned
        unchanged.
    d : int
        Dimensions of the map.

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
    van der Maaten (2009), section 3, sets α = d - 1, which is 0 at d = 1; hence the maximum.
    """
    if isinstance(dof, str):
        if dof == "auto":
            return float(max(d - 1, 1))
    elif not isinstance(dof, Real):
        return ops.convert_to_tensor(dof)
    elif not isinstance(dof, bool) and math.isfinite(float(dof)) and float(dof) > 0:
        return float(dof)
    raise ValueError(f'dof should be a finite number above 0 or "auto". Received: {dof!r}.')


def tsne(
    P: Tensor,
    Y: Tensor,
    *,
    dof: Dof | Tensor = 1.0,
    exaggeration: float | Tensor = 1.0,
    blocks: int = 1,
) -> Tensor:
    """Return the row terms [B] of the t-SNE divergence in nats; at c = 1 they sum to KL(P‖Q).

    With w_ij = (1 + ‖y_i - y_j‖²/α)^(-(α+1)/2) and Z = Σ_{k≠l} w_kl, the term of row i is ::

        Σ_j p_ij log p_ij  -  c Σ_j p_ij log w_ij  +  (Σ_j p_ij) log Z

    Everything stays in the log domain: Q needs no floor, and coincident points give finite values.

    Parameters
    ----------
    P : tensor of shape [B, B] or [B, 1]
        Joint probabilities: symmetric, with a zero diagonal and total 1. For pairs, where the only
        partner of row i is row j = (i + B/2) mod B, a column of the numbers p_ij is enough, and
        three times as fast. Of pairs that do not total 1 (part of a batch, or several) it is NaN.
    Y : tensor of shape [B, d]
        Map coordinates.
    dof : float, "auto" or scalar tensor, default=1.0
        Degrees of freedom α of the Student-t kernel; "auto" is max(d - 1, 1).
    exaggeration : float or scalar tensor, default=1.0
        c, the weight of the attraction.
    blocks : int, default=1
        R, the number of batches that are stacked as P [R b, b] or [R b, 1] and Y [R b, d], as by
        `data.from_array(replicas=R)`. Rows repel rows of their own batch only.

    Raises
    ------
    ValueError
        If the static shapes do not fit, or `dof`, `exaggeration` or `blocks` is out of range.

    Examples
    --------
    >>> P = [[0.0, 0.5], [0.5, 0.0]]
    >>> float(sum(tsne(P, [[0.0], [1.0]])))  # two points: Q = P, so KL = 0
    0.0

    References
    ----------
    van der Maaten (2009), equations 1-4; van der Maaten & Hinton (2008), equation 5.
    """
    P, Y = (ops.convert_to_tensor(unmasked(A, name)) for A, name in ((P, "P"), (Y, "Y")))
    # At least float32: Z overflows in half precision.
    dtype = keras.backend.result_type(P.dtype, Y.dtype, "float32")
    P, Y = ops.cast(P, dtype), ops.cast(Y, dtype)
    check_integer(blocks, "blocks")
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
    """Return the row terms [B] of one batch."""
    D2 = _squared_distances(Y)  # [B, B]
    log_Z = _log_normalizer(D2, alpha)  # []
    if P.shape[-1] == 1:
        partners = ops.roll(Y, ops.shape(Y)[0] // 2, axis=0)
        D2 = ops.sum(ops.square(Y - partners), axis=-1, keepdims=True)  # [B, 1]
        # Shapes cannot tell whether these rows are part of a batch, or several batches.
        whole = ops.abs(ops.sum(P) - 1.0) < _UNEVEN
        log_Z = ops.where(whole, log_Z, math.nan)
    attraction = ops.sum(P * _log_kernel(D2, alpha), axis=-1)  # [B]
    # p log p → 0 as p → 0: the floor only keeps the logarithm finite.
    negative_entropy = ops.sum(P * ops.log(ops.maximum(P, _SMALLEST)), axis=-1)  # [B]
    return negative_entropy - exaggeration * attraction + ops.sum(P, axis=-1) * log_Z


def _squared_distances(Y: Tensor) -> Tensor:
    """Return ‖y_i - y_j‖² [B, B] without a norm, whose gradient is NaN where rows coincide."""
    d = Y.shape[-1]
    if d is not None and d <= _DIRECT_DIMENSIONS:
        columns = [Y[:, c] for c in range(d)]
        return sum(ops.square(y[:, None] - y[None, :]) for y in columns)  # [B, B]
    Y = Y - ops.mean(Y, axis=0, keepdims=True)  # centring shrinks what cancels below
    norms = ops.sum(ops.square(Y), axis=-1)  # [B]
    D2 = norms[:, None] + norms[None, :] - 2.0 * ops.matmul(Y, ops.transpose(Y))  # [B, B]
    return ops.maximum(D2, 0.0)


def _log_kernel(D2: Tensor, alpha: float | Tensor) -> Tensor:
    """Return log w ≤ 0 of squared distances."""
    return -0.5 * (alpha + 1.0) * ops.log1p(D2 / alpha)


def _log_normalizer(D2: Tensor, alpha: float | Tensor) -> Tensor:
    """Return log Σ w over all pairs of different rows; D2 is [B, B]."""
    diagonal = ops.eye(ops.shape(D2)[0], dtype="bool")
    if isinstance(alpha, float) and alpha == 1.0:
        # w = 1 / (1 + d²) does not underflow: one division per pair in place of a logarithm and an
        # exponential.
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
            "exaggeration should be above 0: a number, or a scalar variable such as the value of a "
            f"callbacks.Schedule. Received: {exaggeration!r}."
        )


def _check_shapes(P: Tensor, Y: Tensor, blocks: int) -> None:
    """Raise a ValueError if static shapes show that P and Y do not belong together."""
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
    hint = ""
    stack = matrices and blocks == 1 and len(rows) == 1 and p[1] and 1 < p[1] < min(rows)
    if stack and not min(rows) % p[1]:
        hint = f" If they are {min(rows) // p[1]} batches stacked, blocks should say so."
    raise ValueError(
        "P should be [B, B] joint probabilities, or [B, 1] of pairs with B even, and Y [B, d] "
        f"map coordinates of the same B ≥ 2 rows; or `blocks` such batches stacked.{hint} "
        f"Received: P of shape {p}, Y of shape {y}, blocks={blocks}."
    )


@keras.saving.register_keras_serializable(package="ptsne_keras")
class TSNE(keras.losses.Loss):
    """Keras loss of the t-SNE divergence KL(P‖Q) of a batch, in nats.

    y_true is P [B, B], or [B, 1] for pairs, and y_pred is Y [B, d]; B and d come from the tensors.
    The loss is the sum of the row terms of :func:`tsne`, whatever B is.

    Parameters
    ----------
    dof : float or "auto", default=1.0
        Degrees of freedom α of the Student-t kernel; "auto" is max(d - 1, 1). `training.Trainer`
        can learn them along with the weights.
    exaggeration : float or scalar variable, default=1.0
        Weight c of the attraction. On the TensorFlow backend a variable may change during
        training, see `callbacks.Schedule`; it is saved as the number that it is then.
    jit_compile : bool, default=False
        Whether XLA compiles the loss alone. For models compiled with `jit_compile=False`, as Keras
        does on CPUs; in a step compiled as a whole, the loss would be compiled at each step.
    name, reduction, dtype
        As in every Keras loss.
    blocks : int, default=1
        R, the number of batches that are stacked in one; the loss is the mean of their losses. For
        `keras.distribution.DataParallel` over R devices on JAX, where the loss sees all their rows.

    Raises
    ------
    ValueError
        If `dof`, `exaggeration` or `blocks` is out of range, or `exaggeration` is a variable on
        another backend than TensorFlow.

    Examples
    --------
    >>> model = keras.Sequential([keras.layers.Dense(64, "relu"), keras.layers.Dense(2)])
    >>> model.compile("adam", loss=TSNE())
    >>> model.fit(data.from_array(X, perplexity=30), epochs=100, shuffle=False)

    Early exaggeration:

    >>> exaggeration = ptsne_keras.callbacks.Schedule(lambda epoch: 12.0 if epoch < 10 else 1.0)
    >>> model.compile("adam", loss=TSNE(exaggeration=exaggeration.value))
    >>> dataset = data.from_array(X, perplexity=30)
    >>> model.fit(dataset, epochs=50, callbacks=[exaggeration], shuffle=False)
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
        # At least float32, whatever Keras's default: P underflows in half precision.
        dtype = dtype or keras.backend.result_type(keras.config.floatx(), "float32")
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        degrees_of_freedom(dof, 2)  # report a bad value here, not at the first batch
        _check_exaggeration(exaggeration)
        distribution.check_backend()
        if not isinstance(exaggeration, Real) and keras.backend.backend() != "tensorflow":
            raise ValueError(  # JAX would compile it in as a constant
                "exaggeration should be a number on other backends than TensorFlow. "
                f"Received: {exaggeration!r} on {keras.backend.backend()}."
            )
        self.dof = dof
        self.exaggeration = exaggeration
        self.blocks = check_integer(blocks, "blocks")
        self.jit_compile = jit_compile

    def call(self, P: Tensor, Y: Tensor) -> Tensor:
        """Return the row terms [R b] times b, whose mean is the mean divergence of the blocks."""
        # A vector: Keras scales for several replicas only in the reduction, which skips scalars.
        distribution.check_backend()
        terms = functools.partial(tsne, **self._options())
        rows = (xla.compiled(terms) if self.jit_compile else terms)(P, Y)
        return rows * ops.cast(ops.shape(rows)[0] // self.blocks, rows.dtype)

    def _options(self) -> dict[str, Any]:
        return {"dof": self.dof, "exaggeration": self.exaggeration, "blocks": self.blocks}

    def get_config(self) -> dict[str, Any]:
        """Return the configuration from which `from_config` makes an equal loss."""
        options = {name: _number(value) for name, value in self._options().items()}
        return {**super().get_config(), **options, "jit_compile": self.jit_compile}


def _number(value: Any) -> Any:
    """Return the value of a scalar variable or tensor; anything else unchanged."""
    return value if isinstance(value, Real | str) else float(ops.convert_to_numpy(value))
