"""Maps as people have them: tables in CSV, TSV, NumPy, Parquet and AnnData files."""

import importlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptsne_keras.io import tables
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import validation

# Rows that an error names, at most.
_NAMED = 3
Ids = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Map:
    """Map coordinates, with a name for each row if the file has them.

    Attributes
    ----------
    Y : array [N, d]
        Coordinates.
    ids : array of str [N] or None
        Names of the rows.

    Examples
    --------
    >>> Map(Y, None).Y.shape
    (200, 2)
    """

    Y: FloatArray
    ids: Ids | None

    def of(self, ids: Any) -> FloatArray:
        """Coordinates [n, d] of the rows with these names, in their order.

        Raises
        ------
        ValueError
            If the map has no names, a name is there twice, or one has no place on the map; the
            first few are named.

        Examples
        --------
        >>> Map(Y, np.arange(200).astype(str)).of(["3", "1"]).shape
        (2, 2)
        """
        if self.ids is None:
            raise ValueError(
                "Rows should be matched by position, since this map has no names for them: use Y, "
                f"or read it with ids=, the column that has them. Received: {np.size(ids)} names."
            )
        given = np.asarray(ids)
        if given.ndim != 1:
            raise ValueError(f"ids should be a list of names. Received: shape {given.shape}.")
        if given.dtype.kind == "f" and (given == np.rint(given)).all():
            given = given.astype(np.int64)
        wanted = given.astype(str)
        _check_unique(self.ids, "The map")
        place = {name: row for row, name in enumerate(self.ids.tolist())}
        missing = [name for name in wanted.tolist() if name not in place]
        if missing:
            raise ValueError(
                "Each row should have its place on the map, by names compared as text. "
                f"Received: {len(missing)} rows without: {_listed(missing)}; the map's own "
                f"begin with {_listed(self.ids.tolist())}."
            )
        return self.Y[[place[name] for name in wanted.tolist()]]


