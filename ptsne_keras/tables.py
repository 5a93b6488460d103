"""Tables in text files: CSV, TSV and blank-separated, with or without header and row names."""

import collections
import csv
import gzip
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptsne_keras.typing import FloatArray

_DELIMITERS = ("\t", ";", ",")
# Of write.table(dec=","): only there a comma is no delimiter though no other mark is.
_DECIMAL_COMMAS = re.compile(r"[-+]?\d+,\d+([eE][-+]?\d+)?")
# Rows of which the first is compared with, to tell a header of numbers.
_LOOKED_AT = 100


@dataclass(frozen=True)
class Table:
    """Cells of a text file, as text.

    Attributes
    ----------
    file : Path
    names : list of str
        Of the columns: those of the header, or "1", "2", …; "" is the column of row names.
    lines : list of int
        Where in the file each row ends.
    rows : list of list of str
    decimal_comma : bool
        Whether numbers may have one.

    Examples
    --------
    >>> Table(Path("map.csv"), ["x", "y"], [2], [["1", "2"]], False).numeric()
    ['x', 'y']
    """

    file: Path
    names: list[str]
    lines: list[int]
    rows: list[list[str]]
    decimal_comma: bool

    def numeric(self) -> list[str]:
        """Names of the columns whose first row is a number, or missing.

        Examples
        --------
        >>> Table(Path("map.csv"), ["id", "y"], [2], [["a", "2"]], False).numeric()
        ['y']
        """
        return [
            name
            for name, cell in zip(self.names, self.rows[0], strict=True)
            if _number(cell, self.decimal_comma) is not None or _missing(cell)
        ]

    def text(self, name: str) -> list[str]:
        """Cells of a column.

        Examples
        --------
        >>> Table(Path("map.csv"), ["id", "y"], [2], [["a", "2"]], False).text("id")
        ['a']
        """
        j = self.names.index(name)
        return [row[j] for row in self.rows]

    def numbers(self, names: list[str]) -> FloatArray:
        """Columns as numbers [N, d]; NaN where a cell is empty, NA or the like.

        Raises
        ------
        ValueError
            If a cell is no number; its line is named.

        Examples
        --------
        >>> Table(Path("map.csv"), ["x", "y"], [2], [["1", "NA"]], False).numbers(["x", "y"])
        array([[ 1., nan]])
        """
        Y = np.empty((len(self.rows), len(names)))
        for column, name in enumerate(names):
            for i, cell in enumerate(self.text(name)):
                value = np.nan if _missing(cell) else _number(cell, self.decimal_comma)
                if value is None:
                    raise ValueError(
                        f"{self.file} should have numbers in column {name!r}. "
                        f"Received: {cell!r} in line {self.lines[i]}."
                    )
                Y[i, column] = value
        return Y


class Layout(NamedTuple):
    """How a text file is laid out, as its first hundred rows tell.

    Examples
    --------
    >>> Layout(["x", "y"], True, ",", 1, False).delimiter
    ','
    """

    names: list[str]
    """Of the columns, as in `Table`."""
    header: bool
    """Whether the file has them."""
    delimiter: str
    """" " is any blanks."""
    above: int
    """Lines above the first row."""
    decimal_comma: bool


def layout(file: Path) -> Layout:
    r"""Find out how a table is laid out without reading it all.

    Raises
    ------
    ValueError
        If it is not UTF-8 text with a row, or names a column twice.

    Examples
    --------
    >>> size = Path("rows.csv").write_text("a,b\n1,2\n")
    >>> layout(Path("rows.csv"))
    Layout(names=['a', 'b'], header=True, delimiter=',', above=1, decimal_comma=False)
    """
    try:
        with opened(file) as stream:
            numbered = list(itertools.islice(_cells(stream), 1 + _LOOKED_AT))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} should be text in UTF-8: save it as that. Received: {error.reason}."
        ) from error
    rows = [cells for _, cells, _ in numbered]
    names, start = _header(rows) if len(rows) > 1 else ([], 0)
    if len(rows) == 1 and _number(rows[0][-1], True) is not None:
        names = [str(j + 1) for j in range(len(rows[0]))]
    if not names:
        raise ValueError(f"{file} should be a table of rows. Received: {len(rows)} lines.")
    if names[-1] == "" and len(names) > 1 and not any(cells[-1].strip() for cells in rows[start:]):
        names = names[:-1]  # a comma ends every line
    _check_names(file, names)
    delimiter = numbered[0][2]
    comma = delimiter != "," and any(
        _DECIMAL_COMMAS.fullmatch(cell.strip()) for cells in rows[start:] for cell in cells
    )
    above = numbered[start - 1][0] if start else numbered[0][0] - 1
    return Layout(names, bool(start), delimiter, above, comma)


