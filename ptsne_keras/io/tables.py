"""Tables in text files: CSV, TSV and blank-separated, read in chunks by pandas.

The layout is found in the first rows: the delimiter, comments above the header, whether there is a
header, R's row names, decimal commas.
"""

import contextlib
import csv
import gzip
import itertools
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptsne_keras.io._sources import Blocks, Choice, RowFile, not_numbers
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils.labels import MISSING

ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
# Cells that are held as text at a time.
_CELLS = 1 << 20
# Rows, and characters, from which the layout is found.
_LOOKED_AT, _CHARACTERS = 100, 1 << 20
_TRUTH = {"true": 1.0, "false": 0.0}
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+([eE][-+]?\d+)?")
_GROUPS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")


class TextTable(RowFile):
    """Rows in a text file, which may be compressed by gzip."""

    def __init__(self, file: Path, choice: Choice) -> None:
        with reading(file) as stream:
            self._above, self._mark, header, records = _top(stream, choice.delimiter)
        lines, rows = [line for line, _ in records], [cells for _, cells in records]
        header = header or choice.header
        if header is None:
            header = len(rows) > 0 and _is_header(rows[0])
        head = rows.pop(0) if header and rows else None
        if not rows:
            raise ValueError(f"{file} should be a table of rows. Received: {len(lines)} lines.")
        names, self._width = _names(head, rows)
        super().__init__(file, names)
        self.named, self._above = head is not None, self._above if head is None else lines[0]
        if "" in names:
            self.ids, self.index = "", ("",)
        self._thousands = choice.thousands
        self._decimal = choice.decimal or _decimal(file, rows, self._mark, self._thousands)
        self._checked = False
        if len(rows[0]) != self._width:  # pandas would not tell
            self._check(())
        first = zip(names, rows[0], strict=False)
        self.numeric = [name for name, cell in first if self._is_number(cell)]

    def blocks(self, features: Sequence[str], texts: Sequence[str]) -> Blocks:
        """Yield these columns as numbers [b, D], NaN where one is missing, and others as text."""
        import pandas

        place = {name: j for j, name in enumerate(self.names)}
        numbers = [place[name] for name in features]
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
            for _ in range(self._above):
                next(stream)
            try:
                for chunk in pandas.read_csv(stream, **options):
                    others = {name: np.asarray(chunk[place[name]], dtype=str) for name in texts}
                    yield self._numbers(chunk, numbers), others
            except pandas.errors.ParserError as error:
                self._check(numbers)
                raise ValueError(f"{self.file} should be a table. Received: {error}") from error

    def _numbers(self, chunk: Any, numbers: list[int]) -> FloatArray:
        others, chosen = chunk.drop(columns=numbers), chunk[numbers]
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            if any(dtype.kind == "O" for dtype in chosen.dtypes):
                chosen = chosen.map(self._value).astype(np.float64)
            X = chosen.to_numpy(np.float32)
        last = self._width - 1
        extra = self._width > len(self.names) and chunk[last].str.strip().any()
        # pandas fills up rows that are too short.
        if np.isnan(X).any() or extra or (last in others and (others[last] == "").any()):
            self._check(numbers)
        return X

    def _value(self, cell: Any) -> float | None:
        return number(cell, self._decimal, self._thousands) if isinstance(cell, str) else cell

    def _is_number(self, cell: str) -> bool:
        return cell.strip() in MISSING or self._value(cell) is not None

    def _check(self, numbers: Sequence[int]) -> None:
        """Raise for the first row of another length, or without a number where one is wanted."""
        if self._checked:
            return
        with reading(self.file) as stream:
            body = itertools.islice(stream, self._above, None)
            for row, (line, cells) in enumerate(_records(body, self._mark, self._above)):
                width = len(cells) - (self._width > len(self.names) and not cells[-1].strip())
                if width != len(self.names):
                    raise ValueError(
                        f"{self.file} should have {len(self.names)} cells in every row. "
                        f"Received: {len(cells)} in line {line}."
                    )
                for j in numbers:
                    if not self._is_number(cells[j]):
                        received = f"{cells[j]!r} in line {line}"
                        if row == 0 and not self.named:
                            received += " (header=True if that line names the columns)"
                        raise not_numbers(self.names[j], self.file, received)
        self._checked = True


