"""Conjugate gradients as Rasmussen's minimize.m (1999) has them, to compare with SciPy's.

Polak–Ribière directions; line searches by cubic inter- and extrapolation that end under the
Wolfe–Powell conditions. `descend` stands in for that of `ptsne_keras.training.conjugate_gradient`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptsne_keras.training import conjugate_gradient
from ptsne_keras.typing import FloatArray

# The loss has to fall by this fraction of what the first slope predicts, the slope to that one.
_SUFFICIENT_DECREASE, _CURVATURE = 0.01, 0.5
_MAX_EVALUATIONS = 20  # in a line search
_EDGE = 0.1  # of a bracket, at both of its ends, is not searched
_GROWTH = 3.0  # of the step, at most, where the loss still falls
_RATIO = 100.0  # of the steps of two successive line searches, at most
_RESOLUTION = 1e-6  # of a loss in float32: a rise by less is not one


class _Point(NamedTuple):
    """A point of a line search: the loss, its slope along the direction, and its gradient."""

    step: float
    value: float
    slope: float
    gradient: FloatArray


def descend(
    evaluate: conjugate_gradient.Objective,
    variables: Sequence[Any],
    x: Any,
    P: Any,
    line_searches: int,
) -> conjugate_gradient.Descent:
    """Run line searches on one batch from the variables' values, and leave the last point there."""
    w = conjugate_gradient.flatten(variables)
    value, gradient = evaluate(w, x, P)
    loss, done, evaluations = value, 0, 1
    direction = -gradient
    slope = float(gradient @ direction)
    step = 1 / (1 - slope)

    def along(step: float) -> _Point:
        nonlocal evaluations
        evaluations += 1
        value, gradient = evaluate(w + step * direction, x, P)
        if not (math.isfinite(value) and np.isfinite(gradient).all()):
            return _Point(step, math.inf, math.inf, gradient)
        return _Point(step, value, float(gradient @ direction), gradient)

    while done < line_searches and math.isfinite(value) and -math.inf < slope < 0:
        found = _line_search(along, _Point(0.0, value, slope, gradient), step)
        if found is None:
            break
        done += 1
        w = w + found.step * direction
        beta = found.gradient @ (found.gradient - gradient) / (gradient @ gradient)
        value, gradient = found.value, found.gradient
        direction = beta * direction - gradient
        if gradient @ direction >= 0:
            direction = -gradient
        before, slope = slope, float(gradient @ direction)
        step = found.step * min(_RATIO, before / slope) if slope else 0.0
    conjugate_gradient.assign(variables, w)
    return conjugate_gradient.Descent(loss, done, evaluations)


def _line_search(along: Callable[[float], _Point], start: _Point, step: float) -> _Point | None:
    """Return a point where loss and slope have fallen enough, or None if none is found."""
    near, bound = start, math.inf
    noise = _RESOLUTION * abs(start.value)
    level = start.value + noise
    for _ in range(_MAX_EVALUATIONS):
        far = along(step)
        fallen = far.value <= level + _SUFFICIENT_DECREASE * step * start.slope
        if fallen and abs(far.slope) <= -_CURVATURE * start.slope:
            return far
        guess = _minimum(near, far, risen=far.value > level, noise=noise)
        if fallen and far.slope < 0:
            low, high = far.step, min(bound, _GROWTH * far.step)
            near = far
        else:
            low, high = near.step, far.step
            bound = far.step
        edge = _EDGE * (high - low)
        step = min(max(guess if guess >= low else high, low + edge), high - edge)
    return None


def _minimum(near: _Point, far: _Point, *, risen: bool, noise: float) -> float:
    """Return where a polynomial through the values and slopes of two points is lowest, or NaN."""
    width, rise = far.step - near.step, far.value - near.value
    if risen:  # a parabola without the far slope, which may be that of another valley
        return near.step - 0.5 * near.slope * width**2 / (rise - near.slope * width)
    if abs(rise) <= noise:  # one through the slopes
        bend = far.slope - near.slope
        return near.step - near.slope * width / bend if bend else math.nan
    a = near.slope + far.slope - 3 * rise / width
    square = a**2 - near.slope * far.slope
    root = math.sqrt(square) if square >= 0 else math.nan
    bend = far.slope - near.slope + 2 * root
    return far.step - width * (far.slope + root - a) / bend if bend else math.nan
