"""The map itself: a point a row, or shading where rows are many."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from ptsne_keras.plotting.colors import CONTINUOUS, MISSING, Labels, look, numeric, short, union
from ptsne_keras.plotting.density import shade, tint
from ptsne_keras.typing import FloatArray

# Rows above which points cover each other, whatever their size.
_DENSE = 50_000
# Points above which a drawing made of lines would be megabytes.
_VECTORS = 5000
# Square inches of the axes of a map in a figure of its own.
_AREA = 33.0
# Classes that a legend lists; entries above which it has two columns, and rows of it above which
# they are printed smaller.
_LISTED = 60
_COLUMN = 25
_ROWS = 18


def map(
    Y: Any,
    labels: Any = None,
    *,
    ax: Axes | None = None,
    classes: Any = None,
    legend: bool = True,
    density: bool | str = "auto",
    continuous: bool | str = "auto",
    **scatter: Any,
) -> Axes:
    """Draw a map: one colour a class, or a scale of colours for numbers.

    Parameters
    ----------
    Y : array [N, 2]
        Map coordinates.
    labels : array, list, or pandas Series or Categorical [N], optional
        Class or number of each row. Ten colours times five markers tell fifty classes apart. Rows
        whose label is None, NaN or empty text are grey.
    ax : matplotlib Axes, optional
        Drawn on; a new figure's by default.
    classes : sequence, optional
        All classes there are, in the order of their colours; by default a Categorical's categories,
        or those in `labels`. Rows of other classes are grey.
    legend : bool
        Whether to list the classes, or to draw the scale of the numbers.
    density : bool or "auto"
        Shade small squares in place of drawing points: each has the colour of most of its rows, and
        is the stronger the more rows it holds. "auto": above 50,000 rows. The image is of about 512
        squares a side, so that SVG and PDF stay small.
    continuous : bool or "auto"
        Whether labels are numbers and not classes. "auto": if some are not whole, or more than
        fifty are distinct.
    **scatter
        To `Axes.scatter`: `s`, `alpha`, … Shading takes `alpha` alone.

    Returns
    -------
    matplotlib Axes
        `.figure.savefig("map.svg")`, `"map.pdf"` and `"map.png"` write it.

    Raises
    ------
    ValueError
        If Y is not finite and [N, 2], or there is not one label a row.

    Examples
    --------
    >>> plotting.map(tsne.transform(X), labels).figure.savefig("map.png")
    >>> plotting.map(Y, X[:, 0] + 0.5).figure.savefig("map.svg")
    """
    Y = checked(Y)
    if density not in (True, False, "auto"):
        raise ValueError(f'density should be True, False or "auto". Received: {density!r}.')
    read = Labels.of(labels, len(Y), classes=classes, continuous=continuous)
    norm = scatter.pop("norm", None) or Normalize(*read.limits())
    ax = ax or _axes()
    shaded = len(Y) > _DENSE if density == "auto" else density
    if shaded and len(Y):
        shade(ax, Y, read, norm, alpha=scatter.get("alpha") or 1.0)
    else:
        _points(ax, Y, read, norm, legend, scatter)
    # Distances mean the same in both directions, and the axes themselves mean nothing.
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xticks([])
    ax.set_yticks([])
    if legend and read.values is not None:
        scale = ScalarMappable(norm, CONTINUOUS)
        bar = ax.figure.colorbar(scale, ax=ax, shrink=0.6, label=short(read.title or ""))
        bar.ax.yaxis.label.set_parse_math(False)
    elif legend and len(read.names) + (read.codes < 0).any() > 1:
        _list_classes(ax, read, shaded=bool(shaded), other=classes is not None)
    return ax


def overlay(
    Y_train: Any, labels_train: Any, Y_test: Any, labels_test: Any, *, ax: Axes | None = None
) -> Axes:
    """Draw the training rows of a map faint and the test rows strong, in the same colours.

    Labels as in `map`, or None for both.

    Raises
    ------
    ValueError
        As `map`.

    Examples
    --------
    >>> plotting.overlay(Y_train, labels_train, Y_test, labels_test).figure.savefig("map.png")
    """
    Y_train, Y_test = checked(Y_train, "Y_train"), checked(Y_test, "Y_test")
    # Among all classes, so that one missing from either set does not shift the colours.
    classes = union(labels_train, labels_test)
    numbers = numeric(labels_train, labels_test)
    both = ((labels_train, Y_train), (labels_test, Y_test))
    read = [Labels.of(labels, len(Y), classes=classes, continuous=numbers) for labels, Y in both]
    style: dict[str, Any] = {"classes": classes, "continuous": False}
    if numbers:
        low, high = zip(*(part.limits() for part in read if part.values is not None), strict=True)
        style = {"continuous": True, "norm": Normalize(min(low), max(high))}
    ax = ax or _axes()
    size = _size(len(Y_train), ax)
    map(Y_train, labels_train, ax=ax, legend=False, s=0.7 * size, alpha=0.25, **style)
    map(Y_test, labels_test, ax=ax, s=1.8 * _size(len(Y_test), ax), **style)
    ax.set_title("faint: training rows, strong: test rows", fontsize=10)
    return ax


def _axes() -> Axes:
    return plt.subplots(figsize=(8, 7), layout="constrained")[1]


def checked(Y: Any, name: str = "Y") -> FloatArray:
    """Return Y as a finite float64 map [N, 2], or raise a ValueError."""
    Y = np.asarray(Y)
    if Y.ndim != 2 or Y.shape[1] != 2:
        mend = ""
        if Y.ndim == 1 or Y.shape[1:] == (1,):
            mend = f"; give it a second column, np.column_stack([{name}, np.zeros(len({name}))])"
        elif Y.ndim == 2 and Y.shape[1] > 2:
            mend = f"; give two of its coordinates, such as {name}[:, :2]"
        raise ValueError(f"{name} should be a 2-D map [N, 2]{mend}. Received: shape {Y.shape}.")
    if Y.dtype.kind not in "fiubO":
        raise ValueError(f"{name} should be numeric. Received: dtype {Y.dtype}.")
    Y = Y.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(Y).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{name} should be finite. Received: {bad.size} rows with NaN or infinity, the first "
            f"at index {bad[0]}."
        )
    return Y


def _size(n: int, ax: Axes) -> float:
    """Area of a point, in square points of print, for n of them: less in small axes."""
    box = ax.get_window_extent()
    part = box.width * box.height / ax.figure.dpi**2 / _AREA
    return float(np.clip(min(1.0, 3000 / max(n, 1)) * 12.0 * part, 1.0, 12.0))


def _points(
    ax: Axes, Y: FloatArray, read: Labels, norm: Normalize, legend: bool, scatter: dict[str, Any]
) -> None:
    """Draw a point a row: those without a label first, below the others."""
    style: dict[str, Any] = {
        "s": _size(len(Y), ax),
        "linewidths": 0,
        "rasterized": len(Y) > _VECTORS,
    }
    style |= scatter
    gone = read.codes < 0 if read.values is None else np.isnan(read.values)
    if gone.any():
        ax.scatter(*Y[gone].T, **{"color": MISSING, **style})
    if read.values is not None:
        style |= {"c": read.values[~gone], "norm": norm, "cmap": CONTINUOUS}
        ax.scatter(Y[~gone, 0], Y[~gone, 1], **style)
        return
    for i, name in enumerate(read.names):
        color, marker = look(i)
        shown = {"color": color, "marker": marker, "label": name if legend else None, **style}
        ax.scatter(*Y[read.codes == i].T, **shown)


def _list_classes(ax: Axes, read: Labels, *, shaded: bool, other: bool) -> None:
    """List the classes beside the map, in two columns and smaller where they are many."""
    entries = []
    for i, name in list(enumerate(read.names))[:_LISTED]:
        color, marker = (tint(i), "s") if shaded else look(i)
        entries.append((_entry(color, marker), name))
    if (read.codes < 0).any():
        entries.append((_entry(MISSING, "o"), "other" if other else "no label"))
    more = len(read.names) - _LISTED
    if more > 0:
        entries.append((_entry("none", "o"), f"… and {more} more"))
    columns, most = (1, 30) if len(entries) <= _COLUMN else (2, 20)
    legend = ax.legend(
        [handle for handle, _ in entries],
        [short(name, most) for _, name in entries],
        title=None if read.title is None else short(read.title),
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        ncols=columns,
        fontsize=10 if len(entries) <= _ROWS * columns else 8,
    )
    # A name is text, whatever dollars are in it, and no formula.
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)


def _entry(color: Any, marker: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=color, markersize=6)
