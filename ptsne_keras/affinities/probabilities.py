"""Joint and conditional probabilities at a given perplexity, as ops of the graphs of `tf.data`."""

import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from ptsne_keras.affinities.perplexity import calibrate, is_variable, probabilities, several, values
from ptsne_keras.typing import FloatArray, Perplexity, Tensor
from ptsne_keras.utils import arrays
from ptsne_keras.utils.validation import check_rows, unmasked

# ‖a‖² + ‖b‖² - 2ab was within 6.5 eps (‖a‖² + ‖b‖²) of the exact value for D = 3 … 784. Distances
# that differ by 8 eps or less count as equal, so that duplicates and lattices tie on any processor.
_ROUNDING = 8 * 2.0**-52
# Rows of [N, k] distances that are calibrated at a time: 25 MB at k = 90.
_BLOCK = 1 << 15


def joint_probabilities(X: Tensor, perplexity: Perplexity) -> tf.Tensor:
    """Compute the joint probabilities p_ij = (p_{j|i} + p_{i|j}) / 2B of t-SNE.

    p_{j|i} ∝ exp(-β_i ‖x_i - x_j‖²), p_{i|i} = 0, and β_i is such that the entropy of row i is
    log(perplexity). Works eagerly, in `tf.function` and in `tf.data`.

    Parameters
    ----------
    X : tensor of shape [B, D]
        Rows of any scale. Distances and β are computed in float64, because in float32 one far
        outlier would round the distances among all other rows.
    perplexity : float, sequence of float or scalar variable
        Above 1 and below B - 1. P is the mean over several perplexities. A variable may change
        between batches, see `callbacks.Schedule`.

    Returns
    -------
    tf.Tensor of shape [B, B]
        Symmetric, with a zero diagonal and total 1; float64 if X is, else float32.

    Raises
    ------
    ValueError
        If X is not finite, has fewer than 3 rows, or `perplexity` is out of range. A graph whose B
        is unknown raises `tf.errors.InvalidArgumentError` when it runs.

    Warns
    -----
    UserWarning
        Eagerly, if rows have too many exact duplicates for any β to reach the perplexity. They get
        the nearest possible distribution, which is uniform over their duplicates.

    Examples
    --------
    >>> P = joint_probabilities(np.random.default_rng(0).normal(size=(200, 10)), 30)
    >>> P.shape, float(tf.reduce_sum(P))
    (TensorShape([200, 200]), 1.0)

    References
    ----------
    van der Maaten & Hinton (2008), section 2 and equation 1; van der Maaten (2009), equation 1.
    """
    C = _conditional(X, perplexity)  # [B, B], rows total 1
    P = C + tf.transpose(C)
    return P / tf.reduce_sum(P)


def conditional_probabilities(X: Tensor, perplexity: Perplexity) -> tf.Tensor:
    """Compute the conditional probabilities p_{j|i} of t-SNE.

    Row i has total 1 and the perplexity asked for, exp(H_i) = `perplexity`. Parameters, errors and
    the warning are those of :func:`joint_probabilities`.

    Returns
    -------
    tf.Tensor of shape [B, B]

    Examples
    --------
    >>> C = conditional_probabilities(X, 30)  # X [B, D]
    >>> H = -tf.reduce_sum(tf.math.xlogy(C, C), axis=1)
    >>> print(np.round(np.exp(H[:3]), 3))
    [30. 30. 30.]
    """
    return _conditional(X, perplexity)


def neighbor_probabilities(distances: Any, perplexity: Perplexity) -> FloatArray:
    """Compute the conditional probabilities p_{j|i} over the k nearest neighbours of each row.

    They are those of :func:`conditional_probabilities` for k = N - 1. With k = 3 · perplexity they
    leave out only values too small to matter on a map.

    Parameters
    ----------
    distances : array-like of shape (n_samples, k)
        Distances to the neighbours, as from :func:`nearest`.
    perplexity : float or sequence of float
        Above 1 and below k. The result is the mean over several perplexities.

    Returns
    -------
    ndarray of shape (n_samples, k)
        float32; rows total 1.

    Raises
    ------
    ValueError
        If `distances` is not a finite [N, k] array or `perplexity` is out of range.

    Warns
    -----
    UserWarning
        If rows have too many duplicates, as in :func:`joint_probabilities`.

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
    distances = check_rows(distances, name="distances")
    k = distances.shape[1]
    if not max(several(perplexity)) < k:
        raise ValueError(
            f"perplexity should be above 1 and below k = {k}, the number of neighbours. "
            f"Received: {perplexity!r}."
        )
    C = np.empty(distances.shape, np.float32)
    many = 0
    for part in arrays.row_slices(len(C), _BLOCK):
        C[part], unreachable = calibrate_neighbors(tf.constant(distances[part]), perplexity)
        many += int(unreachable)
    if many:
        warnings.warn(duplicates_message(many, perplexity), stacklevel=2)
    return C


def calibrate_neighbors(
    distances: tf.Tensor, perplexity: Perplexity
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return p_{j|i} for distances [b, k], and the number of unreachable rows, by graph ops."""
    distances = tf.cast(distances, tf.float64)
    for u in filter(is_variable, several(perplexity)):
        tf.debugging.Assert(
            (u > 1.0) & (u < float(distances.shape[1])),
            [
                f"perplexity should be above 1 and below the {distances.shape[1]} neighbours found "
                "for its first value; give neighbors=nearest(X, k) with enough for the largest. "
                "Received:",
                u,
            ],
        )
    D2 = tf.square(tf.math.divide_no_nan(distances, tf.reduce_max(distances)))
    delta = D2 - tf.reduce_min(D2, axis=1, keepdims=True)
    delta = tf.math.divide_no_nan(delta, tf.reduce_mean(delta, axis=1, keepdims=True))
    return probabilities(delta, perplexity)


