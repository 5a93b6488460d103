"""Tables in text files: CSV, TSV and blank-separated, read in chunks by pandas.

What pandas cannot tell is found in the first rows: the delimiter, comments above the header,
whether there is a header, R's row names, decimal commas.
"""

import collections
import contextlib
import csv
import gzip
import itertools
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils.labels import MISSING

ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
# Cells that are held as text at a time.
_CELLS = 1 << 20
# Rows, and characters, from which the layout is found.
_LOOKED_AT, _CHARACTERS = 100, 1 << 22
_TRUTH = {"True": 1.0, "TRUE": 1.0, "true": 1.0, "False": 0.0, "FALSE": 0.0, "false": 0.0}
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+([eE][-+]?\d+)?")
_GROUPS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")

Record = tuple[int, list[str]]
"""The number of a record's last line, and its cells."""


@dataclass(frozen=True)
class Layout:
    """How a text file is laid out; None where the file should tell."""

    header: bool | None = None
    delimiter: str | None = None
    """" " stands for any number of blanks."""
    decimal: str | None = None
    thousands: str | None = None


class TextTable:
    """Rows in a text file, which may be compressed by gzip."""

    count: int | None = None

    def __init__(self, file: Path, layout: Layout = Layout()) -> None:
        self.file = file
        with reading(file) as stream:
            found = _Top.of(stream, layout.delimiter)
        self._above, self._mark = found.above, found.delimiter
        self._thousands = layout.thousands
        rows = [cells for _, cells in found.records]
        header = found.marked or layout.header
        if header is None:
            header = len(rows) > 0 and _is_header(file, rows[0], rows[1:])
        head, rows = (rows[0], rows[1:]) if header and rows else (None, rows)
        if not rows:
            raise ValueError(
                f"{file} should be a table of rows. Received: {len(found.records)} lines."
            )
        if head is not None:
            self._above = found.records[0][0]
        self.names, self._width = _names(head, rows)
        check_unique(self.names, file)
        self.named, self.first = head is not None, rows[0]
        self.index = ("",) if "" in self.names else ()
        self.ids = "" if self.index else None
        self.beside: Mapping[str, Any] = {}
        self._is_sound = False
        self._decimal = layout.decimal or _decimal(file, rows, self._mark, layout.thousands)
        # Of columns that have a number, or nothing, in the first row.
        self.numeric = [
            name
            for name, cell in zip(self.names, self.first, strict=False)
            if cell.strip() in MISSING or self._value(cell) is not None
        ]

    def blocks(
        self, features: Sequence[str], texts: Sequence[str]
    ) -> Iterator[tuple[FloatArray, dict[str, Any]]]:
        """Yield these columns as numbers [b, D], NaN where one is missing, and others as text."""
        import pandas

        place = {name: j for j, name in enumerate(self.names)}
        numbers = [place[name] for name in features]
        if len(self.first) != self._width:
            self._explain(numbers)
        text = sorted(set(range(self._width)) - set(numbers))
        options: dict[str, Any] = {
            "header": None,
            "sep": r"\s+" if self._mark == " " else self._mark,
            "decimal": self._decimal,
            "thousands": self._thousands,
            "skipinitialspace": True,
            "keep_default_na": False,
            "low_memory": False,
            "names": range(self._width),
            "dtype": dict.fromkeys([*text, *(place[name] for name in texts)], str),
            "na_values": dict.fromkeys(numbers, MISSING) if text else list(MISSING),
            "chunksize": max(1, _CELLS // self._width),
        }
        with reading(self.file) as stream:
            for _ in itertools.islice(stream, self._above):
                pass
            try:
                for chunk in pandas.read_csv(stream, **options):
                    yield self._block(chunk, numbers, {name: place[name] for name in texts})
            except pandas.errors.ParserError as error:
                self._explain(numbers)
                raise ValueError(f"{self.file} should be a table. Received: {error}") from error

    def _block(
        self, chunk: Any, numbers: list[int], texts: dict[str, int]
    ) -> tuple[FloatArray, dict[str, Any]]:
        others, chosen = chunk.drop(columns=numbers), chunk[numbers]
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            if any(dtype.kind == "O" for dtype in chosen.dtypes):
                chosen = chosen.map(self._value).astype(np.float64)
            X = chosen.to_numpy(np.float32)
        last = self._width - 1
        extra = self._width > len(self.names) and chunk[last].str.strip().any()
        # pandas fills rows that are too short.
        if np.isnan(X).any() or extra or (last in others and (others[last] == "").any()):
            self._explain(numbers)
        return X, {name: np.asarray(chunk[j], dtype=str) for name, j in texts.items()}

    def _value(self, cell: Any) -> float | None:
        return number(cell, self._decimal, self._thousands) if isinstance(cell, str) else cell

    def _explain(self, numbers: Sequence[int]) -> None:
        """Raise for the first row of another length, or without a number where one is wanted."""
        if self._is_sound:
            return
        with reading(self.file) as stream:
            body = itertools.islice(stream, self._above, None)
            for line, cells in _records(body, self._mark, self._above):
                width = len(cells) - (self._width > len(self.names) and not cells[-1].strip())
                if width != len(self.names):
                    raise ValueError(
                        f"{self.file} should have {len(self.names)} cells in every row. "
                        f"Received: {len(cells)} in line {line}."
                    )
                for j in numbers:
                    if self._value(cells[j]) is None and cells[j].strip() not in MISSING:
                        raise not_numbers(self.names[j], self.file, f"{cells[j]!r} in line {line}")
        self._is_sound = True


@contextlib.contextmanager
def reading(file: Path) -> Iterator[Any]:
    """Open a text file, compressed or not; errors in it name the file and what to do."""
    zipped = file.suffix.lower() == ".gz"
    how: dict[str, Any] = {"mode": "rt", "encoding": "utf-8-sig", "newline": ""}
    try:
        with gzip.open(file, **how) if zipped else open(file, **how) as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{file} should be a whole gzip file; this one is truncated or damaged: fetch or save "
            f"it again. Received: {error}."
        ) from error
    except csv.Error as error:
        raise ValueError(
            f"{file} should have shorter cells; look for a quote that is not closed. "
            f"Received: {error}."
        ) from error
    except UnicodeDecodeError as error:
        again = "; this gzip file may also be damaged" if zipped else ""
        raise ValueError(
            f"{file} should be text in UTF-8: save it as that{again}. Received: {error.reason}."
        ) from error


