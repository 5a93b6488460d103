"""A page to look around in: one HTML file, which needs no network."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex

from ptsne_keras.metrics import ranks
from ptsne_keras.plotting.colors import CONTINUOUS, MISSING, Labels, look, short
from ptsne_keras.plotting.scatter import checked
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import files

# Rows that a browser still moves smoothly; each takes some 20 bytes of the page.
_MOST = 200_000
# Rows above which the graphics processor draws, where there is one.
_WEBGL = 5000
# Bokeh's names of `colors.MARKERS`.
_MARKERS = {"o": "circle", "s": "square", "^": "triangle", "D": "diamond", "v": "inverted_triangle"}
# Classes that the legend lists, and entries above which it has two columns.
_LISTED = 60
_COLUMN = 25


def html(
    Y: Any,
    path: str | os.PathLike[str],
    labels: Any = None,
    *,
    names: Any = None,
    values: Mapping[str, Any] | None = None,
    title: str = "Map",
) -> Path:
    """Write a map as one HTML page: hover for names, wheel to zoom, drag to move.

    A click on a class in the legend hides it. The page holds all it needs, 1.3 MB and some 20 bytes
    a row, and asks nothing of a network. Colours are those of `map`. Needs Bokeh:
    ``pip install 'ptsne_keras[plots]'``.

    Parameters
    ----------
    Y : array [N, 2]
        Map coordinates. Of more than 200,000 rows so many are drawn at random, and the page says
        so.
    path : str or Path
        Of the file. It is replaced once all of the page is written, or stays as it was.
    labels : array, list, or pandas Series or Categorical [N], optional
        Class or number of each row, as in `map`.
    names : sequence [N], optional
        What hovering calls each row; by default its number.
    values : mapping of str to sequence [N], optional
        More that hovering shows.
    title : str
        Of the page.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    ModuleNotFoundError
        Without Bokeh.
    ValueError
        If Y is not finite and [N, 2], or labels, names or values are not one a row.
    OSError
        If the page cannot be written there.

    Examples
    --------
    >>> page = plotting.html(Y, "map.html", labels, values={"mean": X.mean(axis=1)})
    """
    try:
        from bokeh.embed import file_html
        from bokeh.resources import INLINE
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "plotting.html needs Bokeh: pip install 'ptsne_keras[plots]'.", name="bokeh"
        ) from error
    Y = checked(Y)
    read = Labels.of(labels, len(Y))
    columns = _columns(Y, read, names, values or {})
    chosen = ranks.drawn(len(Y), _MOST, 0)
    note = f"{len(chosen):,} of {len(Y):,} rows, drawn at random" if len(chosen) < len(Y) else ""
    columns = {name: column[chosen] for name, column in columns.items()}
    codes = read.codes[chosen]
    plot = _figure(title, note, len(chosen), _tooltips(read, values or {}))
    if read.values is None:
        _classes(plot, columns, codes, read)
    else:
        _numbers(plot, columns, read)
    path = Path(path)
    with files.replacing(path) as beside:
        beside.write_text(file_html(plot, INLINE, title), encoding="utf-8")
    return path


def _columns(Y: FloatArray, read: Labels, names: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Gather what the page knows of each row; a screen cannot tell float32 from float64."""
    columns: dict[str, Any] = {"x": np.float32(Y[:, 0]), "y": np.float32(Y[:, 1])}
    numbers = np.arange(len(Y), dtype=np.int32)
    columns["name"] = numbers if names is None else _shown(names, len(Y), "names")
    if read.values is not None:
        columns["label"] = read.values
    elif len(read.names) > 1:
        columns["label"] = np.array([*read.names, "no label"], object)[read.codes]
    for i, (name, value) in enumerate(values.items()):
        columns[f"value{i}"] = _shown(value, len(Y), f"values[{name!r}]")
    return columns


