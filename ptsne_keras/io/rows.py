"""Rows of any file: columns chosen by name, with ids and labels beside them."""

import array
import functools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from ptsne_keras.io import _sources, tables
from ptsne_keras.io._sources import ArrayRows, Choice, ParquetRows, RowFile, listed
from ptsne_keras.utils import files
from ptsne_keras.utils import labels as labels_of
from ptsne_keras.utils.arrays import dense

__all__ = ["Choice", "ParquetRows", "Reader", "Rows", "open_source"]

# Bytes of rows above which they are kept in a temporary file, and not in memory.
_HELD = 1 << 30
ENDINGS = ".npy, .npz, .csv, .tsv, .txt (also .gz), .parquet (or a folder of them) or .h5ad"


class Rows(NamedTuple):
    """All rows of a file, or a block of them."""

    X: Any
    """[N, D], dense or sparse; a `np.memmap` where the file can be mapped."""
    ids: Any
    """[N] text, or None."""
    labels: Any
    """[N], None where one is missing; text in blocks, numbers where a whole file has no others."""


class Reader:
    """A file of rows, opened, and the columns that are taken from it."""

    def __init__(
        self,
        path: str | os.PathLike[str] | RowFile,
        choice: Choice | None = None,
        *,
        like: Sequence[str] | None = None,
    ) -> None:
        choice = choice or Choice()
        self.source = path if isinstance(path, RowFile) else open_source(path, choice)
        self.count = self.source.count
        self._ids = self.source.ids if choice.ids is None else choice.ids
        self._labels = choice.labels
        self._beside = {
            name: self._from_file(argument, name)
            for argument, name in (("ids", self._ids), ("labels", self._labels))
            if name is not None and name not in {*self.source.names, *self.source.beside}
        }
        self.ignored: list[str] = []
        self.features = self._chosen(choice, like)
        self.names = self.features if self.source.named else None

    def blocks(self) -> Iterator[Rows]:
        """Yield all rows in order, some at a time, as finite float32."""
        asked = [n for n in (self._ids, self._labels) if n is not None and n not in self._beside]
        start = 0
        for X, others in self.source.blocks(self.features, list(dict.fromkeys(asked))):
            X = X.tocsr() if scipy.sparse.issparse(X) else np.asarray(X)
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
                rows = X.astype(np.float32, copy=False)
            self._check_finite(X, rows, start)
            end = start + X.shape[0]
            others |= {name: values[start:end] for name, values in self._beside.items()}
            ids = None if self._ids is None else self._text(others[self._ids], start)
            labels = None if self._labels is None else labels_of.as_labels(others[self._labels])
            yield Rows(rows, ids, labels)
            start = end
        if start == 0:
            raise ValueError(f"{self.source.file} should have rows. Received: none.")
        for name, values in self._beside.items():
            if len(values) != start:
                raise ValueError(
                    f"{name} should have one entry for each of the {start} rows of "
                    f"{self.source.file}. Received: {len(values)}."
                )

    def read(self) -> Rows:
        """Return all rows in one array; those of a .npy file stay mapped, as do very many."""
        source = self.source
        _sources.check_expanded(source.file, 4 * (self.count or 0) * len(self.features))
        whole: Any = None
        if isinstance(source, ArrayRows) and self.features == source.names:
            held = isinstance(source.X, np.ndarray) or scipy.sparse.issparse(source.X)
            whole = source.X if held else None  # and not on the disk, as those of .h5ad
        ids, labels, sparse = [], [], []
        # Either grows in place, so that nothing is held twice.
        large = 4 * (self.count or 0) * len(self.features) > _HELD
        buffer: Any = tempfile.TemporaryFile() if large else array.array("f")  # noqa: SIM115
        add = functools.partial(_append, buffer) if large else buffer.frombytes
        for block in self.blocks():
            ids.append(block.ids)
            labels.append(block.labels)
            if whole is None and scipy.sparse.issparse(block.X):
                sparse.append(block.X)
            elif whole is None:
                add(np.ascontiguousarray(block.X).data.cast("B"))
        if sparse:
            whole = scipy.sparse.vstack(sparse, format="csr")
        elif whole is None:
            whole = np.memmap(buffer, np.float32, "r+") if large else np.frombuffer(buffer, "f")
            whole = whole.reshape(-1, len(self.features))
        return Rows(
            whole,
            None if self._ids is None else np.concatenate(ids),
            None if self._labels is None else labels_of.as_numbers(np.concatenate(labels)),
        )

    def _chosen(self, choice: Choice, like: Sequence[str] | None) -> list[str]:
        """Return the names of the features, or raise where they cannot be chosen so."""
        source = self.source
        columns, drop = (source.expanded(names or ()) for names in (choice.columns, choice.drop))
        for argument, asked in (("columns", columns), ("drop", drop)):
            self._check_there(f"{argument} should be among the columns of {source.file}:", asked)
        twice = _sources.repeated(columns)
        if twice:
            raise ValueError(
                f"columns should name each column once. Received: {listed(twice)} twice or more."
            )
        other = {self._ids, self._labels} - set(source.beside) | {*drop, *source.index}
        features = columns or [name for name in source.names if name not in other]
        if like is not None and source.named:
            if columns and set(columns) != set(like):
                raise ValueError(
                    "columns should be left out, or be the columns that the model was fitted "
                    f"with: {listed(like)}. Received: {listed(columns)}."
                )
            rule = f"{source.file} should have the columns that the model was fitted with; it has"
            self._check_there(rule, like, "none called ")
            self.ignored = [name for name in features if name not in set(like)]
            features = list(like)
        if not features:
            raise ValueError(f"{source.file} should have columns of numbers. Received: none.")
        return features

    def _check_there(self, rule: str, asked: Sequence[str], received: str = "") -> None:
        there = set(self.source.names)
        missing = [name for name in asked if name not in there]
        if missing:
            raise ValueError(
                f"{rule} {listed(self.source.names)}{self._hint()}. "
                f"Received: {received}{listed(missing)}."
            )

    def _hint(self) -> str:
        """Return how a text file gets names of columns, if it was read without."""
        text = isinstance(self.source, tables.TextTable) and not self.source.named
        return "; header=True if its first line has them" if text else ""

    def _from_file(self, argument: str, name: str) -> Any:
        """Return ids or labels from a file of their own."""
        file = Path(name).expanduser()
        if file.suffix not in (".npy", ".txt") or not file.is_file():
            have = [*self.source.names, *self.source.beside]
            raise ValueError(
                f"{argument} should be one of what {self.source.file} has, or a .npy or .txt file "
                f"with one entry for each row: {listed(have)}{self._hint()}. Received: {name!r}."
            )
        with _sources.reading(file):
            if file.suffix == ".txt":
                with tables.opened(file) as stream:
                    return np.asarray(stream.read().splitlines())
            values = np.load(file, allow_pickle=False)
        if values.ndim != 1:
            raise ValueError(f"{argument} should be an array [N]. Received: shape {values.shape}.")
        return values

    def _text(self, ids: Any, start: int) -> Any:
        if ids.dtype.kind == "O" and (missing := labels_of.is_missing(ids)).any():
            raise ValueError(
                f"ids should name every row of {self.source.file}. "
                f"Received: none in row {start + int(missing.argmax()) + 1}."
            )
        return labels_of.as_text(ids)

    def _check_finite(self, X: Any, rows: Any, start: int) -> None:
        """Raise for the first number that is missing, or too large for float32."""
        if np.isfinite(rows.data if scipy.sparse.issparse(rows) else rows).all():
            return
        row = next(i for i in range(rows.shape[0]) if not np.isfinite(dense(rows[i : i + 1])).all())
        column = int(np.isfinite(dense(rows[row : row + 1])).argmin())
        value = float(X[row, column])
        raise ValueError(
            f"{self.source.file} should have a finite number in every cell; drop or impute the "
            f"rows without. Received: {'nothing or NaN' if np.isnan(value) else f'{value:g}'} in "
            f"row {start + row + 1}, column {self.features[column]!r}."
        )


