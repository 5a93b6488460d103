"""Files of rows, opened: arrays, Parquet and AnnData behind one interface."""

import collections
import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from ptsne_keras.io import _hdf5
from ptsne_keras.utils import files
from ptsne_keras.utils.arrays import block_size, dense, row_slices
from ptsne_keras.utils.optional import require

Blocks = Iterator[tuple[Any, dict[str, Any]]]
# Numbers read at a time.
_NUMBERS = 1 << 22
# Names that a message lists, and characters of a library's words, at most.
_LISTED, _WORDS = 3, 200
# What a file should be, by what a library raises about it; else whole.
_RULES: tuple[tuple[type[Exception], str], ...] = (
    (UnicodeError, "text in UTF-8: save it as that"),
    (csv.Error, "a table with shorter cells; look for a quote that is not closed"),
    (MemoryError, "a file that fits into memory; it may be damaged, or have too many rows"),
)


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
    lists: Mapping[str, Sequence[str]] = {}  # the names that stand for a column of lists
    ids: str | None = None  # name of what names the rows, unless another is asked for
    count: int | None = None

    def __init__(self, file: Path, names: Sequence[str]) -> None:
        self.file, self.names = file, list(names)
        self.beside: Mapping[str, Any] = {}  # arrays [N] beside the columns
        if twice := repeated(self.names):
            raise ValueError(
                f"{file} should have a name of its own for each column. "
                f"Received: {listed(twice)} twice or more."
            )

    def blocks(self, features: Sequence[str], texts: Sequence[str]) -> Blocks:
        """Yield rows [b, D], dense or sparse, NaN where one is missing, and texts as arrays [b]."""
        with reading(self.file):
            yield from self._blocks(features, texts)

    def expanded(self, names: Sequence[str]) -> list[str]:
        """Return names with those of its parts in place of a column of lists."""
        return [part for name in names for part in self.lists.get(name, [name])]

    def _blocks(self, features: Sequence[str], texts: Sequence[str]) -> Blocks:
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

    def _blocks(self, features: Sequence[str], texts: Sequence[str]) -> Blocks:
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


# Types in Arrow's words.
_NUMERIC = ("int", "uint", "halffloat", "float", "double", "bool", "decimal")


class ParquetRows(RowFile):
    """Rows of a Parquet file; each number in a column of lists is a column of its own."""

    def __init__(self, file: Path) -> None:
        parquet = require("pyarrow.parquet", extra="parquet", purpose=f"Reading {file}")
        with reading(file):
            self._table = parquet.ParquetFile(file)
            schema = self._table.schema_arrow
            index = (schema.pandas_metadata or {}).get("index_columns", [])
            self._types = {field.name: str(field.type) for field in schema}
            widths = {field.name: self._width(field) for field in schema}
        self.lists = {n: [f"{n}[{j}]" for j in range(k)] for n, k in widths.items() if k}
        super().__init__(file, self.expanded(schema.names))
        self.index = [name for name in index if name in self.names]
        self.ids = self.index[0] if len(self.index) == 1 else None
        numeric = [name for name, kind in self._types.items() if kind.startswith(_NUMERIC)]
        self.numeric = self.expanded([*numeric, *self.lists])
        self.count = self._table.metadata.num_rows
        self.groups = self._table.num_row_groups

    def group(self, features: Sequence[str], number: int) -> Any:
        """Return the rows [b, D] of a row group."""
        with reading(self.file):
            parts = [X for X, _ in self._blocks(features, (), [number])]
            return np.concatenate(parts) if parts else np.empty((0, len(features)), np.float32)

    def _width(self, field: Any) -> int | None:
        """Return how many numbers the first row has in a column of lists, if it is one."""
        kind = field.type
        if not (hasattr(kind, "value_type") and str(kind.value_type).startswith(_NUMERIC)):
            return None
        if hasattr(kind, "list_size"):
            return int(kind.list_size)
        first = next(self._table.iter_batches(1, columns=[field.name]), {field.name: [None]})
        values = first[field.name][0]
        return len(values) if "list" in str(kind) and values else None

    def _blocks(
        self, features: Sequence[str], texts: Sequence[str], groups: Sequence[int] | None = None
    ) -> Blocks:
        known = set(self.numeric)
        for name in features:
            if name not in known:
                raise not_numbers(name, self.file, self._types[name])
        place = {name: j for j, name in enumerate(features)}
        parts = {name for names in self.lists.values() for name in names}
        taken = {name: [(j, 0)] for name, j in place.items() if name not in parts}
        for column, names in self.lists.items():
            if found := [(place[name], k) for k, name in enumerate(names) if name in place]:
                taken[column] = found
        step = block_size(len(features), numbers=_NUMBERS)
        columns, start = list({*taken, *texts}), 0
        for batch in self._table.iter_batches(step, row_groups=groups, columns=columns):
            X = np.empty((batch.num_rows, len(features)), np.float32)
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
                for column, where in taken.items():
                    into, of = zip(*where, strict=True)
                    X[:, into] = self._numbers(batch, column, start)[:, of]
            yield X, {name: np.asarray(batch.column(name).to_pylist()) for name in texts}
            start += batch.num_rows

    def _numbers(self, batch: Any, column: str, start: int) -> Any:
        """Return the numbers [b, k] of a column, of lists or not."""
        values = batch.column(column)
        width = len(self.lists.get(column, "1"))
        if column in self.lists:
            compute = require("pyarrow.compute", extra="parquet", purpose=f"Reading {self.file}")
            lengths = compute.list_value_length(values).fill_null(0).to_numpy()
            if (lengths != width).any():
                wrong = int((lengths != width).argmax())
                raise ValueError(
                    f"Column {column!r} of {self.file} should have {width} numbers in every row. "
                    f"Received: {lengths[wrong]} in row {start + wrong + 1}."
                )
            values = values.flatten()
        return values.cast("double").to_numpy(zero_copy_only=False).reshape(-1, width)


