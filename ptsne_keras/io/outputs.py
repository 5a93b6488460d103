"""Maps into files: CSV, .npy and Parquet, written beside and renamed when all is there."""

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptsne_keras.io import formats
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import files

ENDINGS = (".csv", ".npy", ".parquet")
"""What names of files of maps end in."""


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path beside the file, as `files.replacing`, in a folder that is made if need be."""
    file = Path(path).expanduser()
    with files.made(file.parent), files.replacing(file) as beside:
        yield beside


def check(
    path: str | os.PathLike[str], endings: Sequence[str] = ENDINGS, *, option: str = "--out"
) -> Path:
    """Return a path that can be written, or raise before any work is done."""
    file = Path(path).expanduser()
    if file.suffix.lower() not in endings or file.is_dir():
        raise ValueError(
            f"{option} should be a file that ends in {', '.join(endings)}. Received: {file}."
        )
    check_writable(file.parent)
    return file


def check_writable(folder: Path) -> None:
    """Raise unless files can be put into a folder, which may have to be made."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{folder} should be a folder. Received: {existing}, a file.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{existing} should be a folder that you may write; choose another or change its mode."
        )


def columns(d: int) -> list[str]:
    """Names of a map's coordinates."""
    return list("xyz"[:d]) if d <= 3 else [f"y{i + 1}" for i in range(d)]


def write(path: str | os.PathLike[str], parts: Iterable[tuple[FloatArray, dict[str, Any]]]) -> int:
    """Write a map that comes in parts: (coordinates [b, d], what else there is of each row)."""
    with replaced(path) as beside:
        return fill(beside, parts)


def fill(file: Path, parts: Iterable[tuple[FloatArray, dict[str, Any]]]) -> int:
    """Write as :func:`write`, straight into a file that somebody else renames."""
    writer = {".csv": _write_csv, ".npy": _write_npy, ".parquet": _write_parquet}
    return writer[file.suffix.lower()](file, parts)


def _write_csv(file: Path, parts: Iterable[tuple[FloatArray, dict[str, Any]]]) -> int:
    count = 0
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        for Y, others in parts:
            before = {name: others[name] for name in ("id", "label") if name in others}
            after = {name: values for name, values in others.items() if name not in before}
            if not count:
                writer.writerow([*before, *columns(Y.shape[1]), *after])
            # As few digits as give the same float32 again.
            coordinates = [map(str, Y[:, j]) for j in range(Y.shape[1])]
            writer.writerows(zip(*before.values(), *coordinates, *after.values(), strict=True))
            count += len(Y)
    return count


def _write_npy(file: Path, parts: Iterable[tuple[FloatArray, dict[str, Any]]]) -> int:
    Y = np.concatenate([Y for Y, _ in parts])
    np.save(file, Y)
    return len(Y)


def _write_parquet(file: Path, parts: Iterable[tuple[FloatArray, dict[str, Any]]]) -> int:
    parquet = formats.needed("pyarrow.parquet", file, "parquet")
    pyarrow = formats.needed("pyarrow", file, "parquet")
    count, writer = 0, None
    try:
        for Y, others in parts:
            named = dict(zip(columns(Y.shape[1]), np.ascontiguousarray(Y.T), strict=True))
            # Labels of which a block is all missing would have no type.
            text = {
                name: pyarrow.array(values, "string")
                for name, values in others.items()
                if values.dtype.kind == "O" and all(isinstance(v, str | None) for v in values)
            }
            table = pyarrow.table({**others, **text, **named})
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
            count += len(Y)
    finally:
        if writer is not None:
            writer.close()
    return count
