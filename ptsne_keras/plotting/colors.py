"""Colours of the rows of a map, from labels that are classes or numbers."""

import contextlib
import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_hex

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils.labels import is_missing
from ptsne_keras.utils.validation import unmasked

# Petroff (2021), "Accessible color sequences for data visualization": ten colours that remain
# distinct under the common colour-vision deficiencies.
PALETTE = tuple(map(to_hex, mpl.color_sequences["petroff10"]))
# The eleventh class takes the first colour and the second marker: fifty combinations.
MARKERS = ("o", "s", "^", "D", "v")
# Perceptually uniform, also in greyscale; none of its colours is the grey of unlabelled rows.
CONTINUOUS = "viridis"
# Rows without a label: clearly lighter than the grey in the palette.
MISSING = "#e3e3e3"
# Most classes that a legend lists, and most entries that it shows in one column.
LISTED = 60
COLUMN = 25
# Integers with more distinct values are numbers and not classes.
_MOST_CLASSES = len(PALETTE) * len(MARKERS)


def look(i: int) -> tuple[str, str]:
    """Return the colour and the marker of class i; for -1, those of rows without a label."""
    if i < 0:
        return MISSING, MARKERS[0]
    return PALETTE[i % len(PALETTE)], MARKERS[i // len(PALETTE) % len(MARKERS)]


def short(name: str, most: int = 30) -> str:
    """Return a name on one line, cut to at most this many characters."""
    line = " ".join(name.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def check_length(values: npt.NDArray[Any], n: int, name: str) -> None:
    """Raise a ValueError unless there is one value for each of n rows."""
    if values.shape != (n,):
        received = len(values) if values.ndim == 1 else f"shape {values.shape}"
        raise ValueError(f"{name} should have one value per row, {n}. Received: {received}.")


@dataclass(frozen=True)
class Labels:
    """The labels of N rows: a class for each, or a number for each."""

    classes: tuple[Any, ...]  # in the order of their colours; empty if labels are numbers
    codes: npt.NDArray[np.int64]  # [N], class of each row; -1 for rows without one
    values: FloatArray | None = None  # [N], NaN where one is missing; None if labels are classes
    title: str | None = None  # name of the labels, such as that of a pandas Series
    rest: str = "no label"  # what legends call rows without a class

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the classes, as text."""
        whole = (isinstance(v, float) and v.is_integer() for v in self.classes)
        return tuple(str(int(v) if w else v) for v, w in zip(self.classes, whole, strict=True))

    @property
    def missing(self) -> npt.NDArray[np.bool_]:
        """Return whether each row lacks a label."""
        return self.codes < 0 if self.values is None else np.isnan(self.values)

    def limits(self) -> tuple[float, float]:
        """Return the smallest and the largest number."""
        present = np.zeros(1) if self.values is None else self.values[~self.missing]
        return (float(present.min()), float(present.max())) if present.size else (0.0, 1.0)


class _Column(NamedTuple):
    """Labels as given: a plain array, and the categories of a pandas Categorical."""

    array: npt.NDArray[Any]
    categories: list[Any] | None
    title: str | None

    @property
    def numeric(self) -> bool:
        return self.array.dtype.kind in "fiu"


def read_labels(
    *several: tuple[Any, int], classes: Any = None, continuous: Any = "auto"
) -> list[Labels]:
    """Read lists of labels, each with its number of rows: all share classes, or all are numbers."""
    if continuous not in (True, False, "auto"):
        raise ValueError(f'continuous should be True, False or "auto". Received: {continuous!r}.')
    columns = [None if labels is None else _column(labels, n) for labels, n in several]
    given = [column for column in columns if column is not None]
    words = [column.array.dtype for column in given if not column.numeric]
    if continuous is True and words:
        raise ValueError(
            "labels should be numbers with continuous=True; leave it out for classes. "
            f"Received: dtype {words[0]}."
        )
    if continuous == "auto":
        ordered = classes is not None or any(column.categories is not None for column in given)
        continuous = bool(given) and not words and not ordered and _are_numbers(given)
    rest = "no label" if classes is None else "other"
    classes = np.asarray(_all_classes(given) if classes is None else classes, object)
    classes = tuple(classes[~is_missing(classes)].tolist())
    found = []
    for (_, n), column in zip(several, columns, strict=True):
        if column is None:
            found.append(Labels(("",), np.zeros(n, np.int64)))
        elif continuous:
            values = np.where(np.isfinite(column.array), column.array, np.nan).astype(np.float64)
            found.append(Labels((), np.zeros(n, np.int64), values, column.title))
        else:
            codes = _codes(column.array, classes)
            found.append(Labels(classes, codes, None, column.title, rest))
    return found


def _column(labels: Any, n: int) -> _Column:
    """Return labels of n rows as an array of numbers, of text, or of objects of several kinds."""
    name = getattr(labels, "name", None)
    categorical = getattr(labels, "cat", labels)
    ordered = hasattr(categorical, "categories") and hasattr(categorical, "codes")
    array = np.asarray(unmasked(labels, "labels"))
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    check_length(array, n, "labels")
    if array.dtype == object:  # such as nullable columns
        array = _from_objects(array)
    if array.dtype.kind in "mM":
        raise _dates(f"dtype {array.dtype}")
    categories = list(categorical.categories) if ordered else None
    return _Column(array, categories, None if name is None else str(name))


def _from_objects(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return float64 if all objects that are present are numbers."""
    missing = is_missing(array)
    present = array[~missing]
    if any(isinstance(v, datetime.date) for v in present):
        raise _dates("dates")
    if present.size and all(isinstance(v, Number) and not isinstance(v, bool) for v in present):
        with contextlib.suppress(TypeError, ValueError):
            return np.where(missing, np.nan, array).astype(np.float64)
    return array


def _dates(received: str) -> ValueError:
    return ValueError(
        "labels should be classes or numbers and no dates; give years, such as "
        "pandas.DatetimeIndex(labels).year, or the number of days since the first. "
        f"Received: {received}."
    )


def _are_numbers(columns: Sequence[_Column]) -> bool:
    """Return whether labels, all numeric, are too fine or too many to be classes."""
    array = np.concatenate([column.array for column in columns])
    present = array[~is_missing(array)]
    whole = array.dtype.kind != "f" or bool((np.rint(present) == present).all())
    return not whole or len(np.unique(present)) > _MOST_CLASSES


def _all_classes(columns: Sequence[_Column]) -> list[Any]:
    """Return the classes of all columns: categories in their order first, then the others."""
    found = [label for column in columns for label in column.categories or ()]
    if found:
        return list(dict.fromkeys(found + [v for c in columns for v in _distinct(c.array)]))
    arrays = [column.array for column in columns]
    if len({array.dtype.kind in "fiub" for array in arrays}) > 1:
        arrays = [array.astype(object) for array in arrays]  # the text "1" is not the number 1
    return _distinct(np.concatenate(arrays)) if arrays else []


def _distinct(array: npt.NDArray[Any]) -> list[Any]:
    """Return the distinct labels, sorted where they have an order."""
    present = array[~is_missing(array)]
    try:
        found = np.unique(present).tolist()
    except TypeError:  # such as numbers among words
        return list(dict.fromkeys(present.tolist()))
    return sorted(found, key=_natural) if all(isinstance(v, str) for v in found) else found


def _natural(name: str) -> tuple[Any, ...]:
    """Return a sort key that puts "class 2" before "class 10"."""
    parts: list[Any] = re.split(r"([0-9]+)", name)  # words and numbers in turn
    parts[1::2] = [(len(digits), digits) for digits in (p.lstrip("0") for p in parts[1::2])]
    return parts, name


def _codes(array: npt.NDArray[Any], classes: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Return the number of each label among the classes, -1 if it is not one of them."""
    number = {label: i for i, label in enumerate(classes)}
    return np.array([number.get(label, -1) for label in array.tolist()], np.int64)