def _append(file: Any, data: Any) -> None:
    """Write to a temporary file, or say where it is if the disk is full."""
    with files.explaining_temporary():
        file.write(data)
        file.flush()


def open_source(path: str | os.PathLike[str], choice: Choice) -> RowFile:
    """Open a file of rows by its ending, and read no more than tells its shape."""
    file = Path(path).expanduser()
    if not file.exists():
        raise FileNotFoundError(f"Rows should be in a file that exists. Received: {file}.")
    if file.is_dir() and choice.array is choice.layer is choice.obsm is None:
        with _sources.reading(file):
            return _sources.ParquetFolder(file)
    suffix = file.suffix.lower()
    suffix = "".join(file.suffixes[-2:]).lower() if suffix == ".gz" else suffix
    if file.is_dir() or suffix not in (".npy", ".npz", ".parquet", ".h5ad", *tables.ENDINGS):
        raise ValueError(f"The file should end in {ENDINGS}. Received: {file}.")
    for name, where in (("array", ".npz"), ("layer", ".h5ad"), ("obsm", ".h5ad")):
        if getattr(choice, name) is not None and suffix != where:
            raise ValueError(f"{name} should be left out for other than {where} files: {file}.")
    with _sources.reading(file):
        if suffix == ".npy":
            return ArrayRows(file, np.load(file, mmap_mode="r", allow_pickle=False))
        if suffix == ".npz":
            return _sources.archive(file, choice.array)
        if suffix == ".parquet":
            return ParquetRows(file)
        if suffix == ".h5ad":
            return _sources.anndata(file, choice.layer, choice.obsm)
        return tables.TextTable(file, choice)
