"""Calibration of each row's bandwidth β to a given perplexity, by graph ops."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import tensorflow as tf

from ptsne_keras.typing import Perplexity, Tensor

# |exp(H) - perplexity| at which a row counts as calibrated: half the promised 1e-4,
# because P may be rounded to float32.
_TOLERANCE = 5e-5
# Newton's method takes 6-12 steps; bisection, its fallback, about 60.
_MAX_STEPS = 100
# Largest change of log β in one step: far from the solution, Newton's step is unbounded.
_MAX_STEP = 3.0


def several(perplexity: Perplexity) -> tuple[float | Tensor, ...]:
    """Return the perplexities as a tuple of numbers above 1, or of scalar variables."""
    if isinstance(perplexity, np.ndarray):
        perplexity = perplexity.tolist()
    values = tuple(perplexity) if isinstance(perplexity, Sequence) else (perplexity,)
    for u in values:
        if is_variable(u):
            fits = u.shape.rank == 0
        else:
            fits = isinstance(u, Real) and 1 < float(u) < math.inf
        if not fits or isinstance(perplexity, str):
            raise ValueError(
                "perplexity should be above 1: a number, a sequence of them or a scalar "
                f"tf.Variable. Received: {perplexity!r}."
            )
    if not values:
        raise ValueError(f"perplexity should be one or more numbers. Received: {perplexity!r}.")
    return tuple(u if is_variable(u) else float(u) for u in values)


def is_variable(perplexity: Any) -> bool:
    """Return whether this is a tensor or variable, whose value may change between batches."""
    return isinstance(perplexity, tf.Tensor | tf.Variable)


def values(perplexity: Perplexity) -> list[float]:
    """Return the current values of the perplexities."""
    # float() refuses variables of a `tf.distribute` strategy, which do convert to tensors.
    return [float(tf.convert_to_tensor(u)) for u in several(perplexity)]


def calibrate(
    D2: tf.Tensor, perplexity: Perplexity, *, rounding: Tensor = 0.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Calibrate squared distances [B, B]: p_{j|i}, and the number of unreachable rows."""
    delta = _centred_distances(tf.cast(D2, tf.float64), rounding)  # [B, B]
    return probabilities(delta, perplexity, 1.0 - tf.eye(tf.shape(delta)[0], dtype=tf.float64))


def probabilities(
    delta: tf.Tensor, perplexity: Perplexity, others: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Calibrate relative distances [B, k], whose smallest in each row is 0, as `calibrate`."""
    each = [_probabilities(delta, tf.cast(u, tf.float64), others) for u in several(perplexity)]
    C = tf.add_n([C for C, _ in each]) / len(each)
    return C, tf.reduce_max(tf.stack([unreachable for _, unreachable in each]))


def _probabilities(
    delta: tf.Tensor, perplexity: tf.Tensor, others: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Calibrate at one perplexity."""
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
    delta: tf.Tensor, perplexity: tf.Tensor, unreachable: tf.Tensor, own: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return log β [B] for relative distances, and which rows converged."""
    target = tf.math.log(perplexity)
    zeros = tf.zeros_like(delta[:, 0])

    def step(i: Any, log_beta: Any, low: Any, high: Any, last: Any, done: Any) -> tuple[Any, ...]:
        entropy, slope = _entropy(delta, log_beta, own)
        error = entropy - target
        done = done | (tf.abs(tf.exp(entropy) - perplexity) < _TOLERANCE)
        low = tf.where(error > 0, log_beta, low)  # too flat: β must grow
        high = tf.where(error < 0, log_beta, high)
        newton = tf.clip_by_value(error / tf.maximum(slope, 1e-12), -_MAX_STEP, _MAX_STEP)
        proposal = log_beta + newton
        # Where H falls like a step, Newton can jump between both sides of it for ever: go on only
        # while its steps halve, else bisect. An end not seen yet is infinite.
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
    """Return the entropy H [B] of each row in nats, and -dH/dlog β = β² Var(δ) ≥ 0."""
    beta = tf.exp(log_beta)
    kernel = tf.exp(-beta[:, None] * delta)  # [B, B]
    weighted = kernel * delta
    # The diagonal, δ = 0, adds 1 to the total. The nearest neighbour, also δ = 0, keeps the
    # difference at 1 or more, so that nothing cancels.
    total = tf.reduce_sum(kernel, axis=1) - own
    mean = tf.reduce_sum(weighted, axis=1) / total
    mean_square = tf.reduce_sum(weighted * delta, axis=1) / total
    return tf.math.log(total) + beta * mean, tf.square(beta) * (mean_square - tf.square(mean))


def _centred_distances(D2: tf.Tensor, rounding: Tensor) -> tf.Tensor:
    """Subtract each row's smallest distance and divide by the mean; the diagonal becomes 0."""
    rows = tf.shape(D2)[:1]
    others = tf.linalg.set_diag(D2, tf.fill(rows, tf.constant(math.inf, D2.dtype)))
    delta = D2 - tf.reduce_min(others, axis=1, keepdims=True)
    delta = tf.where(delta > rounding, delta, 0.0)
    delta = tf.linalg.set_diag(delta, tf.zeros(rows, D2.dtype))
    return tf.math.divide_no_nan(delta, tf.reduce_mean(delta, axis=1, keepdims=True))