def number(cell: str, decimal: str = ".", thousands: str | None = None) -> float | None:
    """Return the number in a cell, 1 for "True" and 0 for "False", or None."""
    cell = cell.strip()
    if "_" in cell or (decimal != "." and "." in cell):  # Python takes 1_000
        return None
    cell = cell.replace(thousands, "") if thousands else cell
    try:
        return float(cell.replace(decimal, "."))
    except ValueError:
        return _TRUTH.get(cell)


def not_numbers(column: str, file: Path, received: str) -> ValueError:
    """Return the error for a column of features that has something other than numbers."""
    return ValueError(
        f"Column {column!r} of {file} should be numbers; or leave it out by drop=, or name it by "
        f"ids= or labels=. Received: {received}."
    )


def check_unique(names: Sequence[str], file: Path) -> None:
    """Raise unless each column has a name of its own."""
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"{file} should have a name of its own for each column. "
            f"Received: {', '.join(map(repr, twice[:3]))} twice or more."
        )


class _Top(NamedTuple):
    """The first records of a file, below comments."""

    above: int
    """Lines above the first record."""
    delimiter: str
    marked: bool
    """Whether the first record is a header that began with "#"."""
    records: list[Record]

    @classmethod
    def of(cls, stream: Iterable[str], delimiter: str | None) -> "_Top":
        above, lines, whole = _first_lines(stream)
        if any("\0" in line for line in lines):
            raise UnicodeDecodeError("utf-8", b"\0", 0, 1, "bytes of 0, as UTF-16 has them")
        if lines and (told := re.fullmatch(r'"?sep=(.)"?', lines[0].strip())):  # Excel
            above, delimiter, lines = [*above, lines[0]], delimiter or told[1], lines[1:]
        comments = [i for i, line in enumerate(above) if line.strip()]
        if not lines and comments:  # names of rows that begin with "#", too
            mark = delimiter or _delimiter([above[comments[-1]]])
            width = len(_cells(above[comments[-1]], mark))
            start = next(i for i in comments if len(_cells(above[i], mark)) == width)
            above, lines, marked = above[:start], above[start:], True
        else:
            mark = delimiter or (_delimiter(lines) if lines else ",")
            marked = bool(comments and lines) and _heads(above[comments[-1]], lines[0], mark)
            if marked:
                above, lines = above[: comments[-1]], above[comments[-1] :] + lines
        if marked:
            lines = [lines[0].lstrip("#").lstrip(" "), *lines[1:]]
        records = list(_records(lines, mark, len(above)))
        # A quoted cell with line breaks may have been cut.
        return cls(len(above), mark, marked, records if whole or len(records) < 3 else records[:-1])


def _first_lines(stream: Iterable[str]) -> tuple[list[str], list[str], bool]:
    """Return the comments, the first lines below them, and whether these are all."""
    above: list[str] = []
    lines: list[str] = []
    read = 0
    for line in stream:
        if not lines and (not line.strip() or line.startswith("#")):
            above.append(line)
            continue
        if len(lines) > _LOOKED_AT or (len(lines) > 2 and read > _CHARACTERS):
            return above, lines, False
        lines.append(line)
        read += len(line)
    return above, lines, True


def _records(lines: Iterable[str], mark: str, above: int = 0) -> Iterator[Record]:
    """Yield the records that are not blank, with the numbers of their lines."""
    stripped = (line.strip() for line in lines) if mark == " " else lines
    reader = csv.reader(stripped, delimiter=mark, skipinitialspace=True)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield above + reader.line_num, cells


