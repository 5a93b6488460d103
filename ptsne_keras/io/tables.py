"""Tables in text files: CSV, TSV and blank-separated, with or without header and row names."""

import collections
import contextlib
import gzip
import itertools
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptsne_keras.io.headers import LOOKED_AT, Top, decimal_comma, missing, named, number
from ptsne_keras.typing import FloatArray


@dataclass(frozen=True)
class Table:
    """Cells of a text file, as text."""

    file: Path
    names: list[str]
    lines: list[int]
    rows: list[list[str]]
    decimal_comma: bool

    def numeric(self) -> list[str]:
        """Names of the columns whose first row is a number, or missing."""
        return [
            name
            for name, cell in zip(self.names, self.rows[0], strict=True)
            if number(cell, self.decimal_comma) is not None or missing(cell)
        ]

    def text(self, name: str) -> list[str]:
        """Cells of a column."""
        j = self.names.index(name)
        return [row[j] for row in self.rows]

    def numbers(self, names: list[str]) -> FloatArray:
        """Columns as numbers [N, d]; NaN where a cell is empty, NA or the like."""
        Y = np.empty((len(self.rows), len(names)))
        for column, name in enumerate(names):
            for i, cell in enumerate(self.text(name)):
                value = np.nan if missing(cell) else number(cell, self.decimal_comma)
                if value is None:
                    raise ValueError(
                        f"{self.file} should have numbers in column {name!r}. "
                        f"Received: {cell!r} in line {self.lines[i]}."
                    )
                Y[i, column] = value
        return Y


class Layout(NamedTuple):
    """How a text file is laid out, as its first hundred rows tell."""

    names: list[str]
    """Of the columns, as in `Table`."""
    header: bool
    """Whether the file has them."""
    delimiter: str
    """" " is any blanks."""
    above: int
    """Lines above the first row."""
    decimal_comma: bool


def layout(file: Path, asked: Collection[str] = ()) -> Layout:
    r"""Find out how a table is laid out without reading it all."""
    with reading(file) as stream:
        top = Top.of(stream)
        numbered = list(itertools.islice(top.cells(stream), 1 + LOOKED_AT))
    rows = [cells for _, cells in numbered]
    if len(rows) == 1 and not top.marked and number(rows[0][-1], True) is not None:
        names, start = [str(j + 1) for j in range(len(rows[0]))], 0
    else:
        names, start = named(file, rows, top.marked, asked)
    names = _without_last(names, rows[start:])
    _check_names(file, names)
    comma = top.delimiter != "," and any(
        decimal_comma(cell) for cells in rows[start:] for cell in cells
    )
    above = numbered[start - 1][0] if start else numbered[0][0] - 1
    return Layout(names, bool(start), top.delimiter, above, comma)


def read(file: Path, asked: Collection[str] = ()) -> Table:
    r"""Read a table; the delimiter is a tab, else a semicolon, else a comma, else blanks.

    `asked` is as in :func:`layout`.

    Raises
    ------
    ValueError
        If it is not UTF-8 text, or not a table of rows of one length, or names a column twice.

    Examples
    --------
    >>> size = Path("map.csv").write_text("x,y\n1,2\n")
    >>> read(Path("map.csv")).names
    ['x', 'y']
    """
    with reading(file) as stream:
        top = Top.of(stream)
        numbered = list(top.cells(stream))
    lines, rows = [line for line, _ in numbered], [cells for _, cells in numbered]
    names, start = named(file, rows, top.marked, asked)
    lines, rows = lines[start:], rows[start:]
    for line, cells in zip(lines, rows, strict=True):
        if len(cells) != len(names):
            raise ValueError(
                f"{file} should have {len(names)} cells in every row. "
                f"Received: {len(cells)} in line {line}."
            )
    kept = _without_last(names, rows)
    if len(kept) < len(names):
        rows = [cells[:-1] for cells in rows]
    _check_names(file, kept)
    return Table(file, kept, lines, rows, top.delimiter != ",")


@contextlib.contextmanager
def reading(file: Path) -> Iterator[Any]:
    r"""Open a text file, which may be compressed by gzip; what is wrong with it names it."""
    zipped = file.suffix.lower() == ".gz"
    how: dict[str, Any] = {"mode": "rt", "encoding": "utf-8-sig", "newline": ""}
    try:
        with gzip.open(file, **how) if zipped else open(file, **how) as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(file, error) from error
    except UnicodeDecodeError as error:
        if zipped:
            _check_gzip(file)  # damaged bytes may come out as nonsense first
        raise ValueError(
            f"{file} should be text in UTF-8: save it as that. Received: {error.reason}."
        ) from error


def _check_gzip(file: Path) -> None:
    try:
        with gzip.open(file) as stream:
            while stream.read(1 << 20):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{file} should be a whole gzip file; this one is truncated or damaged: fetch or save it "
        f"again. Received: {error}."
    )


def _check_names(file: Path, names: list[str]) -> None:
    counts = collections.Counter(names)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ValueError(
            f"{file} should have a name of its own for each column. "
            f"Received: {', '.join(map(repr, twice))} twice or more."
        )


def _without_last(names: list[str], rows: list[list[str]]) -> list[str]:
    """Leave out a last column that is nothing: a comma ends every line."""
    if len(names) > 1 and names[-1] == "" and not any(cells[-1].strip() for cells in rows):
        return names[:-1]
    return names
