"""Maps in files: read those of any program, write CSV, .npy and Parquet."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ptsne_keras.io._sources import Choice, RowFile, listed
from ptsne_keras.io.rows import Reader, open_source
from ptsne_keras.io.tables import number
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import files, validation
from ptsne_keras.utils.optional import require

Part = tuple[FloatArray, dict[str, Any]]
"""Places of some rows, and columns beside them."""
ENDINGS = (".csv", ".npy", ".parquet")
"""Of the files that `write` writes."""
OBSM = "X_ptsne"
"""The name of a map in AnnData."""
# First characters of what a spreadsheet runs.
_RUN = ("=", "+", "-", "@", "\t", "\r")
# Columns that `write` puts beside the coordinates.
_BESIDE = ("id", "label", "novelty")


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
    """

    Y: FloatArray
    ids: npt.NDArray[np.str_] | None = None
    labels: Any = None

    def of(self, ids: Any, *, match: Literal["id", "position"] | None = None) -> FloatArray:
        """Return the coordinates of the rows with these names, in their order.

        Parameters
        ----------
        ids : array-like of shape (n_samples,)
            Names, compared as text.
        match : {"id", "position"}, default=None
            Whether rows are matched by their names, or the map has them in this order already. By
            default by names; an error asks where these may be mere numbers of rows.

        Returns
        -------
        ndarray of shape (n_samples, n_components)

        Raises
        ------
        ValueError
            If the map has no names, has one twice, or lacks one; the first few are listed. If its
            names count its rows, and `ids` are the same numbers in another order.

        Examples
        --------
        >>> Map(Y, np.arange(200).astype(str)).of(["3", "1"]).shape
        (2, 2)
        """
        import pandas

        if match not in (None, "id", "position"):
            raise ValueError(f"match should be 'id', 'position' or None. Received: {match!r}.")
        if match == "position":
            if np.shape(ids) != (len(self.Y),):
                raise ValueError(
                    f"ids should be one for each of the map's {len(self.Y)} rows to be matched by "
                    f"position. Received: shape {np.shape(ids)}."
                )
            return self.Y
        if self.ids is None:
            raise ValueError(
                "Rows should be matched by position, since this map has no names for them: use Y, "
                f"or read it with ids=, the column with names. Received: {np.size(ids)} names."
            )
        given = np.asarray(validation.unmasked(ids, "ids"))
        if given.ndim != 1:
            raise ValueError(f"ids should be a list of names. Received: shape {given.shape}.")
        if given.dtype.kind == "f" and (given == np.rint(given)).all():
            given = given.astype(np.int64)
        names, given = pandas.Index(self.ids), given.astype(str)
        if not names.is_unique:
            twice = listed(names[names.duplicated()].unique())
            raise ValueError(f"The map should name each row once. Received: {twice} several times.")
        place = names.get_indexer(given)
        if (place < 0).any():
            raise ValueError(
                "Each row should have its place on the map, by names compared as text. Received: "
                f"no place for {listed(given[place < 0].tolist())}; the map has {listed(names)}."
            )
        if match is None and _counts(self.ids) and len(place) == len(names):
            self._check_order(place, given)
        return self.Y[place]

    def _check_order(self, place: Any, given: Any) -> None:
        """Raise where numbers of rows meet the same numbers in another order."""
        if (place != np.arange(len(place))).any() and len(np.unique(place)) == len(place):
            raise ValueError(
                "match should be 'id' or 'position' where the map's names only count its rows, and "
                f"the rows' are the same numbers in another order: {listed(given.tolist())}. "
                "Received: None."
            )


def _counts(ids: Any) -> bool:
    """Return whether names are 0, 1, 2, … or 1, 2, 3, and so on."""
    first = str(ids[0])
    return first in ("0", "1") and ids.tolist() == [str(int(first) + i) for i in range(len(ids))]


