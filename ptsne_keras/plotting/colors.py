"""What colours the rows of a map: a class each, or a number each."""

import contextlib
import datetime
import re
from dataclasses import dataclass
from numbers import Number
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ptsne_keras.typing import FloatArray

# Petroff (2021), "Accessible color sequences for data visualization": ten colours that stay apart
# under the common colour-vision deficiencies.
PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
# The eleventh class has the first colour and another marker: fifty classes look different.
MARKERS = ("o", "s", "^", "D", "v")
# Of numbers: even steps, in the same order in grey and under the common colour-vision deficiencies;
# none of its colours is the grey of rows without a label.
CONTINUOUS = "viridis"
# Rows without a label: clearly lighter than the grey among the classes.
MISSING = "#e3e3e3"
# More distinct numbers than that are no classes.
_MOST_CLASSES = len(PALETTE) * len(MARKERS)


def look(i: int) -> tuple[str, str]:
    """Colour and marker of the class number i; of -1, that of rows without a label."""
    if i < 0:
        return MISSING, MARKERS[0]
    return PALETTE[i % len(PALETTE)], MARKERS[i // len(PALETTE) % len(MARKERS)]


@dataclass(frozen=True)
class Labels:
    """Labels of N rows, read: the class of each, or the number of each."""

    names: tuple[str, ...]
    """Of the classes."""
    codes: npt.NDArray[np.int64]
    """[N], number of each row's class; -1 where it has none."""
    values: FloatArray | None
    """[N], where labels are numbers; NaN where a row has none."""
    title: str | None
    """What the labels are called, where they say so."""

    @classmethod
    def of(cls, labels: Any, n: int, *, classes: Any = None, continuous: Any = "auto") -> Self:
        """Read labels of n rows."""
        if continuous not in (True, False, "auto"):
            raise ValueError(
                f'continuous should be True, False or "auto". Received: {continuous!r}.'
            )
        if labels is None:
            return cls(("",), np.zeros(n, np.int64), None, None)
        name = getattr(labels, "name", None)
        title = None if name is None else str(name)
        array, classes = _array(labels, classes)
        if array.shape != (n,):
            received = len(array) if array.ndim == 1 else f"shape {array.shape}"
            raise ValueError(f"labels should be one a row, {n}. Received: {received}.")
        numeric = array.dtype.kind in "fiu"
        if continuous is True and not numeric:
            raise ValueError(
                "labels should be numbers where continuous=True; leave it out for classes. "
                f"Received: dtype {array.dtype}."
            )
        if continuous == "auto":
            continuous = numeric and classes is None and _many(array)
        if continuous:
            zeros = np.zeros(n, np.int64)
            values = np.where(np.isfinite(array), array, np.nan).astype(np.float64)
            return cls((), zeros, values, title)
        names, codes = _classes(array, classes)
        return cls(names, codes, None, title)

    def __len__(self) -> int:
        return len(self.codes)

    def limits(self) -> tuple[float, float]:
        """Least and largest number."""
        there = np.zeros(1) if self.values is None else self.values[np.isfinite(self.values)]
        return (float(there.min()), float(there.max())) if there.size else (0.0, 1.0)


def numeric(*several: Any) -> bool:
    """Whether several lists of labels, taken together, are numbers and not classes."""
    parts = [_array(labels, None) for labels in several if labels is not None]
    if not parts or any(classes is not None or a.dtype.kind not in "fiu" for a, classes in parts):
        return False
    return _many(np.concatenate([array.ravel() for array, _ in parts]))


def short(name: str, most: int = 30) -> str:
    """Return a name on one line, cut where it is longer than so many characters."""
    line = " ".join(name.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def union(*several: Any) -> Any:
    """All classes of several lists of labels, in order; None without, or if one of them is None."""
    if not several or any(labels is None for labels in several):
        return None
    found: dict[Any, None] = {}
    parts = [_array(labels, None) for labels in several]
    for _, classes in parts:
        found.update(dict.fromkeys(() if classes is None else classes))
    if not found:
        arrays = [array.ravel() for array, _ in parts]
        if len({array.dtype.kind in "fiub" for array in arrays}) > 1:
            arrays = [array.astype(object) for array in arrays]  # the text "1" is not the number
        return _distinct(np.concatenate(arrays))
    for array, _ in parts:
        found.update(dict.fromkeys(_distinct(array)))
    return list(found)


def _array(labels: Any, classes: Any) -> tuple[npt.NDArray[Any], Any]:
    """Labels as a plain array, and their classes, where these are given or they have an order."""
    categorical = getattr(labels, "cat", labels)
    if classes is None and hasattr(categorical, "categories") and hasattr(categorical, "codes"):
        classes = list(categorical.categories)
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.dtype == object and array.ndim == 1:  # such as nullable columns
        there = array[~_missing(array)]
        if there.size and all(isinstance(v, Number) and not isinstance(v, bool) for v in there):
            with contextlib.suppress(TypeError, ValueError):
                array = np.where(_missing(array), np.nan, array).astype(np.float64)
        elif any(isinstance(v, datetime.date) for v in there):
            raise _dates("dates")
    if array.dtype.kind in "mM":
        raise _dates(f"dtype {array.dtype}")
    return array, classes


def _dates(received: str) -> ValueError:
    return ValueError(
        "labels should be classes or numbers and no dates; give years, such as "
        "pandas.DatetimeIndex(labels).year, or days since the first as numbers. "
        f"Received: {received}."
    )


def _missing(array: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if array.dtype.kind == "f":
        return np.isnan(array)
    if array.dtype.kind == "U":
        return np.asarray(array == "")
    if array.dtype != object:
        return np.zeros(array.shape, bool)
    return np.array([_is_missing(v) for v in array], bool)


def _is_missing(label: Any) -> bool:
    if label is None or type(label).__name__ == "NAType":  # which says neither yes nor no
        return True
    if isinstance(label, str):
        return label == ""
    return bool(label != label)  # NaN is not equal to itself


def _many(array: npt.NDArray[Any]) -> bool:
    there = array[~_missing(array)]
    whole = array.dtype.kind != "f" or bool((np.rint(there) == there).all())
    return not whole or len(np.unique(there)) > _MOST_CLASSES


def _distinct(array: npt.NDArray[Any]) -> list[Any]:
    there = array[~_missing(array)]
    try:
        found = np.unique(there).tolist()
    except TypeError:  # such as numbers among words, which have no order
        return list(dict.fromkeys(there.tolist()))
    return sorted(found, key=_natural) if all(isinstance(v, str) for v in found) else found


def _natural(name: str) -> tuple[Any, ...]:
    """Order "class 2" before "class 10": digits by their number, what is between as text."""
    parts = re.split(r"([0-9]+)", name)
    digits = [part.lstrip("0") for part in parts[1::2]]
    numbers: list[Any] = [(len(part), part) for part in digits]
    return tuple(x for pair in zip(parts[::2], [*numbers, ()], strict=True) for x in pair), name


def _classes(
    array: npt.NDArray[Any], classes: Any
) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    listed = _distinct(array) if classes is None else np.asarray(classes, object).tolist()
    listed = [label for label in listed if not _is_missing(label)]
    number = {label: i for i, label in enumerate(listed)}
    if array.dtype == object:
        missing = _missing(array)
        rows = zip(array, missing, strict=True)
        codes = np.array([-1 if gone else number.get(v, -1) for v, gone in rows], np.int64)
    else:  # each distinct label once, not each row: rows may be millions
        distinct, inverse = np.unique(array, return_inverse=True)
        known = [number.get(label, -1) for label in distinct.tolist()]
        codes = np.array(known, np.int64)[inverse.reshape(-1)] if known else np.zeros(0, np.int64)
    return tuple(_name(label) for label in listed), codes


def _name(label: Any) -> str:
    whole = isinstance(label, float) and label.is_integer()
    return str(int(label)) if whole else str(label)
