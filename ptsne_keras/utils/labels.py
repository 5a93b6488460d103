"""Labels as files have them: what is missing, and what are numbers."""

import re
from typing import Any

import numpy as np

# No label: of pandas, R, SQL and Python. "Na" and "none" may be classes.
_MISSING = ("", "NA", "N/A", "<NA>", "NaN", "nan", "NaT", "NULL", "null", "None")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
# From there float64 does not hold all whole numbers.
_WHOLE = 2**53


def text(values: Any) -> Any:
    """Names or labels as text, whatever they are."""
    values = np.asarray(values)
    return np.char.decode(values) if values.dtype.kind == "S" else values.astype(str)


def found(values: Any) -> Any:
    """Labels as text; an array of objects with None if one is missing."""
    labels = text(values)
    missing = np.isin(labels, _MISSING)
    if not missing.any():
        return labels
    labels = labels.astype(object)
    labels[missing] = None
    return labels


def numbers(labels: Any) -> Any:
    """Labels that are text as numbers, if all that are there are: 10 then comes after 9."""
    if labels is None or labels.dtype.kind not in "UO":
        return labels
    there = np.array([label is not None for label in labels], bool)
    texts, place = np.unique(labels[there].astype(str), return_inverse=True)
    if not texts.size or not all(map(_NUMBER.fullmatch, texts.tolist())):
        return labels
    values = texts.astype(np.float64)
    if len(np.unique(values)) < len(values) or (np.abs(values) >= _WHOLE).any():
        return labels
    if (values == np.rint(values)).all():
        values = values.astype(np.int64)
    if there.all():
        return values[place]
    whole = np.full(labels.shape, None, object)
    whole[there] = values[place].tolist()
    return whole
