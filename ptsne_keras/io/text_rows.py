"""Rows in text files, read block by block: CSV, TSV and blank-separated, also `.gz`."""

import csv
import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptsne_keras.io import headers, tables
from ptsne_keras.typing import FloatArray

# Cells that are held as text at a time.
_CELLS = 1 << 20


class TextRows:
    """A table of rows in a text file."""

    count: int | None = None

    def __init__(self, file: Path, asked: Collection[str] = ()) -> None:
        self.file = file
        self._layout = tables.layout(file, asked)
        self.names, self.named = self._layout.names, self._layout.header
        self.ids = "" if "" in self.names else None
        self.apart = ("",) if self.ids is not None else ()

    def blocks(
        self, features: Sequence[str], texts: Sequence[str]
    ) -> Iterator[tuple[FloatArray, dict[str, Any]]]:
        r"""Yield these columns as numbers [b, D], NaN where one is missing, and others as text."""
        numbers = [self.names.index(name) for name in features]
        others = {name: self.names.index(name) for name in texts}
        step = max(1, _CELLS // len(self.names))
        line = self._layout.above + 1
        with tables.reading(self.file) as stream:
            for _ in itertools.islice(stream, self._layout.above):
                pass
            while lines := list(itertools.islice(stream, step)):
                yield from self._block(lines, line, numbers, others)
                line += len(lines)

    def _block(
        self, lines: list[str], first: int, numbers: list[int], others: dict[str, int]
    ) -> Iterator[tuple[FloatArray, dict[str, Any]]]:
        numbered = [(i, line) for i, line in enumerate(lines, first) if line.strip()]
        if not numbered:
            return
        X = self._fast([line for _, line in numbered], numbers)
        if X is not None and not others:
            yield X, {}
            return
        cells = self._cells(numbered)
        if X is None:
            X = self._slow(cells, numbers)
        texts = {
            name: np.asarray([row[j] for _, row in cells], dtype=str) for name, j in others.items()
        }
        yield X, texts

    def _fast(self, lines: list[str], numbers: list[int]) -> FloatArray | None:
        """Numbers, where all cells are plain ones; None where each has to be looked at."""
        mark = self._layout.delimiter
        text = "".join(lines)
        marks = len(self.names) - 1
        plain = mark == " " or all(line.count(mark) == marks for line in lines)
        if '"' in text or not plain:
            return None
        if self._layout.decimal_comma:
            lines = [line.replace(",", ".") for line in lines]
        try:
            return np.loadtxt(
                lines,
                np.float32,
                delimiter=None if mark == " " else mark,
                comments=None,
                usecols=numbers,
                ndmin=2,
            )
        except ValueError:
            return None

    def _cells(self, numbered: list[tuple[int, str]]) -> list[tuple[int, list[str]]]:
        """Split rows into cells, each with the number of its line."""
        mark, width = self._layout.delimiter, len(self.names)
        lines = [line.strip() if mark == " " else line for _, line in numbered]
        # A cell does not go over several lines: they could not be cut into blocks.
        rows = [next(csv.reader([line], delimiter=mark, skipinitialspace=True)) for line in lines]
        for (line, _), row in zip(numbered, rows, strict=True):
            if len(row) != width and not (len(row) == width + 1 and not row[-1].strip()):
                raise ValueError(
                    f"{self.file} should have {width} cells in every row. "
                    f"Received: {len(row)} in line {line}."
                )
        return [(line, row) for (line, _), row in zip(numbered, rows, strict=True)]

    def _slow(self, cells: list[tuple[int, list[str]]], numbers: list[int]) -> FloatArray:
        X = np.empty((len(cells), len(numbers)), np.float32)
        for i, (line, row) in enumerate(cells):
            for j, column in enumerate(numbers):
                cell = row[column]
                value = headers.number(cell, self._layout.decimal_comma)
                if value is None and not headers.missing(cell):
                    name = self.names[column]
                    raise not_numbers(name, self.file, f"{cell!r} in line {line}")
                X[i, j] = np.nan if value is None else value
        return X


def not_numbers(column: str, file: Path, received: str) -> ValueError:
    """Make the error of a column that is asked for as rows and is none."""
    return ValueError(
        f"Column {column!r} of {file} should be numbers; or name it by --label or --id, or leave "
        f"it out by --drop {column!r}. Received: {received}."
    )
