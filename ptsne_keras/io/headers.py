"""The top of a text file: comments, the delimiter, and whether the first line has names."""

import csv
import itertools
import re
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple, Self

_DELIMITERS = ("\t", ";", ",")
# Of write.table(dec=","): only there a comma is no delimiter though no other mark is.
_DECIMAL_COMMAS = re.compile(r"[-+]?\d+,\d+([eE][-+]?\d+)?")
_QUOTED = re.compile(r'"[^"]*"')
_WHOLE = re.compile(r"0|-?[1-9]\d*")
LOOKED_AT = 100
"""Rows with which the first is compared, to tell a header of numbers."""


class Top(NamedTuple):
    r"""What stands at the top of a file, whose lines are read from it up to the first row."""

    above: int
    """Lines above `lines`: comments and blank ones."""
    lines: list[str]
    delimiter: str
    marked: bool
    """Whether the first of `lines` is a header that began with "#"."""

    @classmethod
    def of(cls, stream: Iterator[str]) -> Self:
        r"""Read lines up to the first that is no comment."""
        lines: list[str] = []
        for line in stream:
            lines.append(line)
            if line.strip() and not line.startswith("#"):
                break
        there = [i for i, line in enumerate(lines) if line.strip()]
        if not there:
            return cls(len(lines), [], ",", False)
        delimiter = _delimiter(lines[there[-1]])
        first, marked = there[-1], False
        if not lines[first].startswith("#"):
            marked = len(there) > 1 and cls._heads(lines[there[-2]], lines[first], delimiter)
            first = there[-2] if marked else first
        elif len(there) > 1:  # names of rows that begin with "#", too
            first = next(i for i in there if _same(lines[i], lines[first], delimiter))
            marked = first != there[-1]
        above, lines = first, lines[first:]
        if marked:
            lines[0] = lines[0].lstrip("#").lstrip(" ")
        return cls(above, lines, delimiter, marked)

    @staticmethod
    def _heads(comment: str, first: str, delimiter: str) -> bool:
        """Tell whether a line that begins with "#" is the header of the one below."""
        names, row = _split(comment, delimiter), _split(first, delimiter)
        # A line of text alone is a header itself.
        return (
            len(names) == len(row)
            and any(number(cell, True) is None for cell in names)
            and any(number(cell, True) is not None or missing(cell) for cell in row)
        )

    def cells(self, stream: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        r"""Yield the number of the line and the cells of each row that is not blank."""
        lines = itertools.chain(self.lines, stream)
        blank = self.delimiter == " "
        reader = csv.reader(
            (line.strip() if blank else line for line in lines),
            delimiter=self.delimiter,
            skipinitialspace=True,
        )
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield self.above + reader.line_num, cells


def decimal_comma(cell: str) -> bool:
    """Tell whether a cell is a number with a decimal comma."""
    return _DECIMAL_COMMAS.fullmatch(cell.strip()) is not None


def _delimiter(line: str) -> str:
    bare = _QUOTED.sub("", line)
    delimiter = next((mark for mark in _DELIMITERS if mark in bare), " ")
    parts = line.split()
    if delimiter == "," and len(parts) > 1 and all(map(_DECIMAL_COMMAS.fullmatch, parts)):
        return " "
    return delimiter


def _split(line: str, delimiter: str) -> list[str]:
    line = line.lstrip("#").strip(" \r\n")
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])


def _same(line: str, other: str, delimiter: str) -> bool:
    return len(_split(line, delimiter)) == len(_split(other, delimiter))