def read(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    ids: str | None = None,
    key: str | None = None,
) -> Map:
    """Read a map, whatever program wrote it.

    - `.csv`, `.tsv`, `.txt`, also `.gz`: of R's `write.csv(Rtsne(...)$Y)`, `write.csv2` and
      `write.table`, pandas and others, with or without header and row names.
    - `.npy`: an array [N, d].
    - `.parquet`: needs `pyarrow`.
    - `.h5ad`: an AnnData file, needs `anndata`.

    Parameters
    ----------
    path : path
        The file.
    columns : sequence of str, optional
        Names of the columns with coordinates; needed where a table has other numbers besides.
    ids : str, optional
        Name of the column with the rows' names. By default R's row names, a first column of text,
        the index that pandas has put into a Parquet file, `obs_names` of AnnData, or none.
    key : str, optional
        Which of `obsm` of an AnnData file, "X_tsne" by default.

    Returns
    -------
    Map

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If what reads the format is not installed.
    ValueError
        If the table is not one of two coordinates a row, or a coordinate is missing, NaN or not a
        number; rows are named.

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
    suffix = file.suffix.lower()
    suffix = "".join(file.suffixes[-2:]).lower() if suffix == ".gz" else suffix
    if isinstance(columns, str):
        raise ValueError(f"columns should be a list of names. Received: {columns!r}.")
    if suffix == ".npy":
        return _from_numpy(file, columns, ids)
    if suffix == ".parquet":
        return _from_parquet(file, columns, ids)
    if suffix == ".h5ad":
        return from_anndata(_needed("anndata", file).read_h5ad(file), key)
    if suffix in (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz"):
        return _from_text(file, columns, ids)
    raise ValueError(
        "path should end in .csv, .tsv, .txt (also .gz), .npy, .parquet or .h5ad. "
        f"Received: {file}."
    )


def from_anndata(data: Any, key: str | None = None) -> Map:
    """Take a map from an AnnData object in memory: `obsm[key]`, "X_tsne" by default.

    Raises
    ------
    ValueError
        If there is no such map; those that are there are named.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> cells = SimpleNamespace(obsm={"X_tsne": Y}, obs_names=[f"cell {i}" for i in range(200)])
    >>> str(from_anndata(cells).ids[3])
    'cell 3'
    """
    key = "X_tsne" if key is None else key
    if key not in data.obsm:
        raise ValueError(
            f"key should be one of obsm's: {', '.join(map(repr, data.obsm))}. Received: {key!r}."
        )
    return _checked(np.asarray(data.obsm[key]), np.asarray(data.obs_names).astype(str))


def _from_numpy(file: Path, columns: Sequence[str] | None, ids: str | None) -> Map:
    if columns is not None or ids is not None:
        raise ValueError(f"columns and ids should be None, since {file} has no names.")
    try:
        Y = np.load(file, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{file} should be an array of numbers. Received: {error}") from error
    if Y.ndim == 2 and Y.shape[1] > Y.shape[0]:
        raise ValueError(
            f"{file} should have a row for each place: save its transpose. "
            f"Received: shape {Y.shape}."
        )
    return _checked(Y, None)


def _from_parquet(file: Path, columns: Sequence[str] | None, ids: str | None) -> Map:
    frame = _needed("pyarrow.parquet", file).read_table(file)
    names: list[str] = frame.column_names
    pandas = json.loads((frame.schema.metadata or {}).get(b"pandas", b"{}"))
    index = [name for name in pandas.get("index_columns", []) if name in names]
    ids = index[0] if ids is None and len(index) == 1 else ids
    values = {name: frame.column(name).to_numpy() for name in names}
    numeric = [name for name in names if values[name].dtype.kind in "fiu" and name not in index]
    chosen = _coordinates(numeric, names, columns, ids)
    Y = np.column_stack([values[name] for name in chosen])
    return _checked(Y, None if ids is None else np.asarray(frame.column(ids).cast("string"), str))


def _from_text(file: Path, columns: Sequence[str] | None, ids: str | None) -> Map:
    table = tables.read(file, [*(columns or ()), *([] if ids is None else [ids])])
    names, numeric = table.names, table.numeric()
    # Names of rows come first: R's row names and the index of pandas, with a title or without.
    if ids is None and (names[0] == "" or (names[0] not in numeric and len(names) > 1)):
        ids = names[0]
    chosen = _coordinates(numeric, names, columns, ids)
    return _checked(table.numbers(chosen), None if ids is None else np.asarray(table.text(ids)))


def _coordinates(
    numeric: list[str], names: list[str], columns: Sequence[str] | None, ids: str | None
) -> list[str]:
    """Names of the columns that hold the map."""
    for name in (*(columns or ()), *(() if ids is None else (ids,))):
        if name not in names:
            raise ValueError(
                f"columns and ids should be among {', '.join(map(repr, names))}. "
                f"Received: {name!r}."
            )
    if columns is not None:
        return list(columns)
    found = [name for name in numeric if name != ids]
    if len(found) != 2:
        raise ValueError(
            "columns should name those with coordinates where not exactly two columns have "
            f"numbers. Received: none, and numbers in {', '.join(map(repr, found)) or 'no column'}."
        )
    return found


def _checked(Y: Any, ids: Ids | None) -> Map:
    Y = np.asarray(Y)
    if ids is not None and Y.ndim == 2:
        bad = np.flatnonzero(~np.isfinite(Y.astype(float)).all(axis=1))
        if bad.size:
            raise ValueError(
                "The map should be finite; drop the rows with NaN, infinity or nothing. "
                f"Received: {bad.size} such rows: {_listed(ids[bad].tolist())}."
            )
    with np.errstate(over="ignore"):
        Y = validation.check_rows(Y, name="The map").astype(np.float32)
    return Map(validation.check_rows(Y, name="The map, as float32,"), ids)


def _check_unique(ids: Ids, what: str) -> None:
    names, counts = np.unique(ids, return_counts=True)
    twice = names[counts > 1].tolist()
    if twice:
        raise ValueError(
            f"{what} should name each row once. Received: {len(twice)} names that are there "
            f"twice or more: {_listed(twice)}."
        )


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:_NAMED]))
    return shown + (", …" if len(names) > _NAMED else "")


def _needed(module: str, file: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(
            f"Reading {file.suffix} files should have {package} installed: "
            f"pip install {package}. Received: {error}."
        ) from error
