"""Shading of maps with too many rows for separate points."""

from typing import Any

import matplotlib as mpl
import numpy as np
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgb

from ptsne_keras.plotting.colors import CONTINUOUS, MISSING, PALETTE, Labels
from ptsne_keras.typing import FloatArray

# Squares along the longer side of a map.
_SIDE = 512
# Opacity of a square with a single row; the fullest is opaque.
_FAINTEST = 0.3
# White (1) or black (0), and the share of it mixed into the palette in each round of ten classes.
_TINTS = ((1.0, 0.0), (1.0, 0.5), (0.0, 0.4), (1.0, 0.75), (0.0, 0.65))


def tint(i: int) -> tuple[float, ...]:
    """Return the colour of class i, which tells fifty classes apart without markers."""
    if i < 0:
        return to_rgb(MISSING)
    toward, part = _TINTS[i // len(PALETTE) % len(_TINTS)]
    base = to_rgb(PALETTE[i % len(PALETTE)])
    return tuple((1 - part) * c + part * toward for c in base)


def shade(ax: Axes, Y: FloatArray, labels: Labels, norm: Normalize, alpha: float = 1.0) -> None:
    """Draw an image of squares, each in the colour of most of its rows or of their mean."""
    low, high = Y.min(axis=0), Y.max(axis=0)
    side = float((high - low).max()) / _SIDE or 1.0
    width, height = (int((high - low)[k] / side) + 1 for k in range(2))
    column, row = np.minimum(((Y - low) / side).astype(np.int64), (width - 1, height - 1)).T
    square = row * width + column
    size = width * height
    image = np.empty((size, 4))
    if labels.values is None:
        image[:, :3] = _majorities(square, labels, size)
    else:
        image[:, :3] = _means(square, labels.values, norm, size)
    image[:, 3] = alpha * _opacity(np.bincount(square, minlength=size))
    extent = (low[0], low[0] + width * side, low[1], low[1] + height * side)
    ax.imshow(
        image.reshape(height, width, 4), origin="lower", extent=extent, interpolation="nearest"
    )


def _majorities(square: Any, labels: Labels, size: int) -> FloatArray:
    """Return the colour [size, 3] of the class with most rows in each square."""
    colors = np.tile(tint(-1), (size, 1))
    most = np.zeros(size, np.int64)
    for i in range(len(labels.classes)):
        count = np.bincount(square[labels.codes == i], minlength=size)
        more = count > most
        colors[more], most[more] = tint(i), count[more]
    return colors


def _means(square: Any, values: FloatArray, norm: Normalize, size: int) -> FloatArray:
    """Return the colour [size, 3] of the mean of the numbers in each square."""
    present = np.isfinite(values)
    count = np.bincount(square[present], minlength=size)
    total = np.bincount(square[present], values[present], minlength=size)
    colors: FloatArray = mpl.colormaps[CONTINUOUS](norm(total / np.maximum(count, 1)))[:, :3]
    colors[count == 0] = tint(-1)
    return colors


def _opacity(total: Any) -> FloatArray:
    """Return 0 for empty squares; for the others, faint to opaque by rank of their row counts."""
    opacity = np.zeros(len(total))
    filled = total > 0
    rank = scipy.stats.rankdata(total[filled], "min") - 1.0  # the number of emptier squares
    opacity[filled] = _FAINTEST + (1 - _FAINTEST) * (rank / rank.max()) if rank.any() else 1.0
    return opacity