def named(
    file: Path, rows: list[list[str]], marked: bool = False, asked: Collection[str] = ()
) -> tuple[list[str], int]:
    """Names of the columns, and where the data begin."""
    if len(rows) < 2:
        raise ValueError(f"{file} should be a table of rows. Received: {len(rows)} lines.")
    head, following = rows[0], rows[1 : 1 + LOOKED_AT]
    header = True if marked else _settled(head, asked)
    if header is None:
        header, sure = _header(head, following)
        if not sure:
            shown = ", ".join(head[:3]) + (", …" if len(head) > 3 else "")
            warnings.warn(
                f"{file}: the first line, {shown}, is read as "
                + (
                    "names of columns; if it is a row, put a line of names above it."
                    if header
                    else "a row; if it has the names of columns, let one be no number, such as c1."
                ),
                stacklevel=5,
            )
    if not header:
        return [str(j + 1) for j in range(len(head))], 0
    # R's write.table leaves the row names' title out.
    return (["", *head] if len(head) == len(rows[1]) - 1 else head), 1


def _settled(head: list[str], asked: Collection[str]) -> bool | None:
    """Whether the names that are asked for tell that there is a header; None if they do not."""
    places = {str(j + 1) for j in range(len(head))}
    words = [name for name in asked if name and number(name) is None]
    # "6" in a file without names is its sixth column, and any row may have a cell 6.
    numbers = {name for name in asked if number(name) is not None}
    if any(name in head for name in words) or (numbers - places and numbers <= set(head)):
        return True
    return None


def _header(head: list[str], following: list[list[str]]) -> tuple[bool, bool]:
    """Whether the first line has names, and whether that is sure."""
    there = [cell for cell in head if not missing(cell)]
    places = [j for j in range(-len(head), 0) if head[j] and number(head[j], True) is not None]
    numbers = [head[j] for j in places]
    if not there:
        return False, True
    words = len(numbers) < len([cell for cell in head if cell])
    if not numbers or (words and _words_above_numbers(head, following)):
        return True, True
    whole = [int(cell) for cell in numbers if _WHOLE.fullmatch(cell)]
    if len(whole) < len(numbers) or any(a >= b for a, b in itertools.pairwise(whole)):
        return False, True
    rows = [[row[j] for j in places if len(row) >= -j] for row in following]
    below = [cell for row in rows for cell in row if number(cell, True) is not None]
    fractions = any(not _WHOLE.fullmatch(cell.strip()) and not missing(cell) for cell in below)
    # As pandas numbers columns.
    few = not words and (head[0] == "" or fractions)
    if whole == list(range(len(whole))) and (few or len(whole) > 2):
        return True, True
    if whole == list(range(1, len(whole) + 1)) and few:
        return True, True
    # Rows that rise as line 1 does are like it; years and the like are far above all others.
    rising = sum(map(_increasing, rows)) / len(rows)
    if len(whole) < 2 or rising > 0.75:
        return False, True
    far = bool(below) and whole[0] > 10 * max(abs(number(cell, True) or 0) for cell in below)
    if far or (fractions and len(whole) > 2):
        return True, False
    return False, len(whole) == 2 or rising > 0.25


def _words_above_numbers(head: list[str], following: list[list[str]]) -> bool:
    for j in range(-len(head), 0):
        if missing(head[j]) or not any(map(str.isalpha, head[j])) or number(head[j]) is not None:
            continue
        below = [row[j] for row in following if len(row) >= -j]
        there = [cell for cell in below if not missing(cell)]
        if there and all(number(cell, True) is not None for cell in there):
            return True
    return False


def _increasing(cells: list[str]) -> bool:
    values = [number(cell, True) for cell in cells]
    return all(a is not None and b is not None and a < b for a, b in itertools.pairwise(values))


def number(cell: str, decimal_comma: bool = False) -> float | None:
    """Value of a cell, or None if it is no number."""
    if "_" in cell:  # Python takes 1_000
        return None
    try:
        return float(cell.replace(",", ".") if decimal_comma else cell)
    except ValueError:
        return None


def missing(cell: str) -> bool:
    """Tell whether a cell says that there is nothing."""
    return cell.strip().upper() in ("", "NA", "N/A", "<NA>", "NAN", "NULL", "NONE")
