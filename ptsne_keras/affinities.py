"""From rows to joint probabilities P at a given perplexity, by graph ops.

`tensorflow` rather than `keras.ops`, because P is computed inside `tf.data` pipelines, which run
TensorFlow graphs whatever the Keras backend.
"""

import math
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from ptsne_keras import rows
from ptsne_keras.typing import FloatArray, Tensor

# |exp(H) - perplexity| at which a row counts as calibrated. Half of what is promised, so that
# rounding P to float32 keeps the promise.
_TOLERANCE = 5e-5
# Newton takes 6-12 steps; bisection, its fallback, takes ~60 from bracket to tolerance.
_MAX_STEPS = 100
# Largest change of log β in one step: away from the solution Newton's step is unbounded.
_MAX_STEP = 3.0
# ‖a‖² + ‖b‖² - 2ab came out within 6.5 eps (‖a‖² + ‖b‖²) of the exact value for D = 3 … 784 and
# 2,500 rows. Distances that differ by 8 eps of that or less are equal: equal rows, and neighbours
# on a lattice, are then ties on any processor.
_ROUNDING = 8 * 2.0**-52
# Rows of [N, k] neighbours that are calibrated at a time: 25 MB at k = 90.
_BLOCK = 1 << 15


def joint_probabilities(X: Tensor, perplexity: float, *, dtype: Any = None) -> tf.Tensor:
    """Joint probabilities of t-SNE: p_ij = (p_{j|i} + p_{i|j}) / 2B, with Σ_ij p_ij = 1.

    p_{j|i} ∝ exp(-β_i ‖x_i - x_j‖²), p_{i|i} = 0, and β_i such that the entropy of row i is
    log(perplexity). Usable eagerly, in `tf.function` and in `tf.data`.

    Parameters
    ----------
    X : tensor [B, D]
        Rows. Any scale: β is bracketed from the distances themselves.
    perplexity : float
        Above 1 and below B - 1.
    dtype : "float32" or "float64", optional
        Of P; by default that of X. Distances and β are computed in float64 always: in float32 one
        far outlier would round the distances among all the others.

    Returns
    -------
    tf.Tensor [B, B]
        Symmetric, zero diagonal, total 1.

    Raises
    ------
    ValueError
        If there are fewer than 3 rows or `perplexity` is out of range.
    ValueError (eager) or tf.errors.InvalidArgumentError (in a graph)
        If X holds NaN or infinity, or B, known only then, is too small.

    Warns
    -----
    UserWarning
        When run eagerly, if rows have so many exact duplicates that no β reaches the perplexity;
        those rows take the nearest value there is, uniform over their duplicates.

    Examples
    --------
    >>> P = joint_probabilities(np.random.default_rng(0).normal(size=(200, 10)), 30)
    >>> P.shape, float(tf.reduce_sum(P))
    (TensorShape([200, 200]), 1.0)

    References
    ----------
    van der Maaten & Hinton (2008), section 2 and equation 1; van der Maaten (2009), equation 1.
    """
    C = _conditional(X, perplexity, dtype)  # [B, B], rows total 1
    P = C + tf.transpose(C)
    return P / tf.reduce_sum(P)


def conditional_probabilities(X: Tensor, perplexity: float, *, dtype: Any = None) -> tf.Tensor:
    """Conditional probabilities p_{j|i}: row i has perplexity exp(H_i) = `perplexity`, total 1.

    Parameters, errors and warning as in :func:`joint_probabilities`.

    Examples
    --------
    >>> C = conditional_probabilities(X, 30)  # X [B, D]
    >>> H = -tf.reduce_sum(tf.math.xlogy(C, C), axis=1)
    >>> print(np.round(np.exp(H[:3]), 3))
    [30. 30. 30.]
    """
    return _conditional(X, perplexity, dtype)


