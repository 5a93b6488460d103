"""Bulk embedding: an exported encoder on the batches of an engine such as Ray Data."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import files
from ptsne_keras.utils.optional import require

# The most rows that an error names.
_NAMED = 3
# Rows embedded at a time from a file.
_BLOCK = 4096


class Embedder:
    """Embed batches of columns with an exported encoder.

    An embedder suits any engine that passes batches to a Python function: Ray Data's `map_batches`,
    Dask's `map_partitions`, Spark's `mapInPandas`. It is pickled as a path and names; each process
    loads the model once, with its first batch.

    Parameters
    ----------
    path : path-like
        A version's directory, or a model's base path, whose highest version is used: a folder or
        URL that TensorFlow opens on all workers.
    features : sequence of str, default=None
        Names of columns of numbers, in the order of the training data, or of one column of lists
        of D numbers. By default all columns but those in `keep`, in the order of the batch.
    keep : sequence of str, default=()
        Names of columns to pass through, such as ids or labels.
    signature : str, default="serving_default"
        Signature of the model to call.

    Raises
    ------
    FileNotFoundError
        If there is no SavedModel at `path`.
    ValueError
        If `features` or `keep` is not a list of distinct names. When called: if a batch lacks a
        column or does not contain finite rows; the error identifies rows by the columns in `keep`.

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
                message = f"{name} should be a list of distinct names. Received: {columns!r}."
                raise ValueError(message)
        self.path = _version(os.path.expanduser(os.fspath(path)))
        self.features = None if features is None else list(features)
        self.keep = list(keep)
        self.signature = signature

    def __call__(self, batch: Any) -> dict[str, Any]:
        """Return the columns to keep, `embedding_1` … `embedding_d`, and `novelty` if asked for."""
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
        _, call, width, empty = _load(self.path, self.signature)
        X = _matrix([_array(batch[name]) for name in features], width, kept)
        # Engines send empty batches to learn the columns; not every network accepts them.
        found = call(features=tf.constant(X)) if len(X) else empty
        Y = np.asarray(found["embedding"])
        kept |= {f"embedding_{j + 1}": Y[:, j] for j in range(Y.shape[1])}
        return kept | {n: np.asarray(found[n]) for n in ("novelty",) if n in found}


def embed_parquet(
    rows: str | os.PathLike[str],
    out: str | os.PathLike[str],
    embedder: Embedder,
    *,
    workers: int = 1,
    num_cpus: float = 0.5,
    num_gpus: float = 0.0,
) -> list[Path]:
    """Embed a folder of Parquet files on Ray, each into a file of its own.

    A file appears whole or not at all, so every row is written exactly once, in the order of its
    file. A worker that dies is replaced. Run again, the function embeds the files that are missing.
    Both folders have to be the same for all machines of the cluster.

    Parameters
    ----------
    rows : path-like
        A folder of .parquet files, also in folders below it. Names that begin with . or _ are left
        out, as by other engines.
    out : path-like
        A folder, made if need be: its files have the names of those in `rows`.
    embedder : Embedder
        The columns to take and to keep, and the model.
    workers : int, default=1
        The number of processes, each of which loads the model.
    num_cpus, num_gpus : float
        What Ray reserves for each worker, by default half a CPU.

    Returns
    -------
    list of Path
        The files that were written, without those that were there.

    Raises
    ------
    ImportError
        If Ray is not installed.
    FileNotFoundError
        If there are no .parquet files in `rows`.
    ValueError
        If `out` is in `rows`, so that it would be embedded next time.
    ray.exceptions.RayTaskError
        If a file cannot be embedded; those that were written stay.

    Examples
    --------
    >>> embed = serving.Embedder(path, keep=["id"], signature="embed_with_novelty")
    >>> serving.embed_parquet("rows", "embedded", embed, workers=2)  # doctest: +SKIP
    """
    ray_data = require("ray.data", extra="bulk", purpose="embed_parquet")
    rows, out = Path(rows).expanduser().resolve(), Path(out).expanduser().resolve()
    names = [str(file.relative_to(rows)) for file in files.below(rows, ".parquet")]
    if not names:
        raise FileNotFoundError(f"rows should be a folder of .parquet files. Received: {rows}.")
    if out.is_relative_to(rows):
        raise ValueError(f"out should be outside rows, {rows}. Received: {out}.")
    missing = [name for name in names if not (out / name).exists()]
    if missing:
        options = {"concurrency": min(workers, len(missing)), "num_cpus": num_cpus}
        given = {"rows": rows, "out": out, "embedder": embedder}
        ray_data.from_items(missing, override_num_blocks=len(missing)).map(
            _FileEmbedder, fn_constructor_kwargs=given, num_gpus=num_gpus, **options
        ).materialize()
    return [out / name for name in missing]


