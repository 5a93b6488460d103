"""Rows of any file: columns chosen by name, with ids and labels beside them."""

import array
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from ptsne_keras.io._sources import ArrayRows, Source, open_source
from ptsne_keras.io.tables import Layout, TextTable
from ptsne_keras.utils import labels as labels_of

# Names that a message lists, at most.
_LISTED = 3


@dataclass(frozen=True)
class Choice:
    """Which columns of a file are features, and which name and label the rows."""

    columns: Sequence[str] | None = None
    drop: Sequence[str] = ()
    ids: str | None = None
    """A column, or a .npy or .txt file with one entry for each row."""
    labels: str | None = None
    """As `ids`."""
    array: str | None = None
    layer: str | None = None
    obsm: str | None = None
    layout: Layout = field(default_factory=Layout)


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
        path: str | os.PathLike[str],
        choice: Choice | None = None,
        *,
        like: Sequence[str] | None = None,
    ) -> None:
        choice = choice or Choice()
        self.source: Source = open_source(
            Path(path),
            array=choice.array,
            layer=choice.layer,
            obsm=choice.obsm,
            layout=choice.layout,
        )
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
        """Return all rows, read straight into one array; those of a .npy file stay mapped."""
        source = self.source
        whole: Any = None
        if isinstance(source, ArrayRows) and self.features == source.names:
            held = isinstance(source.X, np.ndarray) or scipy.sparse.issparse(source.X)
            whole = source.X if held else None  # and not on the disk, as those of .h5ad
        ids: list[Any] = []
        labels: list[Any] = []
        sparse: list[Any] = []
        buffer = array.array("f")  # grows in place, so that nothing is held twice
        for block in self.blocks():
            ids.append(block.ids)
            labels.append(block.labels)
            if whole is None and scipy.sparse.issparse(block.X):
                sparse.append(block.X)
            elif whole is None:
                buffer.frombytes(np.ascontiguousarray(block.X).data.cast("B"))
        if whole is not None:
            X = whole
        elif sparse:
            X = scipy.sparse.vstack(sparse, format="csr")
        else:
            X = np.frombuffer(buffer, np.float32).reshape(-1, len(self.features))
        return Rows(X, _joined(ids), labels_of.as_numbers(_joined(labels)))

    def _chosen(self, choice: Choice, like: Sequence[str] | None) -> list[str]:
        """Return the names of the features, or raise where they cannot be chosen so."""
        source, names = self.source, self.source.names
        for argument, asked in (("columns", choice.columns or ()), ("drop", choice.drop)):
            self._check_there(f"{argument} should be among the columns of {source.file}:", asked)
        columns = list(choice.columns or ())
        if len(set(columns)) < len(columns):
            twice = [name for name in dict.fromkeys(columns) if columns.count(name) > 1]
            raise ValueError(
                f"columns should name each column once. Received: {_listed(twice)} twice or more."
            )
        other = {self._ids, self._labels} - set(source.beside)
        other |= {*choice.drop, *source.index}
        features = columns or [name for name in names if name not in other]
        if like is not None and source.named:
            if columns and set(columns) != set(like):
                raise ValueError(
                    "columns should be left out, or be the columns that the model was fitted "
                    f"with: {_listed(list(like))}. Received: {_listed(columns)}."
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
            text = isinstance(self.source, TextTable) and not self.source.named
            hint = "; header=True if its first line has them" if text else ""
            raise ValueError(
                f"{rule} {_listed(self.source.names)}{hint}. Received: {received}"
                f"{_listed(missing)}."
            )

    def _from_file(self, argument: str, name: str) -> Any:
        """Return ids or labels from a file of their own."""
        file = Path(name).expanduser()
        if file.suffix not in (".npy", ".txt") or not file.is_file():
            have = [*self.source.names, *self.source.beside]
            raise ValueError(
                f"{argument} should be one of what {self.source.file} has, or a .npy or .txt file "
                f"with one entry for each row: {_listed(have)}. Received: {name!r}."
            )
        if file.suffix == ".txt":
            return np.asarray(file.read_text().splitlines())
        try:
            values = np.load(file, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(
                f"{argument} should be an array of numbers or text. Received: {file}, which cannot "
                f"be read."
            ) from error
        if values.ndim != 1:
            raise ValueError(f"{argument} should be an array [N]. Received: shape {values.shape}.")
        return values

    def _text(self, ids: Any, start: int) -> Any:
        if ids.dtype.kind == "O" and labels_of.is_missing(ids).any():
            row = start + int(labels_of.is_missing(ids).argmax()) + 1
            raise ValueError(
                f"ids should name every row of {self.source.file}. Received: none in row {row}."
            )
        return labels_of.as_text(ids)

    def _check_finite(self, X: Any, rows: Any, start: int) -> None:
        values = rows.data if scipy.sparse.issparse(rows) else rows
        if np.isfinite(values).all():
            return
        if scipy.sparse.issparse(X):
            place = X.tocoo()
            bad = np.flatnonzero(~np.isfinite(values))[0]
            row, column = int(place.row[bad]), int(place.col[bad])
        else:
            row, column = map(int, np.argwhere(~np.isfinite(values))[0])
        value = float(X[row, column])
        raise ValueError(
            f"{self.source.file} should have a finite number in every cell; drop or impute the "
            f"rows without. Received: {'nothing or NaN' if np.isnan(value) else f'{value:g}'} in "
            f"row {start + row + 1}, column {self.features[column]!r}."
        )


def _joined(parts: Sequence[Any]) -> Any:
    return None if not parts or parts[0] is None else np.concatenate(parts)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_LISTED]))
    return shown + (f", … ({len(names)})" if len(names) > _LISTED else "")
