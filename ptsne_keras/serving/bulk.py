"""More rows than one machine holds: a SavedModel on the batches of an engine such as Ray Data."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ptsne_keras.typing import FloatArray

# Rows that an error names, at most.
_NAMED = 3


class Embedder:
    """Embed batches of columns with an exported encoder.

    It is a plain function of a batch, so it fits any engine that gives batches to Python: Ray
    Data's `map_batches`, Dask's `map_partitions`, Spark's `mapInPandas`. Workers get it pickled,
    as a path and names; each process loads the model once, with its first batch.

    Parameters
    ----------
    path : path
        A version's directory, or a model's base path, of which the highest version there now is
        taken. Give a version where another may be added while workers start. All workers should
        reach it: a shared folder, or a URL that TensorFlow opens.
    features : sequence of str, optional
        Names of the columns that make X [N, D], in the order of training: columns of numbers, or
        one of lists of D numbers. By default all but those in `keep`, in the batch's order.
    keep : sequence of str
        Names of columns to carry along: ids, labels.
    signature : str
        Which of the model's signatures to call.

    Raises
    ------
    FileNotFoundError
        If there is no SavedModel at `path`.
    ValueError
        If `features` or `keep` are not lists of names, each once. When called: if a batch lacks
        one, X is not [N, D] of numbers, or it has NaN or infinity; rows are named by what is kept.

    Examples
    --------
    >>> from ptsne_keras import serving
    >>> path = serving.export_saved_model(encoder, "saved_models/digits")
    >>> embed = serving.Embedder(path, features=["pixels"], keep=["id"])
    >>> batch = embed({"id": np.arange(200), "pixels": X})
    >>> list(batch), batch["embedding_1"].shape
    (['id', 'embedding_1', 'embedding_2'], (200,))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        features: Sequence[str] | None = None,
        *,
        keep: Sequence[str] = (),
        signature: str = "serving_default",
    ) -> None:
        for name, columns in (("features", features), ("keep", keep)):
            if isinstance(columns, str) or len(set(columns or ())) < len(columns or ()):
                raise ValueError(
                    f"{name} should be a list of names, each once. Received: {columns!r}."
                )
        self.path = _version(os.path.expanduser(os.fspath(path)))
        self.features = None if features is None else list(features)
        self.keep = list(keep)
        self.signature = signature

    def __call__(self, batch: Any) -> dict[str, Any]:
        """Embed the rows of a batch."""
        names = list(getattr(batch, "column_names", None) or batch.keys())
        features = self.features
        if features is None:
            features = [name for name in names if name not in self.keep]
        missing = [name for name in (*features, *self.keep) if name not in names]
        if missing or not features:
            raise ValueError(
                f"Each batch should have the columns {[*features, *self.keep]}. "
                f"Received: {names}, without {missing or 'features'}."
            )
        kept = {name: _array(batch[name]) for name in self.keep}
        _, call, width, d = _load(self.path, self.signature)
        X = _matrix([_array(batch[name]) for name in features], width, kept)
        # Engines send empty batches to learn the columns; not every network takes one.
        Y = call(features=tf.constant(X))["embedding"].numpy() if len(X) else np.empty((0, d), "f")
        return {**kept, **{f"embedding_{j + 1}": Y[:, j] for j in range(d)}}


def _version(path: str) -> str:
    """Give the directory of the SavedModel, the highest version of a base path."""
    if tf.io.gfile.exists(os.path.join(path, "saved_model.pb")):
        return path
    # Object stores end the names of folders with a slash.
    names = [name.rstrip("/") for name in tf.io.gfile.listdir(path)] if _is_folder(path) else []
    versions = sorted((name for name in names if name.isdecimal()), key=int)
    if not versions:
        raise FileNotFoundError(
            "path should be a SavedModel's directory, or the base path of its versions. "
            f"Received: {path}."
        )
    return os.path.join(path, versions[-1])


def _is_folder(path: str) -> bool:
    return bool(tf.io.gfile.isdir(path))


# A version never changes, so that tasks of one process share it, however often each is unpickled.
@functools.lru_cache(maxsize=4)
def _load(path: str, signature: str) -> tuple[Any, Any, int, int]:
    """Load a model and its signature's function; D and d."""
    model = tf.saved_model.load(path)
    if signature not in model.signatures:
        raise ValueError(
            f"signature should be one of {sorted(model.signatures)}. Received: {signature!r}."
        )
    call = model.signatures[signature]
    inputs, outputs = call.structured_input_signature[1], call.structured_outputs
    spec = inputs.get("features")
    if list(inputs) != ["features"] or "embedding" not in outputs or spec.dtype != tf.float32:
        raise ValueError(
            "signature should be of features, numbers [N, D], to embedding. "
            f"Received: {signature!r} of {sorted(inputs)} to {sorted(outputs)}."
        )
    # The function works for as long as the model is there.
    return model, call, int(spec.shape[1]), int(outputs["embedding"].shape[1])


def _array(column: Any) -> Any:
    return column.to_numpy() if hasattr(column, "to_numpy") else np.asarray(column)


def _matrix(columns: list[Any], width: int, kept: dict[str, Any]) -> FloatArray:
    """Put the columns together as X float32 [N, D], or name the rows that cannot be in it."""
    n = len(columns[0])
    if n == 0:
        return np.empty((0, width), np.float32)
    if len(columns) == 1 and columns[0].dtype == object:  # lists, one a row
        lengths = np.array([np.size(row) for row in columns[0]])
        _refuse(lengths != width, f"Each row should have {width} features", lengths, kept)
        columns = [np.stack([np.asarray(row, np.float32) for row in columns[0]])]
    X = np.column_stack(columns)
    if X.shape[1] != width or X.dtype.kind not in "fiub":
        raise ValueError(
            f"features should be {width} columns of numbers, or one of lists of {width}. "
            f"Received: {X.shape[1]} of dtype {X.dtype}."
        )
    with np.errstate(over="ignore"):
        X = X.astype(np.float32, copy=False)
    bad = ~np.isfinite(X)
    values = X[np.arange(n), bad.argmax(axis=1)]
    _refuse(bad.any(axis=1), "Each row should be finite as float32", values, kept)
    return X


def _refuse(bad: Any, what: str, values: Any, kept: dict[str, Any]) -> None:
    """Raise if a row is bad; rows are named by the columns kept, which may hold the file's path."""
    rows = np.flatnonzero(bad)
    if rows.size:
        named = [
            ", ".join([f"row {i} of the batch", *(f"{k} {kept[k][i]!s}" for k in kept)])
            for i in rows[:_NAMED].tolist()
        ]
        raise ValueError(
            f"{what}. Received: {values[rows[0]]} in {rows.size} rows of {len(bad)}: "
            f"{'; '.join(named)}{'; …' if rows.size > _NAMED else ''}."
        )