def read(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    ids: str | None = None,
    labels: str | None = None,
    obsm: str | None = None,
    header: bool | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
) -> Map:
    """Read a map, whatever program wrote it.

    `.csv`, `.tsv` and `.txt`, also `.gz`, as R's `write.csv(Rtsne(...)$Y)`, `write.csv2` and
    `write.table`, pandas and others write them; `.npy`; `.parquet` (needs `pyarrow`); `.h5ad`
    (needs `anndata`).

    Parameters
    ----------
    path : path-like
        The file.
    columns : sequence of str, default=None
        Names of the columns with coordinates. Needed only where a table has other numbers too;
        the files of `ptsne fit` and `ptsne transform` are known.
    ids : str, default=None
        Name of the column with the names of the rows. By default R's or pandas' row names,
        `obs_names` of AnnData, the "id" of `ptsne`, a first column of text, or none.
    labels : str, default=None
        Name of the column with labels. By default the "label" of `ptsne`, or none.
    obsm : str, default=None
        Which `obsm` of an AnnData file; by default "X_tsne".
    header : bool, default=None
        Whether the first line of a text file has the names of the columns; by default the file
        tells.
    delimiter, decimal, thousands : str, default=None
        Marks of a text file: between cells (" " for any number of blanks), of decimals, and between
        groups of three digits; by default the file tells.

    Raises
    ------
    FileNotFoundError, ModuleNotFoundError
        If there is no such file, or the package that reads it is not installed.
    ValueError
        If there are not exactly two columns of numbers to take, or a coordinate is missing or not
        a finite number. Row and column are named.

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
    marks = {"delimiter": delimiter, "decimal": decimal, "thousands": thousands}
    source = open_source(file, Choice(obsm=obsm, header=header, **marks))
    if suffix == ".npy" and len(source.names) > (source.count or 0):
        raise ValueError(
            f"{file} should have a row for each place: save its transpose. "
            f"Received: shape {(source.count, len(source.names))}."
        )
    rows = Reader(source, _choice(source, columns, ids, labels)).read()
    return Map(np.array(rows.X, np.float32), rows.ids, rows.labels)


def from_anndata(data: Any, obsm: str = "X_tsne") -> Map:
    """Return a map of an AnnData object in memory, with `obs_names` as ids.

    Parameters
    ----------
    data : anndata.AnnData
    obsm : str, default="X_tsne"
        Which of its `obsm`.

    Raises
    ------
    ValueError
        If there is no such `obsm`; the error lists those of the data.

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
    Y = validation.check_rows(data.obsm[obsm], name=f"obsm {obsm!r}", dtype=np.float32)
    return Map(Y, np.asarray(data.obs_names).astype(str))