def _cells(line: str, mark: str) -> list[str]:
    return next((cells for _, cells in _records([line.lstrip("# ")], mark)), [])


def _heads(comment: str, first: str, mark: str) -> bool:
    """Return whether a comment is the header of the record below it."""
    names, cells = _cells(comment, mark), _cells(first, mark)
    return (
        len(names) == len(cells)
        and any(_any_number(cell) is None for cell in names)
        # A record of text alone is a header itself.
        and any(_any_number(cell) is not None or cell.strip() in MISSING for cell in cells)
    )


def _any_number(cell: str) -> float | None:
    """Return the number in a cell, whether it has a decimal point or a decimal comma."""
    value = number(cell)
    return number(cell, ",") if value is None else value


def _delimiter(lines: list[str]) -> str:
    """Return the mark that cuts all records into as many cells, or all below the first."""
    marks = [mark for mark in "\t;," if any(mark in line for line in lines)]
    widths = {mark: [len(cells) for _, cells in _records(lines, mark)] for mark in marks}
    parts = lines[-1].split(" ") if lines else []
    if len(parts) > 1 and all(map(_DECIMAL_COMMA.fullmatch, map(str.strip, parts))):
        return " "
    for shorter in (0, 1):  # the header of R's row names is one cell shorter
        for mark, (head, *below) in widths.items():
            if head + shorter > 1 and all(width == head + shorter for width in below):
                return mark
    return next((mark for mark in widths if widths[mark][0] > 1), " ")


def _is_header(file: Path, head: list[str], rows: list[list[str]]) -> bool:
    """Return whether a first record has the names of the columns."""
    there = [j for j in range(-len(head), 0) if head[j].strip() not in MISSING]
    numeric = [j for j in there if _any_number(head[j]) is not None]
    numbers = [_any_number(head[j]) or 0.0 for j in numeric]
    if not there or not rows:
        return bool(there) and not numeric
    if not numeric or (not head[0].strip() and len(head) > 1):
        return True  # words alone, or the empty corner above the index of pandas
    below = [[_any_number(row[j]) for j in numeric if len(row) >= -j] for row in rows]
    for j in set(there) - set(numeric):  # a word above numbers
        cells = [row[j] for row in rows if len(row) >= -j and row[j].strip() not in MISSING]
        if any(map(str.isalpha, head[j])) and cells and None not in map(_any_number, cells):
            return True
    values = [value for row in below for value in row if value is not None]
    fractions = any(value % 1 for value in values)
    # As pandas numbers columns.
    if numbers == list(range(len(numbers))) and (fractions or len(numbers) > 2):
        return True
    if numbers == list(range(1, len(numbers) + 1)) and fractions:
        return True
    far = min(map(abs, numbers)) > 10 * max(map(abs, values), default=np.inf)
    if far or (
        _in_order(numbers) and len(below) > 2 and 4 * sum(map(_in_order, below)) < len(below)
    ):
        shown = ", ".join(head[:3]) + (", …" if len(head) > 3 else "")
        warnings.warn(
            f"{file}: the first line, {shown}, is read as a row of data; header=True says that it "
            "has the names of the columns, header=False that it has not.",
            stacklevel=5,
        )
    return False


def _in_order(values: list[Any]) -> bool:
    """Return whether three numbers or more all rise or all fall."""
    if len(values) < 3 or None in values:
        return False
    return bool((np.diff(values) > 0).all() or (np.diff(values) < 0).all())


def _names(head: list[str] | None, rows: list[list[str]]) -> tuple[list[str], int]:
    """Return the names of the columns, and how many cells a row has."""
    width = len(rows[0])
    longer = all(len(row) == width for row in rows) and head is not None and width == len(head) + 1
    blank = width > 1 and not any(row[-1].strip() for row in rows)
    if head is None:
        names = [str(j + 1) for j in range(width)]
    elif longer and blank:  # each row ends in a delimiter, the header does not
        names = [*head, ""]
    elif longer and len({row[0] for row in rows}) == len(rows):  # R's row names
        names = ["", *head]
    else:
        names, width = head, len(head)
    if blank and len(names) == width and (head is None or names[-1] == ""):
        return names[:-1], width
    return names, width


def _decimal(file: Path, rows: list[list[str]], mark: str, thousands: str | None) -> str:
    """Return the decimal mark of the columns of numbers, or raise where it is in doubt."""
    if mark == "," or thousands or not any("," in cell for row in rows for cell in row):
        return "."
    numeric: list[str] = []
    for column in zip(*rows, strict=False):
        cells = [cell.strip() for cell in column if cell.strip() not in MISSING]
        numeric += cells if None not in map(_any_number, cells) else []
    commas = [cell for cell in numeric if "," in cell]
    if commas and (any("." in cell for cell in numeric) or all(map(_GROUPS.fullmatch, commas))):
        raise ValueError(
            f"{file} has commas that may be decimal or group thousands: decimal=',' or "
            f"thousands=',' should say which. Received: {commas[0]!r}."
        )
    return "," if commas else "."