@contextlib.contextmanager
def reading(file: Path) -> Iterator[Any]:
    """Open a text file, compressed or not; errors in it name the file and what to do."""
    zipped = file.suffix.lower() == ".gz"
    how: dict[str, Any] = {"mode": "rt", "encoding": "utf-8-sig", "newline": ""}
    try:
        with gzip.open(file, **how) if zipped else open(file, **how) as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        rule = "a whole gzip file, not truncated or damaged: fetch or save it again"
        raise ValueError(f"{file} should be {rule}. Received: {error}.") from error
    except csv.Error as error:
        rule = "a table with shorter cells; look for a quote that is not closed"
        raise ValueError(f"{file} should be {rule}. Received: {error}.") from error
    except UnicodeDecodeError as error:
        rule = "text in UTF-8: save it as that" + "; it may also be damaged" * zipped
        raise ValueError(f"{file} should be {rule}. Received: {error.reason}.") from error


def number(cell: str, decimal: str = ".", thousands: str | None = None) -> float | None:
    """Return the number in a cell, 1 for "True" and 0 for "False", or None."""
    cell = cell.strip()
    if "_" in cell or (decimal != "." and "." in cell):  # Python takes 1_000
        return None
    cell = cell.replace(thousands, "") if thousands else cell
    try:
        return float(cell.replace(decimal, "."))
    except ValueError:
        return _TRUTH.get(cell.lower())


def _top(
    stream: Any, mark: str | None
) -> tuple[int, str, bool | None, list[tuple[int, list[str]]]]:
    """Return the lines to skip, the delimiter, True if "#" marks a header, and first records."""
    lines = [*stream.readlines(_CHARACTERS), *itertools.islice(stream, 3)]
    if any("\0" in line for line in lines):
        raise UnicodeDecodeError("utf-8", b"\0", 0, 1, "bytes of 0, as UTF-16 has them")
    full = [i for i, line in enumerate(lines) if line.strip()]
    # If all lines begin with "#", so do the names of the rows.
    start = next((i for i in full if lines[i][0] != "#"), full[0] if full else 0)
    above = [i for i in full if i < start]
    if full and (told := re.fullmatch(r'"?sep=(.)"?', lines[start].strip())):  # Excel
        mark, start, above = mark or told[1], start + 1, []
    mark = mark or _delimiter([line.lstrip("# ") for line in lines[start : start + _LOOKED_AT]])
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


def _delimiter(lines: list[str]) -> str:
    """Return the mark that cuts all records into as many cells, or all below the first."""
    marks = [mark for mark in "\t;," if any(mark in line for line in lines)]
    widths = {mark: [len(cells) for _, cells in _records(lines, mark)] for mark in marks}
    parts = lines[-1].strip().split(" ") if lines else []
    if len(parts) > 1 and all(map(_DECIMAL_COMMA.fullmatch, parts)):
        return " "
    for shorter in (0, 1):  # the header of R's row names is one cell shorter
        for mark, (head, *below) in widths.items():
            if head + shorter > 1 and all(width == head + shorter for width in below):
                return mark
    return next((mark for mark in widths if widths[mark][0] > 1), " " if lines else ",")


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
    blank = width > 1 and not any(row[-1].strip() for row in rows)  # rows end in a delimiter
    if width == len(names) + 1 and all(len(row) == width for row in rows):
        if blank:  # and the header does not
            return names, width
        if len({row[0] for row in rows}) == len(rows):  # R's row names
            return ["", *names], width
    if blank and len(names) == width and (head is None or not names[-1]):
        return names[:-1], width
    return names, len(names)


def _decimal(file: Path, rows: list[list[str]], mark: str, thousands: str | None) -> str:
    """Return the decimal mark of the columns of numbers, or raise where it is in doubt."""
    if mark == "," or thousands:
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