def endings(source: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the endings of the files that a map of the rows in a file can be written to.

    Examples
    --------
    >>> endings("cells.h5ad")
    ('.csv', '.npy', '.parquet', '.h5ad')
    """
    return (*ENDINGS, ".h5ad") if Path(source).suffix.lower() == ".h5ad" else ENDINGS


def write(
    path: str | os.PathLike[str],
    parts: Iterable[Part],
    *,
    spreadsheet_safe: bool = False,
    source: str | os.PathLike[str] | None = None,
    obsm: str = OBSM,
) -> int:
    """Write a map that comes in parts, and return the number of rows.

    Parameters
    ----------
    path : path-like
        A file that ends in .csv, .npy or .parquet, or in .h5ad with a `source`; it is replaced when
        all parts are written.
    parts : iterable of (ndarray of shape (b, n_components), dict)
        Coordinates, and columns of b values beside them, such as "id" and "label". Those of a
        pandas.DataFrame keep their names.
    spreadsheet_safe : bool, default=False
        Whether a text in a .csv file that a spreadsheet would run (=, +, - or @ first, and no
        number) gets an apostrophe before it. It is another text then, as far as `read` knows.
    source : path-like, default=None
        The .h5ad file of the rows, of which an .h5ad file becomes a copy with the map in `obsm`.
    obsm : str, default="X_ptsne"
        The name of the map there, as ``scanpy.pl.embedding(adata, "ptsne")`` draws it.

    Raises
    ------
    ValueError
        If the path has another ending, `spreadsheet_safe` is asked for another than .csv, or the
        source has another number of rows.

    Examples
    --------
    >>> write("map.csv", [(Y, {"label": np.repeat(["a", "b"], 100)})])
    200
    """
    file = Path(path)
    if file.suffix.lower() == ".h5ad" and source is not None:
        with files.replacing(file, make_parents=True) as beside:
            return _write_h5ad(beside, parts, Path(source).expanduser(), obsm)
    writer = {".csv": _write_csv, ".npy": _write_npy, ".parquet": _write_parquet}
    if file.suffix.lower() not in writer:
        raise ValueError(f"path should end in {', '.join(ENDINGS)}. Received: {file}.")
    if spreadsheet_safe:
        if file.suffix.lower() != ".csv":
            raise ValueError(f"spreadsheet_safe should be left out for other than .csv: {file}.")
        parts = ((Y, {name: _safe(v) for name, v in beside.items()}) for Y, beside in parts)
    with files.replacing(file, make_parents=True) as beside:
        return writer[file.suffix.lower()](beside, parts)


def coordinate_names(d: int) -> list[str]:
    """Return the names of a map's columns: x, y, z, or y1, y2, … where there are more."""
    return list("xyz"[:d]) if d <= 3 else [f"y{i + 1}" for i in range(d)]


def _choice(
    source: RowFile, columns: Sequence[str] | None, ids: str | None, labels: str | None
) -> Choice:
    """Return the columns of coordinates, ids and labels: those asked for, or what suits."""
    names = source.names
    own = [name for name in names if name not in (*_BESIDE, ids, labels)]
    # As this package writes them, and its embedders of batches do.
    ours = coordinate_names(len(own)), [f"embedding_{j + 1}" for j in range(len(own))]
    if columns is None and source.named and own in ours:
        columns = own
        ids = "id" if ids is None and "id" in names else ids
        labels = "label" if labels is None and "label" in names else labels
    if ids is None and source.ids is None and names[0] not in (*source.numeric, labels):
        ids = names[0]
    if columns is None and (source.named or source.file.suffix not in (".npy", ".h5ad")):
        others = (ids, labels, *source.index)
        columns = [name for name in source.numeric if name not in others]
        if len(columns) != 2:
            found = ", ".join(map(repr, columns)) or "no column"
            raise ValueError(
                "columns should name those with coordinates where not exactly two columns have "
                f"numbers. Received: none, and numbers in {found}."
            )
    return Choice(columns=columns, ids=ids, labels=labels)


def _frame(Y: FloatArray, others: dict[str, Any]) -> Any:
    """Return a block of a map as a table: id and label, coordinates, anything else."""
    import pandas

    for name, values in {"Y": Y, **others}.items():
        validation.unmasked(values, name)
    frame = pandas.DataFrame(Y, columns=getattr(Y, "columns", coordinate_names(Y.shape[1])))
    before = [name for name in ("id", "label") if name in others]
    return frame.assign(**others)[[*before, *frame, *(n for n in others if n not in before)]]


def _safe(values: Any) -> Any:
    """Return texts with an apostrophe before those that a spreadsheet would run."""
    values = np.asarray(values)
    if values.dtype.kind not in "UO":
        return values
    runs = [isinstance(v, str) and v[:1] in _RUN and number(v) is None for v in values.tolist()]
    safe = values.astype(object)
    safe[runs] = [f"'{value}" for value in safe[runs]]
    return safe


def _write_csv(file: Path, parts: Iterable[Part]) -> int:
    count = 0
    with open(file, "w", encoding="utf-8", newline="") as stream:
        for Y, others in parts:
            _frame(Y, others).to_csv(stream, header=not count, index=False, lineterminator="\n")
            count += len(Y)
    return count


def _write_npy(file: Path, parts: Iterable[Part]) -> int:
    Y = np.ascontiguousarray(np.concatenate([validation.unmasked(Y, "Y") for Y, _ in parts]))
    with open(file, "wb") as stream:
        form = np.lib.format
        form.write_array_header_1_0(stream, form.header_data_from_array_1_0(Y))
        stream.write(Y.data)  # np.save would not tell that a disk is full
    return len(Y)


def _write_h5ad(file: Path, parts: Iterable[Part], source: Path, obsm: str) -> int:
    h5py = require("h5py", extra="anndata", purpose="Writing .h5ad files")
    Y = np.concatenate([Y for Y, _ in parts])
    shutil.copyfile(source, file)
    with h5py.File(file, "r+", locking=False) as whole:  # the file beside has our lock
        group = whole.require_group("obsm")
        count = {len(values) for values in group.values() if isinstance(values, h5py.Dataset)}
        if count - {len(Y)}:
            raise ValueError(
                f"{source} should have as many rows as the map, {len(Y)}. Received: {count.pop()}."
            )
        if obsm in group:
            del group[obsm]
        # The attributes by which anndata knows what it reads.
        for stored, kind, version in (
            (group, "dict", "0.1.0"),
            (group.create_dataset(obsm, data=Y), "array", "0.2.0"),
        ):
            stored.attrs["encoding-type"], stored.attrs["encoding-version"] = kind, version
    return len(Y)


def _write_parquet(file: Path, parts: Iterable[Part]) -> int:
    parquet = require("pyarrow.parquet", extra="parquet", purpose="Writing .parquet files")
    pyarrow = require("pyarrow", extra="parquet", purpose="Writing .parquet files")
    count, writer = 0, None
    with contextlib.ExitStack() as stack:
        for Y, others in parts:
            table = pyarrow.Table.from_pandas(_frame(Y, others), preserve_index=False)
            if writer is None:  # labels that are all missing have no type
                string = pyarrow.string()
                text = [f.with_type(string) if str(f.type) == "null" else f for f in table.schema]
                writer = stack.enter_context(parquet.ParquetWriter(file, pyarrow.schema(text)))
            writer.write_table(table.cast(writer.schema))
            count += len(Y)
    return count
