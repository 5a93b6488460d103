"""Files of rows, opened: arrays, Parquet, AnnData and text behind one interface."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.sparse

from ptsne_keras.io import tables
from ptsne_keras.utils.optional import require

# Numbers read at a time.
_NUMBERS = 1 << 22
ENDINGS = ".npy, .npz, .csv, .tsv, .txt (also .gz), .parquet or .h5ad"
Blocks = Iterator[tuple[Any, dict[str, Any]]]


class Source(Protocol):
    """Rows in a file."""

    file: Path
    names: list[str]
    """Of the columns."""
    named: bool
    """Whether the file has these names."""
    numeric: Any
    """Names of the columns that hold numbers."""
    index: Any
    """Names of the columns that are R's or pandas' row names, and no features."""
    ids: str | None
    """Name of what names the rows, unless another is asked for."""
    beside: Mapping[str, Any]
    """Arrays [N] beside the columns."""
    count: int | None

    def blocks(self, features: Sequence[str], texts: Sequence[str]) -> Blocks:
        """Yield these columns as rows [b, D], and others as arrays [b]."""


class ArrayRows:
    """Rows [N, D] of an array, `np.memmap`, HDF5 data set or sparse matrix."""

    index = ()

    def __init__(
        self,
        file: Path,
        X: Any,
        names: Sequence[str] | None = None,
        beside: Mapping[str, Any] | None = None,
        ids: str | None = None,
    ) -> None:
        shape = tuple(getattr(X, "shape", ()))
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"{file} should hold rows [N, D]. Received: shape {shape}.")
        if X.dtype.kind not in "fiub":
            raise ValueError(f"{file} should hold numbers. Received: dtype {X.dtype}.")
        self.file, self.X, self.beside, self.ids = file, X, beside or {}, ids
        self.named = names is not None
        self.names = [str(j + 1) for j in range(shape[1])] if names is None else list(names)
        tables.check_unique(self.names, file)
        self.numeric = self.names
        self.count: int | None = int(shape[0])

    def blocks(self, features: Sequence[str], texts: Sequence[str]) -> Blocks:
        """Yield these columns as rows [b, D], dense or sparse, and others as arrays [b]."""
        place = {name: j for j, name in enumerate(self.names)}
        chosen = None if list(features) == self.names else [place[name] for name in features]
        step = max(1, _NUMBERS // len(self.names))
        for start in range(0, int(self.count or 0), step):
            part = self.X[start : start + step]
            others = {}
            for name in texts:
                if name in self.beside:
                    others[name] = np.asarray(self.beside[name][start : start + step])
                else:
                    column = part[:, [place[name]]]
                    column = column.toarray() if scipy.sparse.issparse(column) else column
                    others[name] = np.asarray(column)[:, 0]
            yield part if chosen is None else part[:, chosen], others


class ParquetRows:
    """Rows of a Parquet file."""

    named = True

    def __init__(self, file: Path) -> None:
        self.file = file
        parquet = require("pyarrow.parquet", extra="parquet", purpose=f"Reading {file}")
        self._table = parquet.ParquetFile(file)
        schema = self._table.schema_arrow
        tables.check_unique(schema.names, file)
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        self.index = tuple(name for name in index if name in schema.names)
        self.ids = self.index[0] if len(self.index) == 1 else None
        self.names = list(schema.names)
        self.numeric = [field.name for field in schema if _is_number(field.type)]
        self.beside: Mapping[str, Any] = {}
        self.count: int | None = int(self._table.metadata.num_rows)

    def blocks(self, features: Sequence[str], texts: Sequence[str]) -> Blocks:
        """Yield these columns as rows [b, D], NaN where one is missing, and others as arrays."""
        for name in features:
            if name not in self.numeric:
                dtype = self._table.schema_arrow.field(name).type
                raise tables.not_numbers(name, self.file, str(dtype))
        step = max(1, _NUMBERS // max(1, len(features)))
        wanted = list(dict.fromkeys([*features, *texts]))
        try:
            for batch in self._table.iter_batches(step, columns=wanted):
                X = np.empty((batch.num_rows, len(features)), np.float32)
                with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
                    for j, name in enumerate(features):
                        X[:, j] = batch.column(name).cast("double").to_numpy(zero_copy_only=False)
                yield X, {name: np.asarray(batch.column(name).to_pylist()) for name in texts}
        except OSError as error:
            raise damaged(self.file, error) from error


def _is_number(dtype: Any) -> bool:
    """Return whether a type of pyarrow is one of numbers or truth values."""
    types = require("pyarrow.types", extra="parquet", purpose="Reading Parquet")
    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    return any(kind(dtype) for kind in kinds)


def open_source(
    path: Path,
    *,
    array: str | None = None,
    layer: str | None = None,
    obsm: str | None = None,
    layout: tables.Layout | None = None,
) -> Source:
    """Open a file of rows by its ending, and read no more than tells its shape."""
    file = path.expanduser()
    if not file.exists():
        raise FileNotFoundError(f"Rows should be in a file that exists. Received: {file}.")
    suffix = file.suffix.lower()
    suffix = "".join(file.suffixes[-2:]).lower() if suffix == ".gz" else suffix
    if file.is_dir() or suffix not in (".npy", ".npz", ".parquet", ".h5ad", *tables.ENDINGS):
        raise ValueError(f"The file should end in {ENDINGS}. Received: {file}.")
    for name, value, where in (
        ("array", array, ".npz"),
        ("layer", layer, ".h5ad"),
        ("obsm", obsm, ".h5ad"),
    ):
        if value is not None and suffix != where:
            raise ValueError(f"{name} should be left out for other than {where} files: {file}.")
    try:
        if suffix == ".npy":
            return ArrayRows(file, np.load(file, mmap_mode="r", allow_pickle=False))
        if suffix == ".npz":
            return _archive(file, array)
        if suffix == ".parquet":
            return ParquetRows(file)
        if suffix == ".h5ad":
            return _anndata(file, layer, obsm)
        return tables.TextTable(file, layout or tables.Layout())
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, ValueError) and str(file) in str(error):
            raise
        raise damaged(file, error) from error


def damaged(file: Path, error: Exception) -> ValueError:
    """Return the error for a file that is not what its ending says."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ValueError(
        f"{file} should be a whole {file.suffix} file of numbers; this one cannot be read: fetch "
        f"or save it again. Received: {reason}"
    )


