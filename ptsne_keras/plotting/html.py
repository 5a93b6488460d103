"""An interactive page: one HTML file with hover and zoom, which needs no network."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex

from ptsne_keras.plotting import colors
from ptsne_keras.plotting.colors import Labels, short
from ptsne_keras.plotting.scatter import check_map
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import files
from ptsne_keras.utils.optional import require
from ptsne_keras.utils.validation import unmasked

# Most rows that a browser pans smoothly; each takes about 20 bytes of the page.
_MOST = 200_000
# With more rows than this, WebGL draws them if the browser has it.
_WEBGL = 5000
# Bokeh's names of `colors.MARKERS`.
_MARKERS = {"o": "circle", "s": "square", "^": "triangle", "D": "diamond", "v": "inverted_triangle"}


def html(
    Y: Any,
    path: str | os.PathLike[str],
    labels: Any = None,
    *,
    names: Any = None,
    values: Mapping[str, Any] | None = None,
    title: str = "Map",
) -> Path:
    """Write a map as one HTML page: hover for details, scroll to zoom, drag to pan.

    A click on a class in the legend hides it. The page contains all it needs, 1.3 MB plus about 20
    bytes per row. Colours are those of `scatter`. Needs Bokeh: `pip install 'ptsne_keras[plots]'`.

    Parameters
    ----------
    Y : array-like of shape (n_samples, 2)
        Map coordinates. Of more rows, 200,000 are drawn at random, and the page says so.
    path : str or Path
        File to write. An existing file is replaced only once the new page is complete.
    labels : array-like or pandas Categorical of shape (n_samples,), default=None
        Class or number of each row, as in `scatter`.
    names : array-like of shape (n_samples,), default=None
        Names of the rows, shown on hovering. By default their numbers, from 0.
    values : mapping of str to array-like of shape (n_samples,), default=None
        Further values shown on hovering.
    title : str, default="Map"
        Title of the page.

    Raises
    ------
    ModuleNotFoundError
        If Bokeh is not installed.
    ValueError
        If `Y` is not finite or not of shape (n_samples, 2), or anything else does not match it.
    OSError
        If the page cannot be written.

    Examples
    --------
    >>> page = plotting.html(Y, "map.html", labels, values={"mean": X.mean(axis=1)})
    """
    from ptsne_keras.metrics import ranks  # needs Keras, which drawing a map does not

    purpose = {"extra": "plots", "purpose": "plotting.html"}
    embed, resources = (require(f"bokeh.{m}", **purpose) for m in ("embed", "resources"))
    Y, values = check_map(Y), values or {}
    (read,) = colors.read_labels((labels, len(Y)))
    columns = _columns(Y, read, names, values)
    chosen = ranks.drawn(len(Y), _MOST, 0)
    columns = {name: column[chosen] for name, column in columns.items()}
    plot = _figure(title, len(chosen), len(Y), _tooltips(read, values))
    if read.values is None:
        _classes(plot, columns, read.codes[chosen], read)
    else:
        _numbers(plot, columns, read)
    path = Path(path)
    with files.replacing(path) as beside:
        beside.write_text(embed.file_html(plot, resources.INLINE, title), encoding="utf-8")
    return path


def _columns(Y: FloatArray, read: Labels, names: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page knows of each row; float32 is as good as float64 on a screen."""
    columns: dict[str, Any] = {"x": np.float32(Y[:, 0]), "y": np.float32(Y[:, 1])}
    numbers = np.arange(len(Y), dtype=np.int32)
    columns["name"] = numbers if names is None else _shown(names, len(Y), "names")
    if read.values is not None:
        columns["label"] = read.values
    elif len(read.classes) > 1:
        columns["label"] = np.array([*read.names, read.rest], object)[read.codes]
    for i, (name, value) in enumerate(values.items()):
        columns[f"value{i}"] = _shown(value, len(Y), f"values[{name!r}]")
    return columns


