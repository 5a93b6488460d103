"""Checks of rows and numbers. Errors name cause and fix in one line.

They contain the words that scikit-learn's estimator checks look for.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from decimal import Decimal
from numbers import Integral, Number, Real
from typing import Any

import numpy as np
import scipy.sparse
import sklearn
from sklearn.utils.sparsefuncs import mean_variance_axis
from sklearn.utils.validation import validate_data

from ptsne_keras.utils import arrays
from ptsne_keras.utils.optional import require

_REMEMBERED = ("n_features_in_", "feature_names_in_")
# Rows that tell whether float32 holds the detail of columns, and the part of a deviation that
# rounding may take.
_LOOKED_AT, _ROUNDED = 10_000, 0.01
# Values of rows of one length that differ by rounding alone.
_EQUAL = 1e-6


def check_integer(value: Any, name: str, least: int = 1) -> int:
    """Return the value as an int, or raise a ValueError if it is not an integer ≥ `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} should be an integer of at least {least}. Received: {value!r}.")
    return int(value)


def check_not_negative(value: Any, name: str) -> float:
    """Return the value as a float, or raise a ValueError if it is not a finite number ≥ 0."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) < math.inf:
        raise ValueError(f"{name} should be a finite number of at least 0. Received: {value!r}.")
    return float(value)


def check_rows(
    X: Any, *, name: str = "X", start: int = 0, dtype: Any = None, sparse: bool = False
) -> Any:
    """Return finite rows [N, D]: float64 stays float64 unless a dtype is given, else float32.

    Sparse rows are returned as CSR if `sparse`, else refused. `start` is the index of the first
    row, for the error.
    """
    if scipy.sparse.issparse(X) and not sparse:
        raise ValueError(
            f"{name} should be dense here: give X.toarray(); data.from_array takes sparse rows. "
            f"Received: a {type(X).__name__} of shape {X.shape}."
        )
    if hasattr(X, "columns"):  # before they become one array, which may turn words into numbers
        _check_kinds(X, name)
    X = X.tocsr() if scipy.sparse.issparse(X) else np.asarray(unmasked(X, name))
    check_shape(X, name=name)
    _check_kinds(X, name)
    if X.dtype == object:  # such as a frame of mixed or nullable columns
        try:
            X = X.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{name} should be numeric. Received: {_line(error)}.") from None
    double = X.dtype.kind == "f" and X.dtype.itemsize == 8  # of either byte order
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is reported
        X = X.astype(dtype or (np.float64 if double else np.float32), copy=False)
    _check_finite(X, name, start)
    return X


def unmasked(values: Any, name: str) -> Any:
    """Return values as they are, or raise a ValueError if NumPy would take fill values for them."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        masked = int(np.ma.getmaskarray(values).sum())
        raise ValueError(
            f"{name} should have no masked cells; drop their rows, or fill them by "
            f"{name}.filled(…). Received: {masked} masked of {values.size}."
        )
    return values


def check_shape(X: Any, *, name: str = "X", least: int = 1) -> None:
    """Raise a ValueError unless X is [N, D] with N ≥ `least` and D ≥ 1, and has no masked cells."""
    unmasked(X, name)
    if len(X.shape) != 2:
        raise ValueError(
            f"{name} should be a 2-D array [N, D] of rows. Reshape your data: X.reshape(1, -1) for "
            f"one row, X.reshape(-1, 1) for one column. Received: shape {tuple(X.shape)}."
        )
    n, features = X.shape
    if features == 0:
        raise ValueError(
            f"{name} should have columns; check that the right ones were read. Received: "
            f"0 feature(s) (shape=({n}, 0)) while a minimum of 1 is required."
        )
    if n < least:
        rows = "row" if least == 1 else "rows"
        raise ValueError(
            f"{name} should have at least {least} {rows}. Received: n_samples={n}, "
            f"shape {tuple(X.shape)}."
        )


def check_pair(
    X: Any, Y: Any, *, names: tuple[str, str] = ("X", "Y"), least: int = 1
) -> tuple[Any, Any]:
    """Return finite rows and their map, dense or CSR, with the same number of rows."""
    X, Y = (check_rows(A, name=name, sparse=True) for A, name in zip((X, Y), names, strict=True))
    check_shape(X, name=names[0], least=least)
    if X.shape[0] != Y.shape[0]:
        raise ValueError(
            f"{names[0]} and {names[1]} should have the same number of rows. "
            f"Received: {X.shape[0]} and {Y.shape[0]}."
        )
    return X, Y


def check_test_pair(X: Any, Y: Any, X_test: Any, Y_test: Any) -> tuple[Any, Any]:
    """Return finite test rows and their map, as wide as X and Y, or None for both."""
    check_together(X_test=X_test, Y_test=Y_test)
    if X_test is None:
        return None, None
    X_test, Y_test = check_pair(X_test, Y_test, names=("X_test", "Y_test"))
    check_same_width(X_test, X, names=("X_test", "X"))
    check_same_width(Y_test, Y, names=("Y_test", "Y"))
    return X_test, Y_test


def check_together(**arguments: Any) -> None:
    """Raise a ValueError if some arguments are given and others are None."""
    given = [name for name, value in arguments.items() if value is not None]
    if 0 < len(given) < len(arguments):
        raise ValueError(
            f"{' and '.join(arguments)} should both be given, or neither. "
            f"Received: {given[0]} alone."
        )


def check_same_width(A: Any, B: Any, *, names: tuple[str, str]) -> None:
    """Raise a ValueError unless two arrays [N, D] have the same number of columns."""
    if A.shape[1] != B.shape[1]:
        raise ValueError(
            f"{names[0]} should have as many columns as {names[1]}, {B.shape[1]}. "
            f"Received: {A.shape[1]}."
        )


def estimator_rows(estimator: Any, X: Any, *, reset: bool, least: int = 1) -> Any:
    """Return X as finite float32 rows [N, D], dense or CSR, checked by scikit-learn's rules."""
    X = _as_table(X)
    check_shape(X, least=least)
    if not reset and not hasattr(X, "columns"):
        check_width(estimator, X.shape[1])
    before = {name: vars(estimator)[name] for name in _REMEMBERED if name in vars(estimator)}
    try:
        found = _converted(estimator, X, reset)
        _check_finite(found, "X")
        if reset:
            warn_of_rounding(X)
            check_differ(found)
    except (TypeError, ValueError):
        for name in _REMEMBERED:
            vars(estimator).pop(name, None)
        vars(estimator).update(before)
        raise
    return found


def check_squares(X: Any, metric: str) -> None:
    """Raise if an encoder that scales rows [N, D] to one length could not square them."""
    values = X.data if scipy.sparse.issparse(X) else X
    if metric == "euclidean" or not values.size:
        return
    most = math.sqrt(np.finfo(np.float32).max / X.shape[1])
    largest = max(float(values.max()), -float(values.min()))
    if largest > most:
        raise ValueError(
            f"X should have numbers up to {most:.1e} with metric={metric!r}; divide all by one "
            f"number, which changes no map. Received: {largest:.1e}."
        )


def warn_of_rounding(X: Any, name: str = "X") -> None:
    """Warn of columns whose distance from 0 costs them their detail in float32."""
    if getattr(X, "dtype", None) in (np.float32, np.float16):
        return
    step = slice(None, None, max(1, X.shape[0] // _LOOKED_AT))
    if scipy.sparse.issparse(X):
        looked_at = X.tocsr()[step].astype(np.float64)
        deviation = np.sqrt(mean_variance_axis(looked_at, axis=0)[1])
        farthest = abs(looked_at).max(axis=0).toarray().ravel()
    else:
        parts = X.iloc[step] if hasattr(X, "iloc") else np.asarray(X)[step]
        looked_at = np.asarray(parts, dtype=np.float64)
        deviation, farthest = looked_at.std(axis=0), np.abs(looked_at).max(axis=0)
    rounding = farthest * 2.0**-24
    typical = np.maximum(deviation, np.sqrt(np.mean(np.square(deviation))))
    lost = np.flatnonzero((rounding > _ROUNDED * typical) & (deviation > 0))
    if lost.size:
        column = lost[np.argmax(rounding[lost] / typical[lost])]
        names: Any = getattr(X, "columns", range(len(deviation)))
        warnings.warn(
            f"{name} should lie nearer to 0, because it is kept in float32: subtract one number "
            "from such a column before fit and transform, such as its mean. Received: column "
            f"{names[column]!r} of deviation {deviation[column]:.3g}, rounded to multiples of "
            f"{2 * rounding[column]:.3g}, of {lost.size} such columns.",
            stacklevel=5,
        )


def check_differ(X: Any, *, metric: str = "euclidean") -> None:
    """Raise a ValueError if all rows, dense or CSR, are equal, as far as the metric can tell."""
    first, nearly = arrays.dense(X[:1]), 0.0 if metric == "euclidean" else _EQUAL
    blocks = arrays.row_blocks(X, numbers=1 << 20)  # stops at the first that differs
    if not any((np.abs(block - first) > nearly).any() for block in blocks):
        how = "in float32" if metric == "euclidean" else f"by metric={metric!r}"
        raise ValueError(
            "X should have rows that differ, or there is nothing to map; check that the right "
            f"columns were read. Received: {X.shape[0]} rows, all equal {how}."
        )


def check_width(estimator: Any, features: int) -> None:
    """Raise a ValueError unless rows have as many columns as at `fit`."""
    if features != estimator.n_features_in_:
        raise ValueError(
            f"X has {features} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input: give the columns of `fit`, in their "
            "order."
        )


def check_trained(variables: Sequence[Any]) -> None:
    """Raise a ValueError if weights to train are in half precision, which loses small updates."""
    for variable in variables:
        check_trainable(variable.dtype, repr(variable.path))


def check_trainable(dtype: str, name: str) -> None:
    """Raise a ValueError if the dtype of weights to train is of half precision."""
    if dtype in ("float16", "bfloat16"):
        raise ValueError(
            'Weights should be kept in float32 or float64 for training: set "float32" or '
            '"mixed_float16" by keras.config.set_dtype_policy before the model is built. '
            f"Received: {name} in {dtype}."
        )


def count(X: Any) -> int | None:
    """Return the number of rows of X, or None if X has no length."""
    if hasattr(X, "shape"):
        return int(X.shape[0]) if X.shape else None
    return len(X) if hasattr(X, "__len__") else None


def _as_table(X: Any) -> Any:
    """Return lists as an array, and anything that has a shape unchanged."""
    unmasked(X, "X")
    if hasattr(X, "collect") and not hasattr(X, "shape"):
        raise ValueError(
            f"X should be a table in memory: give X.collect(). Received: a {type(X).__name__}."
        )
    if scipy.sparse.issparse(X) or hasattr(X, "columns"):
        return X
    if isinstance(X, Sequence) and not isinstance(X, str | bytes):
        lengths = {len(row) if hasattr(row, "__len__") else 0 for row in X}
        if len(lengths) > 1:
            raise ValueError(
                "X should be a 2-D array [N, D]: rows of one length; fill in the missing values. "
                f"Received: rows of {min(lengths)} to {max(lengths)} values."
            )
    try:
        return np.asarray(X) if not hasattr(X, "dtype") else X
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"X should be a 2-D array [N, D] of numbers. Received: {_line(error)}"
        ) from None


def _converted(estimator: Any, X: Any, reset: bool) -> Any:
    _check_kinds(X, "X")
    try:
        # Values are checked later: the conversion may produce infinity.
        with np.errstate(over="ignore"):
            return validate_data(
                estimator,
                X,
                dtype=np.float32,
                accept_sparse="csr",
                reset=reset,
                ensure_all_finite=False,
            )
    except (TypeError, ValueError, OverflowError) as error:
        if "feature names" in str(error):
            raise  # scikit-learn promises these words, a line for each name
        raise ValueError(f"X should be numeric rows. Received: {_line(error)}.") from None


def _check_kinds(X: Any, name: str) -> None:
    """Refuse what NumPy would silently convert to numbers: dates, and text made of digits."""
    if hasattr(X, "__arrow_c_stream__") and not hasattr(X, "iloc"):  # polars, Arrow
        return _check_arrow(X, name)
    named: Any = getattr(X, "columns", None)
    dtypes = [X.dtype] if named is None else list(X.dtypes)
    for number, dtype in enumerate(dtypes):
        kind = getattr(dtype, "kind", "O")
        where = "" if named is None else f" in column {named[number]!r}"
        if kind == "c":
            raise ValueError(
                f"{name} should be real: Complex data not supported; give X.real and X.imag as "
                f"columns. Received: dtype {dtype}{where}."
            )
        if kind not in "fiubO":
            raise ValueError(
                f"{name} should be numeric; encode what is not, or X.astype(float) if these are "
                f"numbers. Received: dtype {dtype}{where}."
            )
        if kind == "O" and named is None:
            _check_objects(np.asarray(X), name, range(X.shape[1]))
        elif kind == "O":
            values = np.asarray(X.iloc[:, number], dtype=object)
            _check_objects(values[:, None], name, [repr(named[number])])
    return None


def _check_arrow(X: Any, name: str) -> None:
    """Refuse columns of a polars or Arrow table that are not numbers."""
    pyarrow = require("pyarrow", extra="parquet", purpose="A polars or Arrow table")
    is_a = pyarrow.types
    checks = (is_a.is_integer, is_a.is_floating, is_a.is_boolean, is_a.is_decimal, is_a.is_null)
    for field in pyarrow.table(X).schema:
        if not any(check(field.type) for check in checks):
            raise ValueError(
                f"{name} should be numeric; encode words as numbers or leave their columns out. "
                f"Received: dtype {field.type} in column {field.name!r}."
            )


def _check_objects(values: Any, name: str, columns: Sequence[Any]) -> None:
    """Refuse Python objects [N, D] that are neither numbers nor None."""
    numbers = (Number, Decimal, np.bool_, type(None))
    words = tuple(t for t in set(map(type, values.flat)) if not issubclass(t, numbers))
    if words:
        place = next(i for i, value in enumerate(values.flat) if isinstance(value, words))
        row, column = divmod(place, values.shape[1])
        value = values[row, column]
        found = f"Received: {value!r:.40} in row {row}, column {columns[column]}."
        if isinstance(value, Iterable) and not isinstance(value, str | bytes):
            # scikit-learn promises a TypeError in these words.
            raise TypeError(
                f"{name} should be numeric; an argument must be no string or list, but "
                f"a number. {found}"
            )
        raise ValueError(
            f"{name} should be numeric; encode words as numbers or leave their columns out. {found}"
        )


def _check_finite(X: Any, name: str, start: int = 0) -> None:
    values = X.data if scipy.sparse.issparse(X) else X
    # The estimators check their rows once, and assume so from there on.
    if sklearn.get_config()["assume_finite"] or _is_finite(values):
        return
    fine = np.isfinite(values)
    if scipy.sparse.issparse(X):
        bad = np.unique(np.searchsorted(X.indptr, np.flatnonzero(~fine), side="right") - 1)
    else:
        bad = np.flatnonzero(~fine.all(axis=1))
    if bad.size:
        limit = "" if X.dtype == np.float64 else " or a value above 3.4e38"
        kind = "NaN" if np.isnan(values).any() else f"infinity{limit}"
        rows = f"the first {start + X.shape[0]}" if start else X.shape[0]
        raise ValueError(
            f"{name} should be finite; drop the rows with NaN or infinity, or impute them "
            f"(sklearn.impute). Received: {kind} in {bad.size} of {rows} rows, the first at "
            f"index {start + bad[0]}."
        )


def _is_finite(values: Any) -> bool:
    """Return whether the sum is finite: one pass, and no extra memory."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.sum(values)))


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    lines = lines[:2] if lines[0].rstrip(".").endswith(":") else lines[:1]  # the second names it
    return " ".join(line.strip().rstrip(".") for line in lines)