def _archive(file: Path, array: str | None) -> Source:
    """Open a sparse matrix, or one array of an .npz file with the others beside it."""
    with np.load(file, allow_pickle=False) as arrays:
        if {"format", "shape", "data"} <= set(arrays.files):
            return ArrayRows(file, scipy.sparse.load_npz(file).tocsr())
        shapes = {name: _shape(arrays, name) for name in arrays.files}
        chosen = [name for name, shape in shapes.items() if shape and len(shape) == 2]
        chosen = chosen if array is None else [array]
        if len(chosen) != 1 or shapes.get(chosen[0]) is None:
            raise ValueError(
                f"array should name the one of {file} that has the rows, as numbers. "
                f"Received: {array}; there are {', '.join(map(repr, shapes))}."
            )
        X = arrays[chosen[0]]
        beside = {name: arrays[name] for name, shape in shapes.items() if shape == X.shape[:1]}
    return ArrayRows(file, X, beside=beside)


def _shape(arrays: Any, name: str) -> tuple[int, ...] | None:
    """Return the shape of an array of an .npz file, or None if it holds Python objects."""
    form = np.lib.format
    with arrays.zip.open(f"{name}.npy") as stream:
        first = form.read_magic(stream) == (1, 0)
        header = form.read_array_header_1_0 if first else form.read_array_header_2_0
        shape, _, dtype = header(stream)
    return None if dtype.hasobject else tuple(shape)


def _anndata(file: Path, layer: str | None, obsm: str | None) -> Source:
    """Open an AnnData file; dense rows stay on the disk, sparse ones and obsm are read."""
    if layer is not None and obsm is not None:
        raise ValueError(f"layer and obsm should not both be given for {file}.")
    anndata = require("anndata", extra="anndata", purpose=f"Reading {file}")
    data = anndata.read_h5ad(file, backed="r")
    for name, key, held in (("layer", layer, data.layers), ("obsm", obsm, data.obsm)):
        if key is not None and key not in held:
            raise ValueError(
                f"{name} should be one of those of {file}: "
                f"{', '.join(map(repr, held)) or 'there are none'}. Received: {key!r}."
            )
    names = None if obsm is not None else [str(name) for name in data.var_names]
    if obsm is not None:
        X = np.asarray(data.obsm[obsm])
    elif layer is not None:
        X = data.layers[layer]
    elif "X" not in data.file:
        raise ValueError(f"obsm or layer should name the rows of {file}, which has no X.")
    else:
        X = data.X
    if hasattr(X, "to_memory"):  # cutting sparse rows on the disk is slow
        X = X.to_memory()
    if scipy.sparse.issparse(X):
        X = scipy.sparse.csr_matrix(X)
    beside = {str(name): np.asarray(data.obs[name]) for name in data.obs.columns}
    beside["obs_names"] = np.asarray(data.obs_names).astype(str)
    return ArrayRows(file, X, names, beside, ids="obs_names")