def neighbor_probabilities(distances: Any, perplexity: float) -> FloatArray:
    """Conditional probabilities p_{j|i} of t-SNE over the k nearest neighbours of each row alone.

    p_{j|i} ∝ exp(-β_i d_ij²) for the k neighbours j, 0 for all other rows, and β_i such that the
    entropy of row i is log(perplexity). With k = N - 1 these are the conditional probabilities of
    the whole set; k = 3 · perplexity leaves out what is smaller than any map can show.

    Parameters
    ----------
    distances : array [N, k]
        To the neighbours, as `neighbors.nearest` gives them.
    perplexity : float
        Above 1 and below k.

    Returns
    -------
    array [N, k], float32
        Rows total 1.

    Raises
    ------
    ValueError
        If `distances` is not a finite [N, k] array, or `perplexity` is out of range.

    Warns
    -----
    UserWarning
        As :func:`joint_probabilities`, for rows with too many duplicates.

    Examples
    --------
    >>> found = neighbors.nearest(X, 90)
    >>> P = neighbor_probabilities(found.distances, 30)
    >>> P.shape
    (200, 90)

    References
    ----------
    van der Maaten (2014), Accelerating t-SNE using tree-based algorithms, section 4.1.
    """
    distances = rows.check(distances, name="distances")
    k = distances.shape[1]
    if not 1 < perplexity < k:
        raise ValueError(
            f"perplexity should be above 1 and below k = {k}, the number of neighbours. "
            f"Received: {perplexity!r}."
        )
    C = np.empty(distances.shape, np.float32)
    many = 0
    for start in range(0, len(C), _BLOCK):
        part = tf.constant(distances[start : start + _BLOCK], tf.float64)  # [b, k]
        D2 = tf.square(tf.math.divide_no_nan(part, tf.reduce_max(part)))
        delta = D2 - tf.reduce_min(D2, axis=1, keepdims=True)
        delta = tf.math.divide_no_nan(delta, tf.reduce_mean(delta, axis=1, keepdims=True))
        probabilities, unreachable = _probabilities(delta, perplexity, None)
        C[start : start + _BLOCK] = probabilities
        many += int(unreachable)
    if many:
        warnings.warn(duplicates_message(many, perplexity), stacklevel=2)
    return C


def _conditional(X: Tensor, perplexity: float, dtype: Any) -> tf.Tensor:
    X, dtype = _rows(X, perplexity, dtype)
    D2, rounding = _squared_distances(X)
    C, unreachable = calibrate(D2, perplexity, rounding=rounding)
    if tf.executing_eagerly() and int(unreachable):
        warnings.warn(duplicates_message(int(unreachable), perplexity), stacklevel=3)
    return tf.cast(C, dtype)


def duplicates_message(rows: int, perplexity: float) -> str:
    """Say how many rows have so many duplicates that no β reaches the perplexity.

    Examples
    --------
    >>> print(duplicates_message(3, 30))
    3 of the rows have at least 30 (the perplexity) neighbours at exactly ...
    """
    return (
        f"{rows} of the rows have at least {perplexity:g} (the perplexity) neighbours at exactly "
        "their smallest distance, as duplicated rows do: no bandwidth reaches the perplexity, so "
        "those neighbours count, all alike. Drop duplicates or raise the perplexity."
    )