def _shown(given: Any, n: int, name: str) -> Any:
    """Return numbers as they are, which Bokeh packs, and anything else as text."""
    column = np.asarray(unmasked(given, name))
    colors.check_length(column, n, name)
    if column.dtype.kind in "iuf" and column.dtype.itemsize <= 8:
        return column
    return np.array([str(value) for value in column], object)


def _tooltips(read: Labels, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = [("row", "@name")]
    if read.values is not None or len(read.classes) > 1:
        shown.append((read.title or ("class" if read.values is None else "value"), "@label"))
    return shown + [(str(name), f"@value{i}") for i, name in enumerate(values)]


def _figure(title: str, drawn: int, n: int, tooltips: list[tuple[str, str]]) -> Any:
    from bokeh import models
    from bokeh.plotting import figure

    wheel = models.WheelZoomTool()
    hover = models.HoverTool(tooltips=tooltips, point_policy="snap_to_data", limit=5)
    plot = figure(
        tools=[models.PanTool(), wheel, models.ResetTool(), models.SaveTool(), hover],
        active_scroll=wheel,
        match_aspect=True,
        sizing_mode="stretch_both",
        output_backend="webgl" if drawn > _WEBGL else "canvas",
    )
    if drawn < n:
        note = models.PlainText(f"{drawn:,} of {n:,} rows, drawn at random")
        plot.add_layout(models.Title(text=note, text_font_style="normal"), "above")
    plot.add_layout(models.Title(text=models.PlainText(title), text_font_size="14pt"), "above")
    plot.axis.visible = False
    plot.grid.visible = False
    plot.toolbar.logo = None
    return plot


def _classes(plot: Any, columns: dict[str, Any], codes: Any, read: Labels) -> None:
    """Draw one layer per class, which the legend can hide; rows without one come first, below."""
    from bokeh.models import ColumnDataSource, Legend, LegendItem

    items, names = [], (*read.names, read.rest)
    for i in range(-1, len(read.classes)):
        inside = codes == i
        if not inside.any():
            continue
        color, marker = colors.look(i)
        source = ColumnDataSource({name: column[inside] for name, column in columns.items()})
        style = _style(len(codes), color)
        layer = plot.scatter("x", "y", source=source, marker=_MARKERS[marker], **style)
        items.append(LegendItem(label={"value": short(names[i])}, renderers=[layer]))
    more = len(items) - colors.LISTED
    if more > 0:
        items[colors.LISTED :] = [LegendItem(label={"value": f"… and {more} more"})]
    if len(items) < 2:
        return
    title = None if read.title is None else short(read.title)
    legend = Legend(items=items, title=title, click_policy="hide", border_line_color=None)
    legend.label_text_font_size = "10pt"
    if len(items) > colors.COLUMN:  # sizes that fit in a window 700 pixels high
        legend.update(ncols=2, label_text_font_size="8pt", spacing=1)
        legend.update(glyph_height=16, glyph_width=16, label_height=16)
    plot.add_layout(legend, "right")


def _numbers(plot: Any, columns: dict[str, Any], read: Labels) -> None:
    """Draw numbers in a colour scale, with its bar."""
    from bokeh.models import ColorBar, ColumnDataSource, PlainText
    from bokeh.transform import linear_cmap

    palette = [to_hex(color) for color in mpl.colormaps[colors.CONTINUOUS](np.linspace(0, 1, 256))]
    color = linear_cmap("label", palette, *read.limits(), nan_color=colors.MISSING)
    source = ColumnDataSource(columns)
    plot.scatter("x", "y", source=source, **_style(len(columns["x"]), color))
    title = None if read.title is None else PlainText(short(read.title))
    bar = ColorBar(color_mapper=color.transform, title=title, title_standoff=8)
    plot.add_layout(bar, "right")


def _style(n: int, color: Any) -> dict[str, Any]:
    size = float(np.clip(400 / np.sqrt(max(n, 1)), 3, 8))
    return {"size": size, "color": color, "line_color": None, "alpha": 0.8}
