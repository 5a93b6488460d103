"""Files of rows, opened: arrays, Parquet and AnnData behind one interface."""

import collections
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from ptsne_keras.utils.arrays import block_size, dense, row_slices
from ptsne_keras.utils.optional import require

Blocks = Iterator[tuple[Any, dict[str, Any]]]
# Numbers read at a time.
_NUMBERS = 1 << 22
# Names that a message lists, at most.
_LISTED = 3


@dataclass(frozen=True)
class Choice:
    """What is taken from a file of rows, and how a text file is laid out."""

    columns: Sequence[str] | None = None
    drop: Sequence[str] | None = None
    ids: str | None = None
    """A column, or a .npy or .txt file with one entry for each row."""
    labels: str | None = None
    """As `ids`."""
    array: str | None = None
    layer: str | None = None
    obsm: str | None = None
    header: bool | None = None
    """Of text files, like the three below; None where the file should tell."""
    delimiter: str | None = None
    """" " stands for any number of blanks."""
    decimal: str | None = None
    thousands: str | None = None

    def __post_init__(self) -> None:
        """Check that marks are single characters."""
        for name in ("delimiter", "decimal", "thousands"):
            given = getattr(self, name)
            if given is not None and len(given) != 1:
                raise ValueError(f"{name} should be one character. Received: {given!r}.")


class RowFile:
    """Rows in a file."""

    names: list[str]  # of the columns
    named: bool = True  # whether the file has these names
    numeric: Sequence[str]  # names of the columns that hold numbers
    index: Sequence[str] = ()  # those that are R's or pandas' row names, and no features
    ids: str | None = None  # name of what names the rows, unless another is asked for
    count: int | None = None

    def __init__(self, file: Path, names: Sequence[str]) -> None:
        self.file, self.names = file, list(names)
        self.beside: Mapping[str, Any] = {}  # arrays [N] beside the columns
        twice = [name for name, count in collections.Counter(self.names).items() if count > 1]
        if twice:
            raise ValueError(
                f"{file} should have a name of its own for each column. "
                f"Received: {listed(twice)} twice or more."
            )

    def blocks(self, features: Sequence[str], texts: Sequence[str]) -> Blocks:
        """Yield rows [b, D], dense or sparse, NaN where one is missing, and texts as arrays [b]."""
        raise NotImplementedError


class ArrayRows(RowFile):
    """Rows [N, D] of an array, `np.memmap`, HDF5 data set or sparse matrix."""

    def __init__(
        self, file: Path, X: Any, names: Sequence[str] | None = None, beside: Any = None
    ) -> None:
        shape = tuple(getattr(X, "shape", ()))
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"{file} should hold rows [N, D]. Received: shape {shape}.")
        if X.dtype.kind not in "fiub":
            raise ValueError(f"{file} should hold numbers. Received: dtype {X.dtype}.")
        super().__init__(file, [str(j + 1) for j in range(shape[1])] if names is None else names)
        self.X, self.named, self.numeric, self.count = X, names is not None, self.names, shape[0]
        self.beside = beside or {}
        self.ids = "obs_names" if "obs_names" in self.beside else None

    def blocks(self, features: Sequence[str], texts: Sequence[str]) -> Blocks:
        place = {name: j for j, name in enumerate(self.names)}
        chosen = [place[name] for name in features]
        for rows in row_slices(self.X.shape[0], block_size(len(self.names), numbers=_NUMBERS)):
            part = self.X[rows]
            others = {
                name: np.asarray(self.beside[name][rows])
                if name in self.beside
                else dense(part[:, [place[name]]])[:, 0]
                for name in texts
            }
            yield part if list(features) == self.names else part[:, chosen], others