class ParquetFolder(RowFile):
    """Rows of the Parquet files of a folder, and of those below it, in the order of their names."""

    _files: list[Path]

    def __init__(self, folder: Path) -> None:
        found, self._files, count = files.below(folder, ".parquet"), [], 0
        if not found:
            raise ValueError(
                f"{folder} should be a file, or a folder of .parquet files. Received: none in it."
            )
        first = ParquetRows(found[0])
        for file in found:  # each is closed again, since there may be thousands
            part = ParquetRows(file)
            if not part.count:  # it does not tell how long its lists are
                continue
            first = part if not count else first
            if (part.names, part.numeric) != (first.names, first.numeric):
                raise ValueError(
                    f"{file} should have the columns of {first.file}, of the same kinds. "
                    f"Received: {listed(part.names)}."
                )
            self._files.append(file)
            count += part.count
        super().__init__(folder, first.names)
        self.lists, self.index, self.ids = first.lists, first.index, first.ids
        self.numeric, self.count = first.numeric, count

    def _blocks(self, features: Sequence[str], texts: Sequence[str]) -> Blocks:
        for file in self._files:
            yield from ParquetRows(file).blocks(features, texts)


def archive(file: Path, array: str | None) -> RowFile:
    """Open a sparse matrix, or one array of an .npz file with the others beside it."""
    with np.load(file, allow_pickle=False) as arrays:
        check_expanded(file, sum(member.file_size for member in arrays.zip.infolist()))
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
    _hdf5.check(file)
    sizes: list[int] = []
    with require("h5py", extra="anndata", purpose=f"Reading {file}").File(file) as held:
        held.visititems(lambda _, item: sizes.append(getattr(item, "nbytes", 0)))
    check_expanded(file, sum(sizes))
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


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Explain, in one line that names the file, what any library raises while it reads it."""
    try:
        yield
    except (ModuleNotFoundError, FileNotFoundError):
        raise
    except PermissionError as error:
        raise files.explained(error, file, "read") from error
    except Exception as error:  # libraries raise all kinds about damaged files
        if isinstance(error, ValueError) and "Received: " in str(error):  # as all of ours say
            raise
        kind = "gzip" if file.suffix.lower() == ".gz" else file.suffix
        whole = f"a whole {kind} file of numbers; this one cannot be read: fetch or save it again"
        rule = next((rule for kinds, rule in _RULES if isinstance(error, kinds)), whole)
        if kind == "gzip" and rule is not whole:
            rule += "; it may also be damaged"
        raise ValueError(f"{file} should be {rule}. Received: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return a library's own words in one line, without what nobody should do."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "pickle" in reason:  # NumPy advises to load, as Python objects, whatever it does not know
        return "the first bytes are not those of a NumPy file"
    return "".join(c if c.isprintable() else "?" for c in reason[:_WORDS])


def check_expanded(file: Path, size: int, allowed: float | None = None) -> None:
    """Raise if a compressed file expands to more bytes than it may."""
    own = sum(f.stat().st_size for f in file.rglob("*")) if file.is_dir() else file.stat().st_size
    allowed = files.expanded_limit(own) if allowed is None else allowed
    if size > allowed:
        raise ValueError(
            f"{file} should expand to at most {allowed / 1e6:,.0f} MB; set {files.LIMIT} to more "
            f"if you trust it. Received: {own / 1e6:,.1f} MB, and "
            f"{size / 1e6:,.0f} MB expanded."
        )


def not_numbers(column: str, file: Path, received: str) -> ValueError:
    """Return the error for a column of features that has something other than numbers."""
    return ValueError(
        f"Column {column!r} of {file} should be numbers; or leave it out by drop=, or name it by "
        f"ids= or labels=. Received: {received}."
    )


def repeated(names: Sequence[str]) -> list[str]:
    """Return the names that are there twice or more."""
    return [name for name, count in collections.Counter(names).items() if count > 1]


def listed(names: Sequence[str]) -> str:
    """Return the first few names, and how many there are."""
    shown = ", ".join(map(repr, names[:_LISTED]))
    return shown + (f", … ({len(names)})" if len(names) > _LISTED else "")
