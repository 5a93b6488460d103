"""Tables in text files: CSV, TSV and blank-separated, read in chunks by pandas.

The layout is found in the first rows: the delimiter, comments above the header, whether there is a
header, R's row names, decimal commas.
"""

import csv
import gzip
import io
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptsne_keras.io._sources import (
    Blocks,
    Choice,
    RowFile,
    check_expanded,
    listed,
    not_numbers,
)
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import files
from ptsne_keras.utils.labels import MISSING

ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
# Cells that are held as text at a time.
_CELLS = 1 << 20
# Rows, and characters, from which the layout is found; characters that a line may have.
_LOOKED_AT, _CHARACTERS, _LINE = 100, 1 << 20, 1 << 26
_TRUTH = {"true": 1.0, "false": 0.0}
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+([eE][-+]?\d+)?")
_GROUPS = re.compile(r"[-+]?[1-9]\d{0,2}([.,]\d{3})+")
# Two, because a search for a literal is thirty times as fast.
_EXPONENTS = re.compile(rb"e[-+]?\d{10}"), re.compile(rb"E[-+]?\d{10}")
_WRITTEN = re.compile(r"[-+]?\d[\d.,' \u00a0\u202f]*")


class TextTable(RowFile):
    """Rows in a text file, which may be compressed by gzip."""

    def __init__(self, file: Path, choice: Choice) -> None:
        with opened(file) as stream:
            self._above, self._mark, header, records = _top(stream, choice)
        lines, rows = [line for line, _ in records], [cells for _, cells in records]
        header = header or choice.header
        if header is None:
            header = len(rows) > 0 and _is_header(rows[0])
            if not header and _like_names(rows):
                warnings.warn(
                    f"{file}: the first line, {listed(rows[0])}, is read as a row; header=True if "
                    "it names the columns, header=False if it does not.",
                    stacklevel=2,
                )
        head = rows.pop(0) if header and rows else None
        if not rows:
            raise ValueError(f"{file} should be a table of rows. Received: {len(lines)} lines.")
        names, self._width = _names(head, rows)
        super().__init__(file, names)
        self.named, self._above = head is not None, self._above if head is None else lines[0]
        if "" in names[1:]:
            raise ValueError(
                f"{file} should have names for all columns but the first; header=False if the "
                f"first line is a row. Received: none for column {names.index('', 1) + 1}."
            )
        if "" in names:
            self.ids, self.index = "", ("",)
        self._thousands, self._decimal = choice.thousands, choice.decimal or "."
        if choice.thousands == "." and choice.decimal is None:
            self._decimal = ","
        self._checked = self._undecided = False
        if not (choice.thousands or choice.decimal):
            self._find_decimal(rows, told=choice.delimiter is not None)
        if len(rows[0]) != self._width:  # pandas would not tell
            self._check(())
        first = zip(names, rows[0], strict=False)
        self.numeric = [name for name, cell in first if self._is_number(cell)]

    def _find_decimal(self, rows: list[list[str]], *, told: bool) -> None:
        """Set the decimal mark of the columns of numbers, or raise where it is in doubt."""
        if self._mark == ",":
            lines = [",".join(row) for row in rows]
            one = self.named and len(self.names) == 2 and self.names[0] == "" and not told
            if one and all(map(_DECIMAL_COMMA.fullmatch, lines)):  # 1 and 5, or one and a half
                raise self._doubt(",", "delimiter", repr(lines[0]))
            return
        columns = list(enumerate(zip(*rows, strict=False)))
        self._numeric = [j for j, column in columns if all(map(_is_any_number, column))]
        cells = [cell.strip() for j, column in columns if j in self._numeric for cell in column]
        marked = {mark: [cell for cell in cells if mark in cell] for mark in ",."}
        if marked[","]:
            self._decimal = ","
            if marked["."]:
                raise self._doubt(",", "thousands", f"{marked[','][0]!r}, and {marked['.'][0]!r}")
        # Where semicolons separate, commas are decimal, and points may group thousands.
        if self._decimal == "," or self._mark == ";":
            self._undecided = all(map(_GROUPS.fullmatch, marked[self._decimal]))
            if marked[self._decimal]:
                self._decide()

    def _decide(self) -> None:
        """Raise if every mark in the numbers of the file is followed by groups of three digits."""
        if not self._undecided:
            return
        seen, self._undecided = "", False
        for line, cells in self._body():
            for j, cell in ((j, cells[j].strip()) for j in self._numeric if j < len(cells)):
                if self._decimal in cell:
                    if not _GROUPS.fullmatch(cell):
                        return
                    seen = seen or f"{cell!r} in line {line}, column {self.names[j]!r}"
        if seen:
            raise self._doubt(self._decimal, "thousands", seen)

    def _doubt(self, mark: str, other: str, received: str) -> ValueError:
        name = "commas" if mark == "," else "points"
        means = "group thousands" if other == "thousands" else "separate the names of rows"
        return ValueError(
            f"{self.file} has {name} that may be decimal or {means}: decimal={mark!r} or "
            f"{other}={mark!r} should say which. Received: {received}."
        )

    def _blocks(self, features: Sequence[str], texts: Sequence[str]) -> Blocks:
        """Yield these columns as numbers [b, D], NaN where one is missing, and others as text."""
        import pandas

        place = {name: j for j, name in enumerate(self.names)}
        numbers = [place[name] for name in features]
        text = sorted(set(range(self._width)) - set(numbers))
        options: dict[str, Any] = {
            "header": None,
            "sep": r"\s+" if self._mark == " " else self._mark,
            "decimal": self._decimal,  # thousands are ours to read, since pandas takes 1.5 for 15
            "float_precision": _precision(self.file),
            "skipinitialspace": True,
            "keep_default_na": False,
            "low_memory": False,
            "names": range(self._width),
            "dtype": dict.fromkeys([*text, *(place[name] for name in texts)], str),
            "na_values": dict.fromkeys(numbers, MISSING) if text else list(MISSING),
            "chunksize": max(1, _CELLS // self._width),
        }
        with opened(self.file) as stream:
            for _ in range(self._above):
                next(stream)
            try:
                for chunk in pandas.read_csv(stream, **options):
                    others = {name: np.asarray(chunk[place[name]], dtype=str) for name in texts}
                    yield self._numbers(chunk, numbers), others
            except pandas.errors.ParserError:
                self._check(numbers)
                raise

    def _numbers(self, chunk: Any, numbers: list[int]) -> FloatArray:
        others, chosen = chunk.drop(columns=numbers), chunk[numbers]
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            if any(dtype.kind == "O" for dtype in chosen.dtypes):
                chosen = chosen.map(self._value).astype(np.float64)
            X = chosen.to_numpy(np.float32)
        if self._undecided and (X % 1 != 0).any():
            self._decide()
        last = self._width - 1
        extra = any(chunk[j].str.strip().any() for j in range(len(self.names), self._width))
        # pandas fills up rows that are too short.
        if np.isnan(X).any() or extra or (last in others and (others[last] == "").any()):
            self._check(numbers)
        return X

    def _value(self, cell: Any) -> float | None:
        return number(cell, self._decimal, self._thousands) if isinstance(cell, str) else cell

    def _is_number(self, cell: str) -> bool:
        return cell.strip() in MISSING or self._value(cell) is not None

    def _body(self) -> Iterator[tuple[int, list[str]]]:
        with opened(self.file) as stream:
            body = itertools.islice(stream, self._above, None)
            yield from _records(body, self._mark, self._above)

    def _check(self, numbers: Sequence[int]) -> None:
        """Raise for the first row of another length, or without a number where one is wanted."""
        if self._checked:
            return
        width = len(self.names)
        for row, (line, cells) in enumerate(self._body()):
            beyond = cells[width:] if len(cells) <= self._width else ["more"]
            if len(cells) < width or any(cell.strip() for cell in beyond):
                raise ValueError(
                    f"{self.file} should have {width} cells in every row; delimiter= may set what "
                    f"separates them. Received: {len(cells)} in line {line}."
                )
            for j in numbers:
                if not self._is_number(cells[j]):
                    received = f"{cells[j]!r} in line {line}"
                    if row == 0 and not self.named:
                        received += " (header=True if that line names the columns)"
                    elif width == 1:
                        received += " (delimiter= sets what separates cells)"
                    elif _WRITTEN.fullmatch(cells[j].strip()):
                        received += " (decimal= and thousands= set how numbers are written)"
                    raise not_numbers(self.names[j], self.file, received)
        self._checked = True


def _precision(file: Path) -> str | None:
    """Return how pandas should read numbers: at exponents of ten digits its default crashes."""
    end = b""
    with opened(file) as stream:
        buffer: Any = stream.buffer
        while part := buffer.read1(1 << 20):
            if any(exponent.search(end + part) for exponent in _EXPONENTS):
                return "round_trip"
            end = part[-12:]
    return None


class _Expanding(gzip.GzipFile):
    """A gzip file that refuses to expand beyond the limit."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self._file, self._limit = file, files.expanded_limit(file.stat().st_size)

    def read1(self, size: int = -1) -> bytes:
        data = super().read1(size)
        check_expanded(self._file, self.tell(), self._limit)
        return data


def opened(file: Path) -> io.TextIOWrapper:
    """Open a text file, compressed or not."""
    if file.suffix.lower() == ".gz":
        return io.TextIOWrapper(_Expanding(file), encoding="utf-8-sig", newline="")
    return open(file, encoding="utf-8-sig", newline="")


def number(cell: str, decimal: str = ".", thousands: str | None = None) -> float | None:
    """Return the number in a cell, 1 for "True" and 0 for "False", or None."""
    cell = cell.strip()
    if "_" in cell or (decimal != "." and "." in cell and thousands != "."):  # Python takes 1_000
        return None
    if thousands and thousands in cell:
        whole, mark, fraction = cell.partition(decimal)
        head, *groups = whole.lstrip("+-").split(thousands)
        if not 0 < len(head) < 4 or thousands in fraction or {len(g) for g in groups} != {3}:
            return None
        cell = whole.replace(thousands, "") + mark + fraction
    try:
        return float(cell.replace(decimal, "."))
    except ValueError:
        return _TRUTH.get(cell.lower())


def _top(stream: Any, choice: Choice) -> tuple[int, str, bool | None, list[tuple[int, list[str]]]]:
    """Return the lines to skip, the delimiter, True if "#" marks a header, and first records."""
    lines, mark = list(_first_lines(stream)), choice.delimiter
    if any("\0" in line for line in lines):
        raise UnicodeDecodeError("utf-8", b"\0", 0, 1, "bytes of 0, as UTF-16 has them")
    full = [i for i, line in enumerate(lines) if line.strip()]
    # If all lines begin with "#", so do the names of the rows.
    start = next((i for i in full if lines[i][0] != "#"), full[0] if full else 0)
    above = [i for i in full if i < start]
    if full and (told := re.fullmatch(r'"?sep=(.)"?', lines[start].strip("\r\n "))):  # Excel
        mark, start, above = mark or told[1], start + 1, []
    first = [line.lstrip("# ") for line in lines[start : start + _LOOKED_AT]]
    mark = mark or _delimiter(first, choice.decimal)
    if above and _heads(lines[above[-1]], lines[start], mark):
        start = above[-1]
    marked = "".join(lines[start : start + 1]).startswith("#") or None
    first = lines[start : start + _LOOKED_AT]
    if marked:
        first[0] = first[0].lstrip("# ")
    records = list(_records(first, mark, start))
    # A quoted cell with line breaks may have been cut.
    cut = len(records) > 2 and (start + len(first) < len(lines) or next(stream, None) is not None)
    return start, mark, marked, records[:-1] if cut else records


def _first_lines(stream: Any) -> Iterator[str]:
    """Yield the lines from which the layout is found, at least three."""
    size = number = 0
    while (size < _CHARACTERS or number < 3) and (line := stream.readline(_LINE)):
        if len(line) == _LINE:
            raise csv.Error(f"a line of {_LINE:,} characters or more")
        size, number = size + len(line), number + 1
        yield line


def _records(lines: Iterable[str], mark: str, above: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Yield the last line and the cells of each record that is not blank."""
    stripped = (line.strip() for line in lines) if mark == " " else lines
    reader = csv.reader(stripped, delimiter=mark, skipinitialspace=True)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield above + reader.line_num, cells


def _heads(comment: str, first: str, mark: str) -> bool:
    """Return whether a comment is the header of the record below it, which has a number."""
    names, numbers = (
        [_any_number(cell) is not None or cell.strip() in MISSING for _, c in found for cell in c]
        for found in (_records([comment.lstrip("# ")], mark), _records([first], mark))
    )
    return len(names) == len(numbers) and not all(names) and any(numbers)


def _any_number(cell: str) -> float | None:
    """Return the number in a cell, whether it has a decimal point or a decimal comma."""
    value = number(cell)
    return number(cell, ",") if value is None else value


def _is_any_number(cell: str) -> bool:
    return cell.strip() in MISSING or _any_number(cell) is not None


def _delimiter(lines: list[str], decimal: str | None) -> str:
    """Return the mark that cuts all records into as many cells, or all below the first."""
    quoted = any('"' in line for line in lines)
    marks = "\t; " if decimal == "," and not quoted else "\t;, "
    widths = {mark: found for mark in marks if (found := _widths(lines, mark))}
    parts = lines[-1].strip().split(" ") if lines else []
    if len(parts) > 1 and all(map(_DECIMAL_COMMA.fullmatch, parts)):
        return " "
    for shorter in (0, 1):  # the header of R's row names is one cell shorter
        for mark, (head, *below) in widths.items():
            if head + shorter > 1 and all(width == head + shorter for width in below):
                return mark
    for mark, (head, *below) in widths.items():
        if head > 1 and (mark != " " or max(below, default=2) > 1):  # else blanks are in a name
            return mark
    return "\t"


def _widths(lines: list[str], mark: str) -> list[int]:
    """Return into how many cells a mark cuts each record; nothing if it cannot."""
    if not any(mark in line.strip() for line in lines):
        return []
    try:
        return [len(cells) for _, cells in _records(lines, mark)]
    except csv.Error:  # nearly all of a long line would be one cell
        return []


def _like_names(rows: list[list[str]]) -> bool:
    """Return whether the first row rises or falls as no other, or is far from all others."""
    columns = [c for c in zip(*rows, strict=False) if None not in map(_any_number, c)]
    if len(columns) < 3 or len(rows) < 2:
        return False
    X = np.array([[_any_number(cell) for cell in column] for column in columns], np.float64).T
    first, others = X[0], X[1:]
    rising = np.sign(np.diff(X, axis=1))
    monotone = np.abs(rising.sum(axis=1)) == rising.shape[1]
    if monotone[0] and not monotone[1:].any():
        return True
    low, high = others.min(axis=0), others.max(axis=0)
    away = np.maximum(low - first, first - high)
    return len(others) > 1 and bool((away > 2 * (high - low)).all())


def _is_header(head: list[str]) -> bool:
    """Return whether the first line has names: words and no numbers, or what pandas writes."""
    cells = [cell.strip() for cell in head]
    if all(_any_number(cell) is None for cell in cells if cell not in MISSING):
        return any(cell not in MISSING for cell in cells)
    # Numbers are data, except the names that pandas gives columns by default: nobody would notice
    # such a row among the data.
    counted = len(cells) > 2 and cells == [str(j) for j in range(len(cells))]
    return counted or not cells[0]  # the corner above the index


def _names(head: list[str] | None, rows: list[list[str]]) -> tuple[list[str], int]:
    """Return the names of the columns, and how many cells a row has."""
    width = len(rows[0])
    names = [str(j + 1) for j in range(width)] if head is None else head
    if any(len(row) != width for row in rows) or width < len(names):
        return names, len(names)
    full = 1 + max((j for j in range(width) if any(row[j].strip() for row in rows)), default=0)
    named = 1 + max((j for j, name in enumerate(names) if name.strip()), default=0)
    if head is None:  # rows, and perhaps the header, end in delimiters
        return names[:full], width
    if width > len(names) and full == named + 1 and len({row[0] for row in rows}) == len(rows):
        return ["", *names[:named]], width  # R's row names
    if full <= len(names):
        return names[: max(full, named)], width
    return names, len(names)
