"""Rows that an estimator is given: scikit-learn's checks, with errors of one line.

They name cause and mend. The words that scikit-learn's own estimator checks look for are in them.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.utils.validation import validate_data

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays

_REMEMBERED = ("n_features_in_", "feature_names_in_")


def check_rows(X: Any, *, name: str = "X", start: int = 0, dtype: Any = None) -> FloatArray:
    """Return finite float rows [N, D]; float64 stays float64 unless a dtype is given."""
    if scipy.sparse.issparse(X):
        raise ValueError(
            f"{name} should be dense here: give X.toarray(); data.from_array takes sparse rows. "
            f"Received: a {type(X).__name__} of shape {X.shape}."
        )
    X = np.asarray(X)
    if X.dtype == object:  # such as a frame of mixed or nullable columns
        with contextlib.suppress(TypeError, ValueError):
            X = X.astype(np.float64)
    if X.dtype.kind not in "fiub":
        raise ValueError(f"{name} should be numeric. Received: dtype {X.dtype}.")
    check_shape(X, name=name)
    double = X.dtype.kind == "f" and X.dtype.itemsize == 8  # of either byte order
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is reported
        X = X.astype(dtype or (np.float64 if double else np.float32), copy=False)
    bad = np.flatnonzero(~np.isfinite(X).all(axis=1))
    if bad.size:
        limit = "" if X.dtype == np.float64 else ", or with values beyond float32 (3.4e38)"
        raise ValueError(
            f"{name} should be finite; drop or impute the rows with NaN or infinity{limit}. "
            f"Received: {bad.size} such rows, the first at index {start + bad[0]}."
        )
    return X


def check_shape(X: Any, *, name: str = "X") -> None:
    """Raise a ValueError unless the shape of `X` is [N, D] with N ≥ 1 and D ≥ 1."""
    if len(X.shape) != 2 or 0 in X.shape:
        raise ValueError(f"{name} should be a 2-D array [N, D] of rows. Received: shape {X.shape}.")


def estimator_rows(estimator: Any, X: Any, *, reset: bool, least: int = 1) -> Any:
    """Return X as float32 [N, D], dense or CSR, or raise an error of one line."""
    X = _as_table(X)
    _check_shape(X, least)
    if not reset and not hasattr(X, "columns"):
        check_width(estimator, X.shape[1])
    before = {name: vars(estimator)[name] for name in _REMEMBERED if name in vars(estimator)}
    try:
        found = _converted(estimator, X, reset)
        _check_finite(found)
        if reset and _all_same(found):
            raise ValueError(
                "X should have rows that differ, else there is nothing to map; look whether the "
                f"right columns were read. Received: {found.shape[0]} rows, all equal in float32."
            )
    except (TypeError, ValueError):
        for name in _REMEMBERED:
            vars(estimator).pop(name, None)
        vars(estimator).update(before)
        raise
    return found


def check_width(estimator: Any, features: int) -> None:
    """Raise unless rows have as many columns as at `fit`."""
    if features != estimator.n_features_in_:
        raise ValueError(
            f"X has {features} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input: give the columns of `fit`, in their "
            "order."
        )


def count(X: Any) -> int | None:
    """Count the rows of whatever X is; None where it has none."""
    if hasattr(X, "shape"):
        return int(X.shape[0]) if X.shape else None
    return len(X) if hasattr(X, "__len__") else None


def _as_table(X: Any) -> Any:
    """Make an array of lists; leave what has a shape as it is."""
    if scipy.sparse.issparse(X) or hasattr(X, "columns"):
        return X
    if isinstance(X, Sequence) and not isinstance(X, str | bytes):
        lengths = {len(row) if hasattr(row, "__len__") else 0 for row in X}
        if len(lengths) > 1:
            raise ValueError(
                "X should be a 2-D array [N, D]: rows of one length; fill in what they lack. "
                f"Received: rows of {min(lengths)} to {max(lengths)} values."
            )
    try:
        return np.asarray(X) if not hasattr(X, "dtype") else X
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"X should be a 2-D array [N, D] of numbers. Received: {_line(error)}"
        ) from None


def _check_shape(X: Any, least: int) -> None:
    if len(X.shape) != 2:
        raise ValueError(
            "X should be a 2-D array [N, D] of rows. Reshape your data: X.reshape(1, -1) for one "
            f"row, X.reshape(-1, 1) for one column. Received: shape {tuple(X.shape)}."
        )
    n, features = X.shape
    if features == 0:
        raise ValueError(
            "X should have columns; look whether the right ones were read. Received: 0 feature(s) "
            f"(shape=({n}, 0)) while a minimum of 1 is required."
        )
    if n < least:
        raise ValueError(
            f"X should have at least {least} rows; give more. Received: n_samples={n}."
        )


def _converted(estimator: Any, X: Any, reset: bool) -> Any:
    _check_kinds(X)
    try:
        # Values are looked at later: infinity may come by the conversion.
        with np.errstate(over="ignore"):
            return validate_data(
                estimator,
                X,
                dtype=np.float32,
                accept_sparse="csr",
                reset=reset,
                ensure_all_finite=False,
            )
    except (TypeError, ValueError) as error:
        if "feature names" in str(error):
            raise  # its words, a line for each name, are what scikit-learn promises
        raise type(error)(_cause(X) or f"X should be numeric rows. {_line(error)}") from None


def _check_kinds(X: Any) -> None:
    """Refuse what NumPy would make numbers of in silence: times, and words of digits."""
    named = getattr(X, "columns", None)
    dtypes = [X.dtype] if named is None else list(X.dtypes)
    for number, dtype in enumerate(dtypes):
        kind = getattr(dtype, "kind", "O")
        where = "" if named is None else f" in column {named[number]!r}"
        if kind == "c":
            raise ValueError(
                "X should be real: Complex data not supported; give X.real and X.imag as columns. "
                f"Received: dtype {dtype}{where}."
            )
        if kind not in "fiubO":
            raise ValueError(
                "X should be numeric; encode what is not, or X.astype(float) if these are numbers. "
                f"Received: dtype {dtype}{where}."
            )


def _cause(X: Any) -> str | None:
    """Find the first value that is no number."""
    named = getattr(X, "columns", None)
    if scipy.sparse.issparse(X):
        return None
    for i, row in enumerate(np.asarray(X, dtype=object)):
        for j, value in enumerate(row):
            try:
                float(value)
            except (TypeError, ValueError) as error:
                if value is not None:
                    column = j if named is None else repr(named[j])
                    return (
                        "X should be numeric; encode words as numbers or leave their columns out. "
                        f"Received: {value!r:.40} in row {i}, column {column}; {_line(error)}."
                    )
    return None


def _check_finite(X: Any) -> None:
    values = X.data if scipy.sparse.issparse(X) else X
    # One pass and no memory where all is well; a sum that overflows is looked into.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.sum(values)):
            return
    fine = np.isfinite(values)
    if scipy.sparse.issparse(X):
        bad = np.unique(np.searchsorted(X.indptr, np.flatnonzero(~fine), side="right") - 1)
    else:
        bad = np.flatnonzero(~fine.all(axis=1))
    if bad.size:
        kind = "NaN" if np.isnan(values).any() else "infinity or a value above 3.4e38"
        raise ValueError(
            "X should be finite; drop the rows with NaN or infinity, or impute them "
            f"(sklearn.impute). Received: {kind} in {bad.size} of {X.shape[0]} rows, the first at "
            f"index {bad[0]}."
        )


def _all_same(X: Any) -> bool:
    """Tell whether all rows are equal; reads no further than the first block that differs."""
    first = arrays.dense(X[:1])
    return not any((block != first).any() for block in arrays.row_blocks(X, numbers=1 << 20))


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
