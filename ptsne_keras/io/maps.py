"""Maps in files: read those of any program, write CSV, .npy and Parquet."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptsne_keras.io._sources import Source, open_source
from ptsne_keras.io.tables import Layout
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import files, validation
from ptsne_keras.utils import labels as labels_of
from ptsne_keras.utils.optional import require

ENDINGS = (".csv", ".npy", ".parquet")
"""Of the files that `write` writes."""
# Columns that `write` puts beside the coordinates.
_BESIDE = ("id", "label", "novelty")
# Names that an error lists, at most.
_LISTED = 3


@dataclass(frozen=True)
class Map:
    """Coordinates of rows, with their names and labels if the file has them.

    Attributes
    ----------
    Y : ndarray of shape (n_samples, n_components)
        Coordinates, float32.
    ids : ndarray of str of shape (n_samples,) or None
        Names of the rows.
    labels : ndarray of shape (n_samples,) or None
        Labels of the rows, numbers or text; None where a label is missing.

    Examples
    --------
    >>> Map(Y).Y.shape
    (200, 2)
    """

    Y: FloatArray
    ids: npt.NDArray[np.str_] | None = None
    labels: Any = None

    def of(self, ids: Any) -> FloatArray:
        """Return the coordinates of the rows with these names, in their order.

        Parameters
        ----------
        ids : array-like of shape (n_samples,)
            Names, compared as text.

        Returns
        -------
        ndarray of shape (n_samples, n_components)

        Raises
        ------
        ValueError
            If the map has no names, has one twice, or lacks one; the first few are listed.

        Examples
        --------
        >>> Map(Y, np.arange(200).astype(str)).of(["3", "1"]).shape
        (2, 2)
        """
        if self.ids is None:
            raise ValueError(
                "Rows should be matched by position, since this map has no names for them: use Y, "
                f"or read it with ids=, the column with names. Received: {np.size(ids)} names."
            )
        given = np.asarray(ids)
        if given.ndim != 1:
            raise ValueError(f"ids should be a list of names. Received: shape {given.shape}.")
        if given.dtype.kind == "f" and (given == np.rint(given)).all():
            given = given.astype(np.int64)
        names, counts = np.unique(self.ids, return_counts=True)
        twice = names[counts > 1].tolist()
        if twice:
            raise ValueError(
                f"The map should name each row once. Received: {len(twice)} names that occur "
                f"twice or more: {_listed(twice)}."
            )
        place = {name: row for row, name in enumerate(self.ids.tolist())}
        asked = given.astype(str).tolist()
        missing = [name for name in asked if name not in place]
        if missing:
            raise ValueError(
                "Each row should have its place on the map, by names compared as text. "
                f"Received: {len(missing)} rows without: {_listed(missing)}; the map's own "
                f"begin with {_listed(self.ids.tolist())}."
            )
        return self.Y[[place[name] for name in asked]]


def read(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    ids: str | None = None,
    labels: str | None = None,
    obsm: str | None = None,
    header: bool | None = None,
) -> Map:
    """Read a map, whatever program wrote it.

    - `.csv`, `.tsv`, `.txt`, also `.gz`: from R's `write.csv(Rtsne(...)$Y)`, `write.csv2` and
      `write.table`, pandas and others, with or without header and row names.
    - `.npy`: an array of shape (n_samples, n_components).
    - `.parquet`: needs `pyarrow`.
    - `.h5ad`: an AnnData file; needs `anndata`.

    Parameters
    ----------
    path : path-like
        The file.
    columns : sequence of str, default=None
        Names of the columns with coordinates. Needed only where a table has other numbers too;
        the files of `ptsne fit` and `ptsne transform` are known.
    ids : str, default=None
        Name of the column with the names of the rows. By default R's row names, a first column of
        text, the index that pandas puts into a Parquet file, `obs_names` of AnnData, the "id" of
        `ptsne`, or none.
    labels : str, default=None
        Name of the column with labels. By default the "label" of `ptsne`, or none.
    obsm : str, default="X_tsne"
        Which `obsm` of an AnnData file.
    header : bool, default=None
        Whether the first line of a text file has the names of the columns. By default it has if
        it is made of words, or of the numbers that pandas gives to columns.

    Returns
    -------
    Map

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModuleNotFoundError
        If the package that reads the format is not installed.
    ValueError
        If the file is not a map: there are not exactly two columns of numbers to take, or a
        coordinate is missing, NaN or not a number. Rows are named.

    Examples
    --------
    >>> np.save("map.npy", Y)
    >>> read("map.npy").Y.shape
    (200, 2)
    >>> Y = read("Rtsne.csv").of(names)  # doctest: +SKIP
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"path should be a file with a map. Received: {file}.")
    if isinstance(columns, str):
        raise ValueError(f"columns should be a list of names. Received: {columns!r}.")
    suffix = file.suffix.lower()
    obsm = "X_tsne" if suffix == ".h5ad" and obsm is None else obsm
    source = open_source(file, obsm=obsm, layout=Layout(header=header))
    if suffix == ".npy" and (columns or ids):
        raise ValueError(f"columns and ids should be left out, since {file} has no names.")
    if suffix == ".npy" and len(source.names) > (source.count or 0):
        raise ValueError(
            f"{file} should have a row for each place: save its transpose. "
            f"Received: shape {(source.count, len(source.names))}."
        )
    chosen, ids, labels = _columns(source, columns, ids, labels)
    texts = [name for name in (ids, labels) if name is not None]
    parts = list(source.blocks(chosen, list(dict.fromkeys(texts))))
    beside = {name: np.concatenate([others[name] for _, others in parts]) for name in texts}
    return _checked(
        np.concatenate([np.asarray(Y) for Y, _ in parts]),
        None if ids is None else labels_of.as_text(beside[ids]),
        None if labels is None else labels_of.as_numbers(labels_of.as_labels(beside[labels])),
    )