class _FileEmbedder:
    """Embeds files of one folder into another; a worker of Ray."""

    def __init__(self, rows: Path, out: Path, embedder: Embedder) -> None:
        self.rows, self.out, self.embedder = rows, out, embedder

    def __call__(self, item: dict[str, str]) -> dict[str, str]:
        """Embed one file, unless a worker that died afterwards has done so."""
        import pyarrow.parquet

        target = self.out / item["item"]
        if target.exists():
            return item
        file = self.rows / item["item"]
        try:
            self._write(pyarrow.parquet.ParquetFile(file), target)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        return item

    def _write(self, source: Any, target: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        with source, files.replacing(target, make_parents=True) as beside:
            first = self._embedded(source.schema_arrow.empty_table())
            with pyarrow.parquet.ParquetWriter(beside, first.schema) as writer:
                for batch in source.iter_batches(_BLOCK):
                    writer.write_table(self._embedded(pyarrow.Table.from_batches([batch])))

    def _embedded(self, rows: Any) -> Any:
        """Return a table embedded, in which what is kept is as it was."""
        found = self.embedder(rows)
        return type(rows).from_pydict(found | {name: rows[name] for name in self.embedder.keep})


def _version(path: str) -> str:
    """Return the directory of the SavedModel, the highest version of a base path."""
    if tf.io.gfile.exists(os.path.join(path, "saved_model.pb")):
        return path
    # Object stores end the names of folders with a slash.
    listed = tf.io.gfile.listdir(path) if tf.io.gfile.isdir(path) else []
    versions = sorted(filter(str.isdecimal, (name.rstrip("/") for name in listed)), key=int)
    if not versions:
        raise FileNotFoundError(
            "path should be a SavedModel's directory, or the base path of its versions. "
            f"Received: {path}."
        )
    return os.path.join(path, versions[-1])


# Versions never change, so the tasks of a process share them, however often they are unpickled.
@functools.lru_cache(maxsize=4)
def _load(path: str, signature: str) -> tuple[Any, Any, int, dict[str, Any]]:
    """Return a model, its signature's function, D, and what it would answer to no rows."""
    model = tf.saved_model.load(path)
    if signature not in (known := sorted(model.signatures)):
        raise ValueError(f"signature should be one of {known}. Received: {signature!r}.")
    call = model.signatures[signature]
    inputs, outputs = call.structured_input_signature[1], call.structured_outputs
    spec = inputs.get("features")
    if list(inputs) != ["features"] or "embedding" not in outputs or spec.dtype != tf.float32:
        raise ValueError(
            "signature should map features, numbers [N, D], to embedding. "
            f"Received: {signature!r} of {sorted(inputs)} to {sorted(outputs)}."
        )
    # The function works only as long as the model exists.
    empty = {name: np.empty((0, *o.shape[1:]), np.float32) for name, o in outputs.items()}
    return model, call, int(spec.shape[1]), empty


def _array(column: Any) -> Any:
    return column.to_numpy() if hasattr(column, "to_numpy") else np.asarray(column)


def _matrix(columns: list[Any], width: int, kept: dict[str, Any]) -> FloatArray:
    """Combine the columns to X float32 [N, D], or raise an error that names the rows at fault."""
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
    """Raise if a row is bad; the kept columns, such as a path, identify it."""
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