def _conditional(X: Tensor, perplexity: Perplexity) -> tf.Tensor:
    X, dtype = _rows(X, perplexity)
    D2, rounding = _squared_distances(X)
    C, unreachable = calibrate(D2, perplexity, rounding=rounding)
    if tf.executing_eagerly() and int(unreachable):
        warnings.warn(duplicates_message(int(unreachable), perplexity), stacklevel=3)
    return tf.cast(C, dtype)


def duplicates_message(rows: int, perplexity: Perplexity) -> str:
    """Return the warning that rows have too many duplicates to reach the perplexity."""
    least = min(values(perplexity))
    return (
        f"{rows} of the rows have at least {least:g} (the perplexity) neighbours at exactly their "
        "smallest distance, as duplicated rows do: no bandwidth reaches the perplexity, so those "
        "neighbours get equal probabilities. Drop duplicates or raise the perplexity."
    )


def _squared_distances(X: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return squared distances [B, B] of float64 rows [B, D], and their rounding errors."""
    X = X - tf.reduce_mean(X, axis=0, keepdims=True)  # centring shrinks what cancels below
    # β absorbs the scale; dividing keeps squares of 1e±200 within range.
    X = tf.math.divide_no_nan(X, tf.reduce_max(tf.abs(X)))
    norms = tf.reduce_sum(tf.square(X), axis=1)
    sums = norms[:, None] + norms[None, :]
    return sums - 2.0 * tf.matmul(X, X, transpose_b=True), _ROUNDING * sums


def _rows(X: Tensor, perplexity: Perplexity) -> tuple[tf.Tensor, tf.DType]:
    """Return X as finite float64 rows [B, D] that suffice for the perplexity, and the type of P."""
    X = tf.convert_to_tensor(unmasked(X, "X"))
    if not (X.dtype.is_floating or X.dtype.is_integer or X.dtype.is_bool):
        raise ValueError(f"X should be numeric and real. Received: dtype {X.dtype.name}.")
    if X.shape.rank != 2:
        raise ValueError(f"X should be [B, D] rows. Received: shape {X.shape}.")
    dtype = tf.float64 if X.dtype == tf.float64 else tf.float32
    X = tf.cast(X, tf.float64)
    for u in several(perplexity):
        _check_count(X, u)
    finite = tf.reduce_all(tf.math.is_finite(X))
    message = "X should be finite; drop or impute the rows with NaN or infinity."
    if tf.executing_eagerly():
        if not bool(finite):
            raise ValueError(message)
        return X, dtype
    with tf.control_dependencies([tf.debugging.Assert(finite, [message])]):
        return tf.identity(X), dtype


def _check_count(X: tf.Tensor, perplexity: float | Tensor) -> None:
    """Check, now or when the graph runs, that 3 ≤ B and 1 < perplexity < B - 1."""
    count = X.shape[0]
    if count is None or not isinstance(perplexity, float):
        u, B = tf.cast(perplexity, tf.float64), tf.shape(X)[0]
        tf.debugging.Assert(
            (u > 1.0) & (u < tf.cast(B - 1, tf.float64)),
            [
                "perplexity should be above 1 and below B - 1, where X has B rows, at least 3. "
                "Received perplexity and B:",
                u,
                B,
            ],
        )
    elif count < 3:
        raise ValueError(f"X should have at least 3 rows. Received: {count}.")
    elif perplexity >= count - 1:
        raise ValueError(
            f"perplexity should be below B - 1 = {count - 1}, the number of other rows in the "
            f"batch. Received: {perplexity!r}."
        )