def from_anndata(data: Any, obsm: str = "X_tsne") -> Map:
    """Return a map of an AnnData object in memory.

    Parameters
    ----------
    data : anndata.AnnData
    obsm : str, default="X_tsne"
        Which of its `obsm`.

    Returns
    -------
    Map
        With `obs_names` as ids.

    Raises
    ------
    ValueError
        If there is no such `obsm`; those that there are are listed.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> cells = SimpleNamespace(obsm={"X_tsne": Y}, obs_names=[f"cell {i}" for i in range(200)])
    >>> str(from_anndata(cells).ids[3])
    'cell 3'
    """
    if obsm not in data.obsm:
        there = ", ".join(map(repr, data.obsm)) or "there are none"
        raise ValueError(f"obsm should be one of the data's: {there}. Received: {obsm!r}.")
    return _checked(np.asarray(data.obsm[obsm]), np.asarray(data.obs_names).astype(str))


def write(path: str | os.PathLike[str], parts: Iterable[tuple[FloatArray, dict[str, Any]]]) -> int:
    """Write a map that comes in parts, and return the number of rows.

    Parameters
    ----------
    path : path-like
        A file that ends in .csv, .npy or .parquet; it is replaced when all parts are written.
    parts : iterable of (ndarray of shape (b, n_components), dict)
        Coordinates, and columns of b values beside them, such as "id" and "label".

    Examples
    --------
    >>> write("map.csv", [(Y, {"label": np.repeat(["a", "b"], 100)})])
    200
    """
    file = Path(path)
    writer = {".csv": _write_csv, ".npy": _write_npy, ".parquet": _write_parquet}
    with files.replacing(file, make_parents=True) as beside:
        return writer[file.suffix.lower()](beside, parts)


def coordinate_names(d: int) -> list[str]:
    """Return the names of a map's columns: x, y, z, or y1, y2, … where there are more."""
    return list("xyz"[:d]) if d <= 3 else [f"y{i + 1}" for i in range(d)]


def _columns(
    source: Source, columns: Sequence[str] | None, ids: str | None, labels: str | None
) -> tuple[list[str], str | None, str | None]:
    """Return the names of coordinates, ids and labels: those asked for, or what suits the file."""
    names = source.names
    own = [name for name in names if name not in (*_BESIDE, ids, labels)]
    if columns is None and source.named and own == coordinate_names(len(own)):
        columns = own
        ids = "id" if ids is None and "id" in names else ids
        labels = "label" if labels is None and "label" in names else labels
    if ids is None:
        text = names[0] not in source.numeric and len(names) > 1
        ids = source.ids if source.ids is not None or not text else names[0]
    known = {*names, *source.beside}
    for argument, asked in (("columns", columns), ("ids", [ids]), ("labels", [labels])):
        for name in asked or ():
            if name is not None and name not in known:
                raise ValueError(
                    f"{argument} should be among {', '.join(map(repr, names))}. Received: {name!r}."
                )
    if columns is not None or (not source.named and source.file.suffix in (".npy", ".h5ad")):
        return list(names if columns is None else columns), ids, labels
    found = [n for n in source.numeric if n not in (ids, labels) and n not in source.index]
    if len(found) != 2:
        raise ValueError(
            "columns should name those with coordinates where not exactly two columns have "
            f"numbers. Received: none, and numbers in {', '.join(map(repr, found)) or 'no column'}."
        )
    return found, ids, labels


def _checked(Y: Any, ids: Any = None, labels: Any = None) -> Map:
    """Return a map of finite float32 coordinates, or name the rows that have none."""
    if ids is not None and Y.ndim == 2 and Y.dtype.kind in "fiub":
        bad = np.flatnonzero(~np.isfinite(Y).all(axis=1))
        if bad.size:
            raise ValueError(
                "The map should be finite; drop the rows with NaN, infinity or nothing. "
                f"Received: {bad.size} such rows: {_listed(ids[bad].tolist())}."
            )
    return Map(validation.check_rows(Y, name="The map", dtype=np.float32), ids, labels)


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:_LISTED]))
    return shown + (", …" if len(names) > _LISTED else "")


def _write_csv(file: Path, parts: Iterable[tuple[FloatArray, dict[str, Any]]]) -> int:
    count = 0
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        for Y, others in parts:
            before = {name: others[name] for name in ("id", "label") if name in others}
            after = {name: values for name, values in others.items() if name not in before}
            if not count:
                writer.writerow([*before, *coordinate_names(Y.shape[1]), *after])
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
    parquet = require("pyarrow.parquet", extra="parquet", purpose=f"Writing {file.suffix} files")
    pyarrow = require("pyarrow", extra="parquet", purpose=f"Writing {file.suffix} files")
    count, writer = 0, None
    try:
        for Y, others in parts:
            coordinates = zip(coordinate_names(Y.shape[1]), np.ascontiguousarray(Y.T), strict=True)
            # A block whose labels are all missing would have no type.
            text = {
                name: pyarrow.array(values, "string")
                for name, values in others.items()
                if values.dtype.kind == "O" and all(isinstance(v, str | None) for v in values)
            }
            table = pyarrow.table({**others, **text, **dict(coordinates)})
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
            count += len(Y)
    finally:
        if writer is not None:
            writer.close()
    return count