def read(file: Path) -> Table:
    r"""Read a table; the delimiter is a tab, else a semicolon, else a comma, else blanks.

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
    try:
        with opened(file) as stream:
            numbered = list(_cells(stream))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} should be text in UTF-8: save it as that. Received: {error.reason}."
        ) from error
    delimiter = numbered[0][2] if numbered else ","
    lines, rows = [line for line, _, _ in numbered], [cells for _, cells, _ in numbered]
    if len(rows) < 2:
        raise ValueError(f"{file} should be a table of rows. Received: {len(rows)} lines.")
    names, start = _header(rows)
    lines, rows = lines[start:], rows[start:]
    for line, cells in zip(lines, rows, strict=True):
        if len(cells) != len(names):
            raise ValueError(
                f"{file} should have {len(names)} cells in every row. "
                f"Received: {len(cells)} in line {line}."
            )
    if names[-1] == "" and len(names) > 1 and not any(cells[-1].strip() for cells in rows):
        names, rows = names[:-1], [cells[:-1] for cells in rows]  # a comma ends every line
    _check_names(file, names)
    return Table(file, names, lines, rows, delimiter != ",")


def opened(file: Path) -> Any:
    r"""Open a text file, which may be compressed by gzip.

    Examples
    --------
    >>> size = Path("rows.csv").write_text("a,b\n")
    >>> with opened(Path("rows.csv")) as stream:
    ...     next(stream)
    'a,b\n'
    """
    if file.suffix.lower() == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return open(file, encoding="utf-8-sig", newline="")


def _check_names(file: Path, names: list[str]) -> None:
    counts = collections.Counter(names)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ValueError(
            f"{file} should have a name of its own for each column. "
            f"Received: {', '.join(map(repr, twice))} twice or more."
        )


def _cells(stream: Any) -> Iterator[tuple[int, list[str], str]]:
    """Line number, cells and delimiter of each row; blank lines and comments above are left out."""
    above, first = 0, ""
    for first in stream:
        if first.strip() and not first.startswith("#"):
            break
        above += 1
    else:
        return
    delimiter = next((mark for mark in _DELIMITERS if mark in first), " ")
    parts = first.split()
    if delimiter == "," and len(parts) > 1 and all(map(_DECIMAL_COMMAS.fullmatch, parts)):
        delimiter = " "

    def rest() -> Iterator[str]:
        for line in itertools.chain([first], stream):
            yield line.strip() if delimiter == " " else line

    reader = csv.reader(rest(), delimiter=delimiter, skipinitialspace=True)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield above + reader.line_num, cells, delimiter


def _header(rows: list[list[str]]) -> tuple[list[str], int]:
    """Names of the columns, and where the data begin."""
    head, following = rows[0], rows[1 : 1 + _LOOKED_AT]
    named = [cell for cell in head if cell]
    numbers = [_number(cell, True) is not None for cell in named]
    header = bool(named) and not all(map(_missing, named)) and not any(numbers)
    if all(numbers) and named:
        # Columns that pandas has numbered: whole numbers above others that are not.
        start = named[0]
        consecutive = start in ("0", "1") and named == [
            str(int(start) + j) for j in range(len(named))
        ]
        fractions = any(not cell.lstrip("-").isdigit() for row in following for cell in row[-1:])
        header = consecutive and (head[0] == "" or fractions)
    if not header:
        return [str(j + 1) for j in range(len(head))], 0
    # R's write.table leaves the row names' title out.
    return (["", *head] if len(head) == len(rows[1]) - 1 else head), 1


def _number(cell: str, decimal_comma: bool) -> float | None:
    if "_" in cell:  # Python takes 1_000
        return None
    try:
        return float(cell.replace(",", ".") if decimal_comma else cell)
    except ValueError:
        return None


def _missing(cell: str) -> bool:
    return cell.strip().upper() in ("", "NA", "NAN", "NULL", "NONE")
