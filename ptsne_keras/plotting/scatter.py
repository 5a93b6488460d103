"""Scatter plots of maps: a point for each row, or shading if there are many."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from ptsne_keras.plotting import colors
from ptsne_keras.plotting.colors import Labels, short
from ptsne_keras.plotting.density import shade, tint
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils.validation import check_rows, unmasked

# Points cover each other on a map of more rows, whatever their size.
_DENSE = 50_000
# More points than this are drawn as an image inside SVG and PDF, whose size would be megabytes.
_VECTORS = 5000
# Square inches of the axes of a map in a figure of its own.
_AREA = 33.0
# Rows of a legend above which its text is smaller.
_ROWS = 18


def scatter(
    Y: Any,
    labels: Any = None,
    *,
    ax: Axes | None = None,
    classes: Any = None,
    legend: bool = True,
    density: bool | str = "auto",
    continuous: bool | str = "auto",
    **options: Any,
) -> Axes:
    """Draw a map with one colour per class, or a colour scale for numbers.

    Parameters
    ----------
    Y : array-like of shape (n_samples, 2)
        Map coordinates.
    labels : array-like or pandas Categorical of shape (n_samples,), default=None
        Class or number of each row. Ten colours and five markers distinguish fifty classes. Rows
        with a missing label (None, NaN, empty text, "NA") are grey.
    ax : matplotlib Axes, default=None
        Axes to draw on; a new figure by default.
    classes : array-like, default=None
        All classes, in the order of their colours; rows of others are grey. By default the
        categories of a Categorical, or the sorted labels.
    legend : bool, default=True
        Whether to list the classes, or to draw the colour scale.
    density : bool or "auto", default="auto"
        Whether to shade small squares instead of drawing points: in the colour of most of their
        rows, and more opaque the more rows they hold. "auto" shades more than 50,000 rows.
    continuous : bool or "auto", default="auto"
        Whether labels are numbers rather than classes. "auto" takes them as numbers if any is not
        an integer, or if more than fifty are distinct.
    **options
        Passed to `Axes.scatter`, such as `s`; shading uses `alpha` and `norm` only.

    Raises
    ------
    ValueError
        If `Y` is not finite or not of shape (n_samples, 2), or labels do not match.

    Examples
    --------
    >>> plotting.scatter(tsne.transform(X), labels).figure.savefig("map.png")
    >>> plotting.scatter(Y, X[:, 0] + 0.5).figure.savefig("map.svg")
    """
    Y = check_map(Y)
    if density not in (True, False, "auto"):
        raise ValueError(f'density should be True, False or "auto". Received: {density!r}.')
    (read,) = colors.read_labels((labels, len(Y)), classes=classes, continuous=continuous)
    shaded = len(Y) > _DENSE if density == "auto" else bool(density)
    return _draw(ax or _axes(), Y, read, legend=legend, shaded=shaded, **options)


def overlay(
    Y_train: Any, labels_train: Any, Y_test: Any, labels_test: Any, *, ax: Axes | None = None
) -> Axes:
    """Draw training rows faint and test rows strong, in the same colours.

    Parameters
    ----------
    Y_train, Y_test : array-like of shape (n_samples, 2)
        Map coordinates of training and of test rows.
    labels_train, labels_test : array-like of shape (n_samples,) or None
        Class or number of each row, as in `scatter`; None for both draws them without labels.
    ax : matplotlib Axes, default=None
        Axes to draw on; a new figure by default.

    Raises
    ------
    ValueError
        If a map is not finite or not of shape (n_samples, 2), or labels do not match.

    Examples
    --------
    >>> plotting.overlay(Y_train, labels_train, Y_test, labels_test).figure.savefig("map.png")
    """
    Y_train, Y_test = check_map(Y_train, "Y_train"), check_map(Y_test, "Y_test")
    # Read together, so that a class missing from one set does not shift the colours.
    read = colors.read_labels((labels_train, len(Y_train)), (labels_test, len(Y_test)))
    limits = [part.limits() for part in read if part.values is not None] or [(0.0, 1.0)]
    norm = Normalize(min(low for low, _ in limits), max(high for _, high in limits))
    ax = ax or _axes()
    faint = {"s": 0.7 * _size(len(Y_train), ax), "alpha": 0.25}
    strong = {"s": 1.8 * _size(len(Y_test), ax)}
    for Y, part, style in ((Y_train, read[0], faint), (Y_test, read[1], strong)):
        shaded = len(Y) > _DENSE
        _draw(ax, Y, part, legend=part is read[1], shaded=shaded, norm=norm, **style)
    ax.set_title("faint: training rows, strong: test rows", fontsize=10)
    return ax


def _axes() -> Axes:
    return plt.subplots(figsize=(8, 7), layout="constrained")[1]


def check_map(Y: Any, name: str = "Y") -> FloatArray:
    """Return Y as a finite float64 map [N, 2], or raise a ValueError."""
    Y = np.asarray(unmasked(Y, name))
    if Y.ndim != 2 or Y.shape[1] != 2:
        hint = ""
        if Y.ndim == 1 or Y.shape[1:] == (1,):
            hint = f"; add a second column, np.column_stack([{name}, np.zeros(len({name}))])"
        elif Y.ndim == 2 and Y.shape[1] > 2:
            hint = f"; choose two of its coordinates, such as {name}[:, :2]"
        raise ValueError(f"{name} should be a 2-D map [N, 2]{hint}. Received: shape {Y.shape}.")
    return check_rows(Y, name=name, dtype=np.float64) if len(Y) else Y.astype(np.float64)


def _draw(
    ax: Axes, Y: FloatArray, read: Labels, *, legend: bool, shaded: bool, **options: Any
) -> Axes:
    """Draw a map and its legend or colour scale."""
    norm = options.pop("norm", None) or Normalize(*read.limits())
    if shaded and len(Y):
        shade(ax, Y, read, norm, alpha=options.get("alpha") or 1.0)
    else:
        _points(ax, Y, read, norm, legend, options)
    # Distances mean the same in both directions; the coordinates themselves mean nothing.
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xticks([])
    ax.set_yticks([])
    if legend and read.values is not None:
        scale = ScalarMappable(norm, colors.CONTINUOUS)
        bar = ax.figure.colorbar(scale, ax=ax, shrink=0.6, label=short(read.title or ""))
        bar.ax.yaxis.label.set_parse_math(False)
    elif legend and len(read.classes) + read.missing.any() > 1:
        _list_classes(ax, read, shaded)
    return ax


def _size(n: int, ax: Axes) -> float:
    """Return the area of each of n points, in points²: smaller on small axes."""
    box = ax.get_window_extent()
    part = box.width * box.height / ax.figure.dpi**2 / _AREA
    return float(np.clip(min(1.0, 3000 / max(n, 1)) * 12.0 * part, 1.0, 12.0))


def _points(
    ax: Axes, Y: FloatArray, read: Labels, norm: Normalize, legend: bool, options: dict[str, Any]
) -> None:
    """Draw a point for each row, those without a label below the others."""
    style = {"s": _size(len(Y), ax), "linewidths": 0, "rasterized": len(Y) > _VECTORS, **options}
    gone = read.missing
    if gone.any():
        ax.scatter(*Y[gone].T, **{"color": colors.MISSING, **style})
    if read.values is not None:
        style |= {"c": read.values[~gone], "norm": norm, "cmap": colors.CONTINUOUS}
        ax.scatter(*Y[~gone].T, **style)
        return
    for i, name in enumerate(read.names):
        color, marker = colors.look(i)
        shown = {"color": color, "marker": marker, "label": name if legend else None, **style}
        ax.scatter(*Y[read.codes == i].T, **shown)


def _list_classes(ax: Axes, read: Labels, shaded: bool) -> None:
    """List the classes beside the map, in two columns and in smaller text if there are many."""
    entries: list[tuple[Any, str, str]] = []
    for i, name in list(enumerate(read.names))[: colors.LISTED]:
        color, marker = (tint(i), "s") if shaded else colors.look(i)
        entries.append((color, marker, name))
    if read.missing.any():
        entries.append((colors.MISSING, "o", read.rest))
    more = len(read.classes) - colors.LISTED
    if more > 0:
        entries.append(("none", "o", f"… and {more} more"))
    columns, most = (1, 30) if len(entries) <= colors.COLUMN else (2, 20)
    handles = [Line2D([], [], ls="", color=c, marker=m, markersize=6) for c, m, _ in entries]
    names = [short(name, most) for *_, name in entries]
    style: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False}
    style |= {"ncols": columns, "fontsize": 10 if len(entries) <= _ROWS * columns else 8}
    title = None if read.title is None else short(read.title)
    legend = ax.legend(handles, names, title=title, **style)
    # Dollar signs in a name start no formula.
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)
