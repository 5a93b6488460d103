"""Labels of rows: which are missing, and which are numbers."""

import re
from typing import Any

import numpy as np
import numpy.typing as npt

MISSING = ("", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NAN", "NaT", "NULL", "null", "None")
"""Cells of text that stand for no value in pandas, R, SQL, Excel and Python.

"Na" and "none" are not among them, since they may be classes.
"""

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
# Not every whole number from here on is a float64.
_WHOLE = 2**53


def is_missing(values: Any) -> npt.NDArray[np.bool_]:
    """Return whether each value is missing: None, NaN, NaT, pandas.NA, or text of `MISSING`."""
    values = np.asarray(values)
    if values.dtype.kind in "fc":
        return np.isnan(values)
    if values.dtype.kind in "mM":
        return np.isnat(values)
    if values.dtype.kind in "SU":
        return np.isin(np.char.strip(as_text(values)), MISSING)
    if values.dtype.kind != "O":
        return np.zeros(values.shape, bool)
    import pandas  # not at the top, since `ptsne --help` should answer at once

    texts = [isinstance(v, str) and v.strip() in MISSING for v in values.ravel()]
    return pandas.isna(values) | np.reshape(np.array(texts, bool), values.shape)


def class_codes(y: Any, n: int) -> npt.NDArray[np.int64]:
    """Return the class numbers [n] of rows; -1 where y is -1 or missing."""
    values = np.asarray(y, dtype=object if y is None else None)
    if values.shape != (n,):
        raise ValueError(
            f"y should have a class for each of the {n} rows of X with label_weight above 0. "
            f"Received: {'None' if y is None else f'shape {values.shape}'}."
        )
    if values.dtype.kind == "f" and not (np.rint(values) == values)[np.isfinite(values)].all():
        raise ValueError(
            f"y should be classes and not measurements. Received: {values.dtype} such as "
            f"{values[np.isfinite(values) & (np.rint(values) != values)][0]}."
        )
    known = ~is_missing(values)
    known[known] = [str(v) not in ("-1", "-1.0") for v in values[known]]
    codes = np.full(n, -1)
    codes[known] = np.unique(values[known].astype(str), return_inverse=True)[1]
    return codes


def as_text(values: Any) -> Any:
    """Return names or labels as an array of text."""
    values = np.asarray(values)
    return np.char.decode(values) if values.dtype.kind == "S" else values.astype(str)


def as_labels(values: Any) -> Any:
    """Return labels as text; if any is missing, as an array of objects with None in its place."""
    missing = is_missing(values)
    labels = as_text(values)
    if missing.any():
        labels = labels.astype(object)
        labels[missing] = None
    return labels


def as_numbers(labels: Any) -> Any:
    """Return labels as numbers if all that are present are numbers, and no two become one."""
    if labels is None or labels.dtype.kind not in "UO":
        return labels
    present = ~is_missing(labels)
    texts, place = np.unique(labels[present].astype(str), return_inverse=True)
    if not texts.size or not all(map(_NUMBER.fullmatch, texts.tolist())):
        return labels
    values = texts.astype(np.float64)
    if len(np.unique(values)) < len(values) or (np.abs(values) >= _WHOLE).any():
        return labels
    if (values == np.rint(values)).all():
        values = values.astype(np.int64)
    if present.all():
        return values[place]
    whole = np.full(labels.shape, None, object)
    whole[present] = values[place].tolist()
    return whole