def _shown(given: Any, n: int, what: str) -> Any:
    """Numbers as they are, so that they are packed; anything else as text."""
    column = np.asarray(given)
    if column.shape != (n,):
        received = len(column) if column.ndim == 1 else f"shape {column.shape}"
        raise ValueError(f"{what} should be one a row, {n}. Received: {received}.")
    if column.dtype.kind in "iuf" and column.dtype.itemsize <= 8:
        return column
    return np.array([str(value) for value in column], object)


def _tooltips(read: Labels, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = [("row", "@name")]
    if read.values is not None or len(read.names) > 1:
        shown.append((read.title or ("class" if read.values is None else "value"), "@label"))
    return shown + [(str(name), f"@value{i}") for i, name in enumerate(values)]


def _figure(title: str, note: str, n: int, tooltips: list[tuple[str, str]]) -> Any:
    from bokeh.models import (
        HoverTool,
        PanTool,
        PlainText,
        ResetTool,
        SaveTool,
        Title,
        WheelZoomTool,
    )
    from bokeh.plotting import figure

    wheel = WheelZoomTool()
    hover = HoverTool(tooltips=tooltips, point_policy="snap_to_data", limit=5)
    plot = figure(
        tools=[PanTool(), wheel, ResetTool(), SaveTool(), hover],
        active_scroll=wheel,
        match_aspect=True,
        sizing_mode="stretch_both",
        output_backend="webgl" if n > _WEBGL else "canvas",
    )
    if note:
        plot.add_layout(Title(text=PlainText(note), text_font_style="normal"), "above")
    plot.add_layout(Title(text=PlainText(title), text_font_size="14pt"), "above")
    plot.axis.visible = False
    plot.grid.visible = False
    plot.toolbar.logo = None
    return plot


def _classes(plot: Any, columns: dict[str, Any], codes: Any, read: Labels) -> None:
    """Draw one layer a class, which the legend can hide: rows without one first, below."""
    from bokeh.models import ColumnDataSource, Legend, LegendItem

    items = []
    for i in range(-1, len(read.names)):
        inside = codes == i
        if not inside.any():
            continue
        color, marker = look(i)
        source = ColumnDataSource({name: column[inside] for name, column in columns.items()})
        layer = plot.scatter(
            "x", "y", source=source, marker=_MARKERS[marker], **_style(len(codes), color)
        )
        name = "no label" if i < 0 else read.names[i]
        items.append(LegendItem(label={"value": short(name)}, renderers=[layer]))
    more = len(items) - _LISTED
    if more > 0:
        items[_LISTED:] = [LegendItem(label={"value": f"… and {more} more"})]
    if len(items) > 1:
        title = None if read.title is None else short(read.title)
        legend = Legend(items=items, title=title, click_policy="hide", border_line_color=None)
        legend.label_text_font_size = "10pt"
        if len(items) > _COLUMN:  # which fit in a window of 700 pixels
            legend.update(ncols=2, label_text_font_size="8pt", spacing=1)
            legend.update(glyph_height=16, glyph_width=16, label_height=16)
        plot.add_layout(legend, "right")


def _numbers(plot: Any, columns: dict[str, Any], read: Labels) -> None:
    """Draw numbers by a scale of colours, which is shown."""
    from bokeh.models import ColorBar, ColumnDataSource, PlainText
    from bokeh.transform import linear_cmap

    palette = [to_hex(color) for color in mpl.colormaps[CONTINUOUS](np.linspace(0, 1, 256))]
    color = linear_cmap("label", palette, *read.limits(), nan_color=MISSING)
    source = ColumnDataSource(columns)
    plot.scatter("x", "y", source=source, **_style(len(columns["x"]), color))
    title = None if read.title is None else PlainText(short(read.title))
    bar = ColorBar(color_mapper=color.transform, title=title, title_standoff=8)
    plot.add_layout(bar, "right")


def _style(n: int, color: Any) -> dict[str, Any]:
    size = float(np.clip(400 / np.sqrt(max(n, 1)), 3, 8))
    return {"size": size, "color": color, "line_color": None, "alpha": 0.8}
