"""Files of rows: which reader a file wants, and what its columns are called."""

import importlib
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.sparse

from ptsne_keras.io.archives import Archive
from ptsne_keras.io.text_rows import TextRows, not_numbers

# Numbers read at a time.
_NUMBERS = 1 << 22
_TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
ENDINGS = ".npy, .npz, .csv, .tsv, .txt (also .gz), .parquet or .h5ad"
"""What names of files of rows end in."""


class Source(Protocol):
    """Rows in a file."""

    file: Path
    names: list[str]
    named: bool
    apart: Any
    ids: str | None
    count: int | None

    def blocks(
        self, features: Sequence[str], texts: Sequence[str]
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield these columns as rows [b, D], and others as arrays [b]."""


class ArrayRows:
    """Rows [N, D] of an array, `np.memmap`, HDF5 data set or sparse matrix."""

    def __init__(
        self,
        file: Path,
        X: Any,
        names: Sequence[str] | None = None,
        apart: Mapping[str, Any] | None = None,
        ids: str | None = None,
    ) -> None:
        shape = tuple(getattr(X, "shape", ()))
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"{file} should hold rows [N, D]. Received: shape {shape}.")
        if X.dtype.kind not in "fiub":
            raise ValueError(f"{file} should hold numbers. Received: dtype {X.dtype}.")
        self.file, self.X, self.apart, self.ids = file, X, apart or {}, ids
        self.named = names is not None
        self.names = [str(j + 1) for j in range(shape[1])] if names is None else list(names)
        self.count: int | None = int(shape[0])

    def blocks(
        self, features: Sequence[str], texts: Sequence[str]
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield these columns as rows [b, D], dense or sparse, and others as arrays [b]."""
        place = {name: j for j, name in enumerate(self.names)}
        chosen = None if self.all(features) else [place[name] for name in features]
        step = max(1, _NUMBERS // len(self.names))
        for start in range(0, int(self.count or 0), step):
            part = self.X[start : start + step]
            others = {}
            for name in texts:
                if name in self.apart:
                    others[name] = np.asarray(self.apart[name][start : start + step])
                else:
                    column = part[:, [place[name]]]
                    column = column.toarray() if scipy.sparse.issparse(column) else column
                    others[name] = np.asarray(column)[:, 0]
            yield part if chosen is None else part[:, chosen], others

    def all(self, features: Sequence[str]) -> bool:
        """Tell whether these are all the columns, in their order."""
        return list(features) == self.names


class ParquetRows:
    """Rows of a Parquet file, read block by block."""

    named = True

    def __init__(self, file: Path) -> None:
        self.file = file
        self._table = needed("pyarrow.parquet", file, "parquet").ParquetFile(file)
        schema = self._table.schema_arrow
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        index = [name for name in index if name in schema.names]
        self.names, self.apart = list(schema.names), tuple(index)
        self.ids = index[0] if len(index) == 1 else None
        self.count: int | None = int(self._table.metadata.num_rows)

    def blocks(
        self, features: Sequence[str], texts: Sequence[str]
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield these columns as rows [b, D], NaN where missing, and others as arrays [b]."""
        self._check(features)
        step = max(1, _NUMBERS // max(1, len(features)))
        wanted = list(dict.fromkeys([*features, *texts]))
        batches = self._table.iter_batches(step, columns=wanted)
        while (batch := self._next(batches)) is not None:
            columns = {name: batch.column(name) for name in wanted}
            X = np.empty((batch.num_rows, len(features)), np.float32)
            for j, name in enumerate(features):
                X[:, j] = columns[name].to_numpy(zero_copy_only=False)
            texts_of = {name: np.asarray(columns[name].to_pylist()) for name in texts}
            yield X, texts_of

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, None)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.file} should be a whole Parquet file; this one is damaged: fetch or save "
                f"it again. Received: {_line(error)}"
            ) from error

    def _check(self, features: Sequence[str]) -> None:
        for name in features:
            dtype = self._table.schema_arrow.field(name).type
            try:
                kind = np.dtype(dtype.to_pandas_dtype()).kind
            except (NotImplementedError, TypeError):  # lists and the like
                kind = "O"
            if kind not in "fiub":
                raise not_numbers(name, self.file, str(dtype))


def opened(
    path: Path,
    *,
    array: str | None = None,
    layer: str | None = None,
    obsm: str | None = None,
    asked: Collection[str] = (),
) -> Source:
    """Open a file of rows by its ending; nothing but what tells its shape is read."""
    file = path.expanduser()
    if not file.exists():
        raise FileNotFoundError(f"Rows should be in a file that exists. Received: {file}.")
    suffix = file.suffix.lower()
    suffix = "".join(file.suffixes[-2:]).lower() if suffix == ".gz" else suffix
    if file.is_dir() or suffix not in (".npy", ".npz", ".parquet", ".h5ad", *_TEXT):
        raise ValueError(f"Rows should be in a file that ends in {ENDINGS}. Received: {file}.")
    for name, value, where in (
        ("--array", array, ".npz"),
        ("--layer", layer, ".h5ad"),
        ("--obsm", obsm, ".h5ad"),
    ):
        if value is not None and suffix != where:
            raise ValueError(f"{name} is for {where} files. Received: {file}.")
    try:
        if suffix == ".npy":
            return ArrayRows(file, np.load(file, mmap_mode="r", allow_pickle=False))
        if suffix == ".npz":
            return _archive(file, array)
        if suffix == ".parquet":
            return ParquetRows(file)
        if suffix == ".h5ad":
            return _anndata(file, layer, obsm)
        return TextRows(file, asked)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, ValueError) and str(file) in str(error):
            raise
        raise ValueError(
            f"{file} should be a whole {suffix} file of numbers; this one cannot be read: fetch or "
            f"save it again. Received: {_line(error)}"
        ) from error


def _archive(file: Path, array: str | None) -> Source:
    """Rows of an .npz file: a sparse matrix, or one of its arrays, with the others beside them."""
    arrays = Archive(file)
    if {"format", "shape", "data"} <= set(arrays):
        return ArrayRows(file, scipy.sparse.load_npz(file).tocsr())
    chosen = [
        name for name, shape in arrays.shapes.items() if shape is not None and len(shape) == 2
    ]
    chosen = [array] if array is not None else chosen
    if len(chosen) != 1 or chosen[0] not in arrays:
        raise ValueError(
            f"--array should name the one of {file} that has the rows. "
            f"Received: {array}; there are {', '.join(map(repr, arrays))}."
        )
    X = arrays[chosen[0]]
    # What holds objects is kept, so that whoever asks for it hears what is wrong.
    beside = [name for name, shape in arrays.shapes.items() if shape in (X.shape[:1], None)]
    return ArrayRows(file, X, apart=Archive(file, beside))


def _anndata(file: Path, layer: str | None, obsm: str | None) -> Source:
    """Rows of an AnnData file, left in it but for sparse ones, layers and obsm."""
    if layer is not None and obsm is not None:
        raise ValueError(f"--layer and --obsm should not both be given for {file}.")
    anndata = needed("anndata", file, "anndata")
    data = anndata.read_h5ad(file, backed="r")
    for option, key, held in (("--layer", layer, data.layers), ("--obsm", obsm, data.obsm)):
        if key is not None and key not in held:
            raise ValueError(
                f"{option} should be one of those of {file}: "
                f"{', '.join(map(repr, held)) or 'there are none'}. Received: {key!r}."
            )
    names: list[str] | None = list(map(str, data.var_names))
    if obsm is not None:
        X, names = np.asarray(data.obsm[obsm]), None
    else:
        X = data.X if layer is None else data.layers[layer]
    if hasattr(X, "to_memory"):  # sparse rows on the disk are slow to cut
        X = X.to_memory()
    if scipy.sparse.issparse(X):
        X = scipy.sparse.csr_matrix(X)
    apart = {str(name): np.asarray(data.obs[name]) for name in data.obs.columns}
    apart["obs_names"] = np.asarray(data.obs_names).astype(str)
    return ArrayRows(file, X, names, apart, ids="obs_names")


def needed(module: str, file: Path, extra: str) -> Any:
    """Import what reads a format, or raise with the extra that has it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).split(".")[0]
        raise ModuleNotFoundError(
            f"{file.suffix} files need {package}: pip install 'ptsne_keras[{extra}]'.",
            name=package,
        ) from error


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
