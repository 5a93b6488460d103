"""Conjugate gradients by the rules of Rasmussen's minimize.m, to compare with SciPy's.

The rules are those of the version of 1999-2002, which the paper's MATLAB code calls: Polak–Ribière
directions, and line searches by cubic inter- and extrapolation until the Wolfe–Powell conditions
hold. `descend` stands in for that of `ptsne_keras.training.conjugate_gradient`.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptsne_keras.training import conjugate_gradient
from ptsne_keras.typing import FloatArray

# The loss has to fall by this fraction of what the first slope predicts, the slope to that one.
_SUFFICIENT_DECREASE, _CURVATURE = 0.01, 0.5
_MAX_EVALUATIONS = 20  # in a line search, after the first
_EDGE = 0.1  # of a bracket, at both of its ends, is not searched
_GROWTH = 3.0  # of the step, at most, where no step has been too long
_RATIO = 100.0  # of the steps of two successive line searches, at most


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

    failed = False
    for _ in range(line_searches):
        found = _line_search(along, _Point(0.0, value, slope, gradient), step)
        if found is None and failed:
            break
        failed = found is None
        if found is None:  # try once more, downhill
            direction, slope = -gradient, -float(gradient @ gradient)
            step = 1 / (1 - slope)
            continue
        done += 1
        w = w + found.step * direction
        beta = found.gradient @ (found.gradient - gradient) / (gradient @ gradient)
        value, gradient = found.value, found.gradient
        before, direction = slope, beta * direction - gradient
        slope = float(gradient @ direction)
        if slope > 0:
            direction, slope = -gradient, -float(gradient @ gradient)
        step = found.step * min(_RATIO, before / (slope - sys.float_info.min))
    conjugate_gradient.assign(variables, w)
    return conjugate_gradient.Descent(loss, done, evaluations)


def _line_search(along: Callable[[float], _Point], start: _Point, step: float) -> _Point | None:
    """Return a point where loss and slope have fallen enough, or None if none is found."""
    near, far, bound = start, along(step), math.inf
    for left in range(_MAX_EVALUATIONS, -1, -1):
        enough = start.value + far.step * _SUFFICIENT_DECREASE * start.slope
        too_far = far.value > enough or far.slope > -_CURVATURE * start.slope
        if not too_far and far.slope > _CURVATURE * start.slope:
            return far
        if not left:
            break
        if too_far:
            bound = far.step
            far = along(_interpolated(near, far, risen=far.value > start.value))
        else:
            near, far = far, along(_extrapolated(near, far, bound))
    return None


def _interpolated(near: _Point, far: _Point, *, risen: bool) -> float:
    """Return a step between two points."""
    width, rise = far.step - near.step, far.value - near.value
    if risen:  # the minimum of a parabola without the far slope
        guess = near.step - 0.5 * near.slope * width**2 / (rise - near.slope * width)
    else:
        guess = _cubic_minimum(near, far)
    if not math.isfinite(guess):
        guess = near.step + 0.5 * width
    return min(max(guess, near.step + _EDGE * width), far.step - _EDGE * width)


def _extrapolated(near: _Point, far: _Point, bound: float) -> float:
    """Return a step beyond both points, and below one that was too long."""
    guess = _cubic_minimum(near, far)
    known = math.isfinite(bound)
    if not guess >= far.step or guess > bound or math.isinf(guess):
        return 0.5 * (far.step + bound) if known else _GROWTH * far.step
    if not known and guess > _GROWTH * far.step:
        return _GROWTH * far.step
    least = far.step + _EDGE * (far.step - near.step)
    if guess < least or not known:
        return max(guess, least)
    return max(guess, bound - _EDGE * (bound - far.step))  # the last tenth alone, as there


def _cubic_minimum(near: _Point, far: _Point) -> float:
    """Return where a cubic through values and slopes of two points is lowest, or NaN."""
    width = far.step - near.step
    a = near.slope + far.slope - 3 * (far.value - near.value) / width
    square = a**2 - near.slope * far.slope
    root = math.sqrt(square) if square >= 0 else math.nan
    bend = far.slope - near.slope + 2 * root
    return far.step - width * (far.slope + root - a) / bend if bend else math.nan