def calibrate(
    D2: tf.Tensor, perplexity: float, *, rounding: Tensor = 0.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scale each row of squared distances so that its perplexity is the one asked for.

    Newton's method on H(log β) = log perplexity, kept inside a bracket; dH/dlog β = -β² Var(d²).

    Parameters
    ----------
    D2 : tensor [B, B]
        Squared distances; the diagonal is ignored.
    rounding : tensor [B, B] or float
        Distances that exceed a row's smallest by no more than this are equal to it.

    Returns
    -------
    C : tf.Tensor [B, B], float64
        Conditional probabilities.
    unreachable : tf.Tensor [], int32
        How many rows have at least `perplexity` neighbours at their smallest distance, so that
        they took the limit β → ∞.

    Raises
    ------
    tf.errors.InvalidArgumentError
        If a row does not converge; names the rows.

    Examples
    --------
    >>> C, unreachable = calibrate(losses.squared_distances(X), 30)
    >>> int(unreachable)
    0
    """
    delta = _centred_distances(tf.cast(D2, tf.float64), rounding)  # [B, B]
    return _probabilities(delta, perplexity, 1.0 - tf.eye(tf.shape(delta)[0], dtype=tf.float64))


def _probabilities(
    delta: tf.Tensor, perplexity: float, others: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """C and the count of unreachable rows, as :func:`calibrate`, from relative distances.

    `others` is 0 at the pairs of a row with itself, 1 elsewhere; None where there are no such
    pairs.
    """
    ties = tf.cast(tf.equal(delta, 0.0), tf.float64)  # the limit β → ∞
    ties = ties if others is None else ties * others
    tie_count = tf.reduce_sum(ties, axis=1)  # [B]
    unreachable = tie_count >= perplexity - _TOLERANCE
    own = 0.0 if others is None else 1.0
    log_beta, converged = _solve(delta, perplexity, unreachable, own)
    failed = tf.reshape(tf.where(~converged), [-1])
    check = tf.debugging.Assert(
        tf.equal(tf.size(failed), 0),
        [
            "rows whose perplexity did not converge (distances that differ by more orders of "
            "magnitude than float64 resolves? drop the outliers or rescale the columns):",
            failed,
        ],
    )
    # Eagerly Assert has raised already and returns None.
    with tf.control_dependencies([] if check is None else [check]):
        kernel = tf.exp(-tf.exp(log_beta)[:, None] * delta)
    kernel = kernel if others is None else kernel * others
    kernel = tf.where(unreachable[:, None], ties, kernel)
    C = kernel / tf.reduce_sum(kernel, axis=1, keepdims=True)
    return C, tf.reduce_sum(tf.cast(unreachable, tf.int32))


def _solve(
    delta: tf.Tensor, perplexity: float, unreachable: tf.Tensor, own: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Find log β [B] for relative distances `delta`, and which rows converged.

    `own` is how many entries of a row of `delta` are its distance to itself: 1 or 0.
    """
    target = math.log(perplexity)
    zeros = tf.zeros_like(delta[:, 0])

    def step(
        i: tf.Tensor,
        log_beta: tf.Tensor,
        low: tf.Tensor,
        high: tf.Tensor,
        last: tf.Tensor,
        done: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        entropy, slope = _entropy(delta, log_beta, own)
        error = entropy - target
        done = done | (tf.abs(tf.exp(entropy) - perplexity) < _TOLERANCE)
        low = tf.where(error > 0, log_beta, low)  # too flat: β must grow
        high = tf.where(error < 0, log_beta, high)
        newton = tf.clip_by_value(error / tf.maximum(slope, 1e-12), -_MAX_STEP, _MAX_STEP)
        proposal = log_beta + newton
        # Where H falls as steeply as a step, Newton can run to and fro between its two sides for
        # ever: it goes on only while its steps halve. An end not yet seen is infinite.
        bracketed = tf.math.is_finite(low) & tf.math.is_finite(high)
        good = (proposal > low) & (proposal < high) & (tf.abs(newton) < 0.5 * last)
        proposal = tf.where(bracketed & ~good, 0.5 * (low + high), proposal)
        proposal = tf.where(done, log_beta, proposal)
        return i + 1, proposal, low, high, tf.abs(proposal - log_beta), done

    _, log_beta, _, _, _, done = tf.while_loop(
        lambda i, _beta, _low, _high, _last, done: (i < _MAX_STEPS) & ~tf.reduce_all(done),
        step,
        [tf.constant(0), zeros, zeros - math.inf, zeros + math.inf, zeros + math.inf, unreachable],
    )
    return log_beta, done


def _entropy(delta: tf.Tensor, log_beta: tf.Tensor, own: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Entropy H [B] of each row's kernel, in nats, and its slope -dH/dlog β = β² Var(δ) ≥ 0."""
    beta = tf.exp(log_beta)
    kernel = tf.exp(-beta[:, None] * delta)  # [B, B]
    weighted = kernel * delta
    # A diagonal, δ = 0, adds 1 to the total; the nearest neighbour, also δ = 0, keeps the
    # difference at 1 or more, so nothing cancels.
    total = tf.reduce_sum(kernel, axis=1) - own
    mean = tf.reduce_sum(weighted, axis=1) / total
    mean_square = tf.reduce_sum(weighted * delta, axis=1) / total
    return tf.math.log(total) + beta * mean, tf.square(beta) * (mean_square - tf.square(mean))


def _centred_distances(D2: tf.Tensor, rounding: Tensor) -> tf.Tensor:
    """Subtract each row's smallest distance and divide by its mean; zero diagonal.

    The first leaves the probabilities alone and keeps exp() from underflowing; the second makes
    log β = 0 a fair start whatever the units of X.
    """
    rows = tf.shape(D2)[:1]
    others = tf.linalg.set_diag(D2, tf.fill(rows, tf.constant(math.inf, D2.dtype)))
    delta = D2 - tf.reduce_min(others, axis=1, keepdims=True)
    delta = tf.where(delta > rounding, delta, 0.0)
    delta = tf.linalg.set_diag(delta, tf.zeros(rows, D2.dtype))
    return tf.math.divide_no_nan(delta, tf.reduce_mean(delta, axis=1, keepdims=True))


def _squared_distances(X: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Squared Euclidean distances [B, B] of float64 rows [B, D], and their rounding errors."""
    X = X - tf.reduce_mean(X, axis=0, keepdims=True)  # centring shrinks what cancels below
    # β absorbs the scale; dividing keeps squares of 1e±200 within range.
    X = tf.math.divide_no_nan(X, tf.reduce_max(tf.abs(X)))
    norms = tf.reduce_sum(tf.square(X), axis=1)
    sums = norms[:, None] + norms[None, :]
    return sums - 2.0 * tf.matmul(X, X, transpose_b=True), _ROUNDING * sums


def _rows(X: Tensor, perplexity: float, dtype: Any) -> tuple[tf.Tensor, tf.DType]:
    """X as finite float64 rows [B, D], enough of them for the perplexity; and the dtype of P."""
    X = tf.convert_to_tensor(X)
    if not (X.dtype.is_floating or X.dtype.is_integer or X.dtype.is_bool):
        raise ValueError(f"X should be numeric and real. Received: dtype {X.dtype.name}.")
    if X.shape.rank != 2:
        raise ValueError(f"X should be [B, D] rows. Received: shape {X.shape}.")
    if dtype is None:
        dtype = tf.float64 if X.dtype == tf.float64 else tf.float32
    X = tf.cast(X, tf.float64)
    if not (perplexity > 1 and math.isfinite(perplexity)):
        raise ValueError(f"perplexity should be above 1. Received: {perplexity!r}.")
    _check_count(X, perplexity)
    finite = tf.reduce_all(tf.math.is_finite(X))
    message = "X should be finite; drop or impute the rows with NaN or infinity."
    if tf.executing_eagerly():
        if not bool(finite):
            raise ValueError(message)
        return X, tf.as_dtype(dtype)
    with tf.control_dependencies([tf.debugging.Assert(finite, [message])]):
        return tf.identity(X), tf.as_dtype(dtype)


def _check_count(X: tf.Tensor, perplexity: float) -> None:
    """Raise, now or when the graph runs, unless 3 ≤ B and perplexity < B - 1."""
    count = X.shape[0]
    if count is None:
        tf.debugging.assert_greater(
            tf.cast(tf.shape(X)[0], tf.float64),
            tf.constant(max(2.0, perplexity + 1.0), tf.float64),
            message=f"X should have at least 3 rows and more than perplexity + 1 "
            f"= {perplexity + 1:g}.",
        )
    elif count < 3:
        raise ValueError(f"X should have at least 3 rows. Received: {count}.")
    elif perplexity >= count - 1:
        raise ValueError(
            f"perplexity should be below B - 1 = {count - 1}, the number of other rows in the "
            f"batch. Received: {perplexity!r}."
        )
