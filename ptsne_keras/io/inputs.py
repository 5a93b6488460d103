"""Rows as a command takes them from a file: columns chosen by name, ids and labels beside them."""

import array
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from ptsne_keras.io import formats
from ptsne_keras.io.formats import ArrayRows, Source
from ptsne_keras.utils import labels as class_labels

# Names that a message lists, at most.
_LISTED = 3


@dataclass(frozen=True)
class Choice:
    """What of a file is rows, and what names and labels them."""

    columns: Sequence[str] | None = None
    drop: Sequence[str] = ()
    ids: str | None = None
    labels: str | None = None
    array: str | None = None
    layer: str | None = None
    obsm: str | None = None


class Rows(NamedTuple):
    """Rows, all of a file or some in turn."""

    X: Any
    """[N, D], dense or sparse; a `np.memmap` where the file can be mapped."""
    ids: Any
    """[N] text, or None."""
    labels: Any
    """[N], or None; text in blocks, and in a whole what `class_labels.as_numbers` gives. Where one
    is missing it is None, in an array of objects."""


class Reading:
    r"""A file of rows that is open, with the columns that are taken of it."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        choice: Choice | None = None,
        *,
        like: Sequence[str] | None = None,
    ) -> None:
        choice = choice or Choice()
        self.source: Source = formats.opened(
            Path(path),
            array=choice.array,
            layer=choice.layer,
            obsm=choice.obsm,
            asked=_asked(choice, like),
        )
        self.count = self.source.count
        self._ids = self.source.ids if choice.ids is None else choice.ids
        self._labels = choice.labels
        self._beside = {
            name: self._of_file(option, name)
            for option, name in (("--id", self._ids), ("--label", self._labels))
            if name is not None and not self._has(name)
        }
        self.ignored: list[str] = []
        self.features = self._taken(choice, like)
        self.names = self.features if self.source.named else None

    def blocks(self) -> Iterator[Rows]:
        """Yield all rows in order, some at a time, as finite float32."""
        texts = [n for n in (self._ids, self._labels) if n is not None and n not in self._beside]
        start = 0
        for X, others in self.source.blocks(self.features, list(dict.fromkeys(texts))):
            self._check(X, start)
            end = start + X.shape[0]
            others |= {name: values[start:end] for name, values in self._beside.items()}
            ids = None if self._ids is None else class_labels.as_text(others[self._ids])
            labels = None if self._labels is None else class_labels.as_labels(others[self._labels])
            yield Rows(_float32(X), ids, labels)
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
        """Read all rows: once, straight into one array; those of a .npy file are left in it."""
        source = self.source
        whole: Any = None
        if isinstance(source, ArrayRows) and source.all(self.features):
            held = isinstance(source.X, np.ndarray) or scipy.sparse.issparse(source.X)
            whole = source.X if held else None  # and not on the disk, as those of .h5ad
        ids: list[Any] = []
        labels: list[Any] = []
        parts: list[Any] = []
        buffer = array.array("f")  # grows where it lies, so that nothing is held twice
        for block in self.blocks():
            ids.append(block.ids)
            labels.append(block.labels)
            if whole is not None:
                continue
            if scipy.sparse.issparse(block.X):
                parts.append(block.X)
            else:
                buffer.frombytes(np.ascontiguousarray(block.X).data.cast("B"))
        if whole is not None:
            X = whole
        elif parts:
            X = scipy.sparse.vstack(parts, format="csr")
        else:
            X = np.frombuffer(buffer, np.float32).reshape(-1, len(self.features))
        return Rows(X, _joined(ids), class_labels.as_numbers(_joined(labels)))

    def _has(self, name: str) -> bool:
        return name in self.source.names or name in self.source.apart

    def _taken(self, choice: Choice, like: Sequence[str] | None) -> list[str]:
        names = self.source.names
        for option, wanted in (("--columns", choice.columns or ()), ("--drop", choice.drop)):
            missing = [name for name in wanted if name not in names]
            if missing:
                raise ValueError(
                    f"{option} should be among the columns of {self.source.file}: "
                    f"{_listed(names)}. Received: {_listed(missing)}."
                )
        columns = None if choice.columns is None else list(choice.columns)
        if columns is not None and len(set(columns)) < len(columns):
            twice = [name for name in dict.fromkeys(columns) if columns.count(name) > 1]
            raise ValueError(
                f"--columns should name each column once. Received: {_listed(twice)} twice or more."
            )
        other = {self._ids, self._labels, *choice.drop, *self.source.apart}
        features = [name for name in names if name not in other] if columns is None else columns
        if like is not None and self.source.named:
            if columns is not None and set(columns) != set(like):
                raise ValueError(
                    "--columns should be left out, or be the columns that the model was fitted "
                    f"with: {_listed(list(like))}. Received: {_listed(columns)}."
                )
            missing = [name for name in like if name not in names]
            if missing:
                raise ValueError(
                    f"{self.source.file} should have the columns that the model was fitted with. "
                    f"Received: none called {_listed(missing)}."
                )
            self.ignored = [name for name in features if name not in set(like)]
            features = list(like)
        if not features:
            raise ValueError(f"{self.source.file} should have columns of numbers. Received: none.")
        return features

    def _of_file(self, option: str, name: str) -> Any:
        """Names or labels that lie in a file of their own."""
        file = Path(name).expanduser()
        if file.suffix not in (".npy", ".txt") or not file.is_file():
            have = [*self.source.names, *self.source.apart]
            raise ValueError(
                f"{option} should be one of what {self.source.file} has, or a .npy or .txt file "
                f"with one entry a row: {_listed(have)}. Received: {name!r}."
            )
        if file.suffix == ".txt":
            return np.asarray(file.read_text().splitlines())
        try:
            values = np.load(file, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(
                f"{option} should be an array of numbers or text. Received: {file}, which cannot "
                f"be read."
            ) from error
        if values.ndim != 1:
            raise ValueError(f"{option} should be an array [N]. Received: shape {values.shape}.")
        return values

    def _check(self, X: Any, start: int) -> None:
        values = X.data if scipy.sparse.issparse(X) else X
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite there
            values = np.asarray(values).astype(np.float32, copy=False)
        if np.isfinite(values).all():
            return
        if scipy.sparse.issparse(X):
            place = X.tocoo()
            bad = np.flatnonzero(~np.isfinite(values))[0]
            row, column = int(place.row[bad]), int(place.col[bad])
        else:
            row, column = map(int, np.argwhere(~np.isfinite(values))[0])
        raise ValueError(
            f"{self.source.file} should have a finite number in every cell; drop or impute the "
            f"rows without. Received: {_cell(X, row, column)} in row {start + row + 1}, column "
            f"{self.features[column]!r}."
        )


def _cell(X: Any, row: int, column: int) -> str:
    value = float(X[row, column])
    return "nothing or NaN" if np.isnan(value) else f"{value:g}"


def _float32(X: Any) -> Any:
    if scipy.sparse.issparse(X):
        return X.tocsr().astype(np.float32)
    return np.asarray(X, np.float32)


def _asked(choice: Choice, like: Sequence[str] | None) -> list[str]:
    """All names of columns that are wanted."""
    one = [name for name in (choice.ids, choice.labels) if name is not None]
    return [*one, *(choice.columns or ()), *choice.drop, *(like or ())]


def _joined(parts: Sequence[Any]) -> Any:
    return None if not parts or parts[0] is None else np.concatenate(parts)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_LISTED]))
    return shown + (f", … ({len(names)})" if len(names) > _LISTED else "")