class ParquetRows(RowFile):
    """Rows of a Parquet file."""

    def __init__(self, file: Path) -> None:
        parquet = require("pyarrow.parquet", extra="parquet", purpose=f"Reading {file}")
        self._table = parquet.ParquetFile(file)
        self._types = {field.name: str(field.type) for field in self._table.schema_arrow}
        super().__init__(file, self._table.schema_arrow.names)
        index = (self._table.schema_arrow.pandas_metadata or {}).get("index_columns", [])
        self.index = [name for name in index if name in self.names]
        self.ids = self.index[0] if len(self.index) == 1 else None
        kinds = ("int", "uint", "halffloat", "float", "double", "bool", "decimal")
        self.numeric = [name for name, kind in self._types.items() if kind.startswith(kinds)]
        self.count = self._table.metadata.num_rows

    def blocks(self, features: Sequence[str], texts: Sequence[str]) -> Blocks:
        for name in features:
            if name not in self.numeric:
                raise not_numbers(name, self.file, self._types[name])
        step = block_size(len(features), numbers=_NUMBERS)
        try:
            for batch in self._table.iter_batches(step, columns=list({*features, *texts})):
                X = np.empty((batch.num_rows, len(features)), np.float32)
                with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
                    for j, name in enumerate(features):
                        X[:, j] = batch.column(name).cast("double").to_numpy(zero_copy_only=False)
                yield X, {name: np.asarray(batch.column(name).to_pylist()) for name in texts}
        except OSError as error:
            raise damaged(self.file, error) from error


def archive(file: Path, array: str | None) -> RowFile:
    """Open a sparse matrix, or one array of an .npz file with the others beside it."""
    with np.load(file, allow_pickle=False) as arrays:
        if {"format", "shape", "data"} <= set(arrays.files):
            return ArrayRows(file, scipy.sparse.load_npz(file).tocsr())
        held = {}
        for name in arrays.files:
            with contextlib.suppress(ValueError):  # an array of Python objects
                held[name] = arrays[name]
        chosen = [array] if array else [name for name, values in held.items() if values.ndim == 2]
        if len(chosen) != 1 or chosen[0] not in held:
            raise ValueError(
                f"array should name the one of {file} that has the rows, as numbers. "
                f"Received: {array}; there are {listed(arrays.files)}."
            )
    X = held[chosen[0]]
    beside = {name: values for name, values in held.items() if values.shape == X.shape[:1]}
    return ArrayRows(file, X, beside=beside)


def anndata(file: Path, layer: str | None, obsm: str | None) -> RowFile:
    """Open an AnnData file; dense rows stay on the disk, sparse ones and obsm are read."""
    if layer is not None and obsm is not None:
        raise ValueError(f"layer and obsm should not both be given for {file}.")
    reader = require("anndata", extra="anndata", purpose=f"Reading {file}")
    data = reader.read_h5ad(file, backed="r")
    for name, key, held in (("layer", layer, data.layers), ("obsm", obsm, data.obsm)):
        if key is not None and key not in held:
            raise ValueError(
                f"{name} should be one of those of {file}: "
                f"{', '.join(map(repr, held)) or 'there are none'}. Received: {key!r}."
            )
    if obsm is None and layer is None and "X" not in data.file:
        raise ValueError(f"obsm or layer should name the rows of {file}, which has no X.")
    X = data.X if obsm is layer else data.layers[layer] if layer else np.asarray(data.obsm[obsm])
    X = X.to_memory() if hasattr(X, "to_memory") else X  # cutting sparse rows on the disk is slow
    X = scipy.sparse.csr_matrix(X) if scipy.sparse.issparse(X) else X
    beside = {str(name): np.asarray(data.obs[name]) for name in data.obs.columns}
    beside["obs_names"] = np.asarray(data.obs_names).astype(str)
    return ArrayRows(file, X, None if obsm else data.var_names.astype(str).tolist(), beside)


def damaged(file: Path, error: Exception) -> ValueError:
    """Return the error for a file that is not what its ending says."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "pickle" in reason:  # NumPy advises to load, as Python objects, whatever it does not know
        reason = "the first bytes are not those of a NumPy file"
    return ValueError(
        f"{file} should be a whole {file.suffix} file of numbers; this one cannot be read: fetch "
        f"or save it again. Received: {reason}"
    )


def not_numbers(column: str, file: Path, received: str) -> ValueError:
    """Return the error for a column of features that has something other than numbers."""
    return ValueError(
        f"Column {column!r} of {file} should be numbers; or leave it out by drop=, or name it by "
        f"ids= or labels=. Received: {received}."
    )


def listed(names: Sequence[str]) -> str:
    """Return the first few names, and how many there are."""
    shown = ", ".join(map(repr, names[:_LISTED]))
    return shown + (f", … ({len(names)})" if len(names) > _LISTED else "")
