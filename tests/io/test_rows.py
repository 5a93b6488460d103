"""Rows come out of every kind of file as they were put in; what is wrong with a file is named."""

import decimal
import gzip
import io
import os
import resource
import zipfile

import anndata
import fuzz
import h5py
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import scipy.sparse
from support.tables import KINDS, NAMES, SAMPLES

from ptsne_keras.io import _sources, rows, tables
from ptsne_keras.io.rows import Choice, Reader


def write(frame, X, folder, form):
    """Write a file; its rows want these options."""
    file = folder / f"rows{form}"
    named = Choice(ids="sample", labels="kind")
    if form in (".csv", ".csv.gz"):
        frame.to_csv(file, index=False)
    elif form == ".tsv":
        frame.to_csv(file, index=False, sep="\t")
    elif form == ".txt":  # of Germany
        frame.to_csv(file, index=False, sep=";", decimal=",")
    elif form == ".parquet":
        frame.to_parquet(file, row_group_size=20)
    elif form == ".npz":
        np.savez(file, X=X, sample=SAMPLES, kind=KINDS, more=np.zeros(3))
    elif form == ".h5ad":
        obs = pandas.DataFrame({"kind": KINDS}, index=SAMPLES)
        data = anndata.AnnData(X, obs, var=pandas.DataFrame(index=NAMES))
        data.layers["twice"] = 2 * X
        data.obsm["X_pca"] = X[:, :3]
        data.write_h5ad(file)
        named = Choice(labels="kind")  # names of cells have a place of their own
    elif form == ".npy":
        np.save(file, X)
        np.save(folder / "kind.npy", KINDS)
        (folder / "sample.txt").write_text("\n".join(SAMPLES) + "\n")
        named = Choice(ids=str(folder / "sample.txt"), labels=str(folder / "kind.npy"))
    return file, named


FORMS = [".csv", ".csv.gz", ".tsv", ".txt", ".parquet", ".npz", ".h5ad", ".npy"]


@pytest.mark.parametrize("form", FORMS)
def test_rows_names_and_labels_come_out_as_they_were_put_in(form, frame, X, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_CELLS", 7 * 40)  # blocks of 40 rows
    monkeypatch.setattr(_sources, "_NUMBERS", 5 * 40)
    file, choice = write(frame, X, tmp_path, form)
    reader = Reader(file, choice)
    rows = reader.read()
    np.testing.assert_allclose(rows.X, X, rtol=1e-6)
    assert rows.ids.tolist() == SAMPLES.tolist()
    assert rows.labels.tolist() == KINDS.tolist()
    assert reader.names == (None if form in (".npz", ".npy") else NAMES)
    blocks = list(Reader(file, choice).blocks())
    assert sum(len(block.X) for block in blocks) == 90
    np.testing.assert_array_equal(np.concatenate([b.ids for b in blocks]), SAMPLES)
    np.testing.assert_allclose(np.concatenate([b.X for b in blocks]), X, rtol=1e-6)
    assert len(blocks) == 3


@pytest.mark.parametrize("form", [".csv", ".parquet", ".h5ad"])
def test_columns_are_matched_by_name_with_those_of_a_model(form, frame, X, tmp_path):
    file, choice = write(frame, X, tmp_path, form)
    reader = Reader(file, choice, like=["e", "a"])
    np.testing.assert_allclose(reader.read().X, X[:, [4, 0]], rtol=1e-6)
    assert reader.ignored == ["b", "c", "d"]
    with pytest.raises(ValueError, match=r"columns that the model was fitted with.*'missing'"):
        Reader(file, choice, like=["a", "missing"])
    rows = Reader(file, Choice(columns=["a", "e"]), like=["e", "a"]).read()
    np.testing.assert_allclose(rows.X, X[:, [4, 0]], rtol=1e-6)  # in the model's order
    with pytest.raises(ValueError, match=r"columns should be left out, or.*'e', 'a'.*'b', 'a'"):
        Reader(file, Choice(columns=["b", "a"]), like=["e", "a"])


@pytest.mark.parametrize("form", [".csv", ".npz", ".npy"])
def test_columns_are_chosen_and_dropped(form, frame, X, tmp_path):
    file, choice = write(frame, X, tmp_path, form)
    a, b, c = NAMES[:3] if form == ".csv" else ["1", "2", "3"]
    chosen = Reader(file, Choice(columns=[c, a], ids=choice.ids)).read()
    np.testing.assert_allclose(chosen.X, X[:, [2, 0]], rtol=1e-6)
    dropped = Choice(drop=[b], ids=choice.ids, labels=choice.labels)
    np.testing.assert_allclose(Reader(file, dropped).read().X, np.delete(X, 1, 1), rtol=1e-6)
    with pytest.raises(ValueError, match="drop should be among the columns"):
        Reader(file, Choice(drop=["nonsense"]))
    with pytest.raises(ValueError, match=f"name each column once. Received: '{a}' twice"):
        Reader(file, Choice(columns=[a, a, b]))


def test_an_array_is_mapped_and_a_column_may_be_the_labels(X, tmp_path):
    np.save(tmp_path / "rows.npy", X)
    assert isinstance(Reader(tmp_path / "rows.npy").read().X, np.memmap)
    rows = Reader(tmp_path / "rows.npy", Choice(labels="5")).read()
    assert rows.X.shape == (90, 4)
    np.testing.assert_allclose(rows.labels.astype(float), X[:, 4], rtol=1e-6)


def test_layers_and_obsm_of_anndata(frame, X, tmp_path):
    file, _ = write(frame, X, tmp_path, ".h5ad")
    np.testing.assert_allclose(Reader(file, Choice(layer="twice")).read().X, 2 * X)
    np.testing.assert_allclose(Reader(file, Choice(obsm="X_pca")).read().X, X[:, :3])
    with pytest.raises(ValueError, match=r"obsm should be one of those.*'X_pca'.*'X_umap'"):
        Reader(file, Choice(obsm="X_umap"))


@pytest.mark.parametrize("form", ["npz", "h5ad"])
def test_sparse_rows_stay_sparse(form, X, tmp_path):
    S = scipy.sparse.random(90, 40, 0.1, format="csr", dtype=np.float32, random_state=0)
    file = tmp_path / f"rows.{form}"
    if form == "npz":
        scipy.sparse.save_npz(file, S)
    else:
        anndata.AnnData(S).write_h5ad(file)
    rows = Reader(file).read()
    assert scipy.sparse.issparse(rows.X)
    assert abs(rows.X - S).max() == 0
    assert scipy.sparse.issparse(next(Reader(file).blocks()).X)


def test_decimals_and_missing_ids_of_parquet(tmp_path):
    file = tmp_path / "rows.parquet"
    money = [decimal.Decimal("1.50"), decimal.Decimal("2.25")]
    pandas.DataFrame({"a": money, "b": [True, False], "id": ["x", None]}).to_parquet(file)
    assert Reader(file, Choice(drop=["id"])).read().X.tolist() == [[1.5, 1], [2.25, 0]]
    with pytest.raises(ValueError, match=r"ids should name every row .*none in row 2"):
        Reader(file, Choice(ids="id")).read()


def test_genes_that_are_named_as_columns_of_obs_stay_rows(X, tmp_path):
    file = tmp_path / "cells.h5ad"
    obs = pandas.DataFrame({"a": KINDS}, index=SAMPLES)
    anndata.AnnData(X, obs, var=pandas.DataFrame(index=NAMES)).write_h5ad(file)
    assert Reader(file).features == NAMES
    rows = Reader(file, Choice(labels="a")).read()
    assert (rows.X.shape, rows.labels.tolist()) == ((90, 5), KINDS.tolist())
    twice = pandas.DataFrame(index=["a", "b", "b", "c", "d"])
    anndata.AnnData(X, obs, var=twice).write_h5ad(file)
    with pytest.raises(ValueError, match=r"name of its own for each column.*'b'"):
        Reader(file)
    anndata.AnnData(obs=obs, obsm={"X_pca": X}).write_h5ad(file)
    with pytest.raises(ValueError, match=r"obsm or layer should name the rows of .*has no X"):
        Reader(file)
    np.testing.assert_array_equal(Reader(file, Choice(obsm="X_pca")).read().X, X)


def test_frames_of_pandas_in_parquet(tmp_path):
    file = tmp_path / "rows.parquet"
    frame = pandas.DataFrame({"x": [1, 2], "y": [True, False], "a.b": [3, 4]})
    frame = frame.astype({"x": "Int64", "y": "boolean"})
    indices = pandas.MultiIndex.from_tuples([("u", 0), ("v", 1)], names=["i", "j"])
    for index in (frame.index, frame.index[::-1], pandas.Index([7, 9]), indices):
        frame.set_index(index).to_parquet(file)
        assert Reader(file).read().X.tolist() == [[1, 1, 3], [2, 0, 4]]
        assert Reader(file, Choice(columns=["a.b", "x"])).read().X.tolist() == [[3, 1], [4, 2]]
    frame.loc[1, "x"] = None
    frame.to_parquet(file)
    with pytest.raises(ValueError, match=r"finite number.*NaN in row 2, column 'x'"):
        Reader(file).read()
    twice = pyarrow.table([[1, 2], [3, 4]], names=["a", "a"])
    pyarrow.parquet.write_table(twice, file)
    with pytest.raises(ValueError, match=r"name of its own for each column.*'a' twice"):
        Reader(file)


def test_a_folder_of_parquet_is_one_file_in_the_order_of_names(frame, X, tmp_path, monkeypatch):
    folder = tmp_path / "rows"
    (folder / "b").mkdir(parents=True)
    frame[:40].to_parquet(folder / "a.parquet")
    frame[40:].to_parquet(folder / "b" / "0.parquet", row_group_size=7)
    named = Choice(ids="sample", labels="kind")
    for held in (1 << 30, 0):  # in memory, and in a temporary file
        monkeypatch.setattr(rows, "_HELD", held)
        found = Reader(folder, named).read()
        assert isinstance(found.X, np.memmap) == (held == 0)
        np.testing.assert_array_equal(found.X, X)
        np.testing.assert_array_equal(found.ids, SAMPLES)
        np.testing.assert_array_equal(found.labels, KINDS)
    (folder / "_temporary").mkdir()
    for name in ("_temporary/0.parquet", ".ptsne-1-ab.parquet"):  # another program's, and ours
        (folder / name).write_bytes(b"PAR1, half written")
    assert Reader(folder).count == len(X)
    frame.drop(columns="c").to_parquet(folder / "c.parquet")
    with pytest.raises(ValueError, match=r"c\.parquet should have the columns of .*a\.parquet"):
        Reader(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty should be a file, or a folder of \.parquet files"):
        Reader(tmp_path / "empty")


def test_a_full_disk_for_very_many_rows_is_explained(frame, tmp_path, monkeypatch):
    frame[NAMES].to_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr(rows, "_HELD", 0)
    with open("/dev/full", "wb", 0) as full:
        monkeypatch.setattr(rows.tempfile, "TemporaryFile", lambda: full)
        with pytest.raises(OSError, match=r"written \(set TMPDIR .*\): the disk is full"):
            Reader(tmp_path).read()


def test_a_folder_may_have_more_files_than_a_process_may_open(tmp_path):
    for i in range(70):
        pyarrow.parquet.write_table(pyarrow.table({"v": [[1.0, i]]}), tmp_path / f"{i:02}.parquet")
    empty = pyarrow.table({"v": pyarrow.array([], pyarrow.list_(pyarrow.float64()))})
    for name in ("", "z"):  # the lists of a file without rows have no length
        pyarrow.parquet.write_table(empty, tmp_path / f"{name}0.parquet")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, limits[1]))
    try:
        found = Reader(tmp_path).read()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found.X[:, 1].tolist() == list(range(70))


LISTS = {
    "lists": pyarrow.list_(pyarrow.float64()),
    "large lists": pyarrow.large_list(pyarrow.float32()),
    "fixed lists": pyarrow.list_(pyarrow.float32(), 3),
    "fixed lists of integers": pyarrow.list_(pyarrow.int16(), 3),
}


@pytest.mark.parametrize("kind", LISTS.values(), ids=LISTS)
def test_lists_in_parquet_are_columns_of_their_own(kind, tmp_path):
    file = tmp_path / "rows.parquet"
    lists = [[1, 2, 3], [4, 5, 6]]
    columns = {"id": ["u", "v"], "e": pyarrow.array(lists, kind), "a": [7, 8]}
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    reader = Reader(file, Choice(columns=["e"], ids="id"))
    rows = reader.read()
    assert (rows.X.tolist(), rows.ids.tolist()) == (lists, ["u", "v"])
    assert reader.names == ["e[0]", "e[1]", "e[2]"]
    assert Reader(file, Choice(columns=["e"]), like=reader.names).read().X.tolist() == lists
    assert Reader(file, Choice(ids="id"), like=["a", "e[2]"]).read().X.tolist() == [[7, 3], [8, 6]]
    assert Reader(file, Choice(ids="id", drop=["e"])).read().X.tolist() == [[7], [8]]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ([4, 5], "3 numbers in every row.*2 in row 2"),
        (None, "3 numbers in every row.*0 in row 2"),
        ([4, None, 6], r"finite number.*NaN in row 2, column 'e\[1\]'"),
    ],
)
def test_lists_of_other_lengths_are_named(second, words, tmp_path):
    file = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"e": [[1.0, 2, 3], second]}), file)
    with pytest.raises(ValueError, match=words):
        Reader(file).read()


def bomb(file, form):
    """Write a small file that expands to 30 MB or more."""
    if form == ".npz":
        np.savez_compressed(file, X=np.zeros((300, 25_000), np.float32))
    elif form == ".csv.gz":
        file.write_bytes(30 * gzip.compress(b"1,2\n" * 250_000))
    elif form == ".parquet":
        column = pyarrow.array(np.zeros(800_000, np.int8))
        table = pyarrow.table([column] * 10, names=list("abcdefghij"))
        pyarrow.parquet.write_table(table, file)
    else:
        with h5py.File(file, "w") as held:
            held.create_dataset("X", (1_000, 10_000), "f4", chunks=True, compression="gzip")


@pytest.mark.parametrize("form", [".npz", ".csv.gz", ".parquet", ".h5ad"])
def test_files_expand_to_so_many_megabytes(form, tmp_path, monkeypatch):
    file = tmp_path / f"rows{form}"
    bomb(file, form)
    monkeypatch.setenv("PTSNE_MAX_MB", "20")
    with pytest.raises(ValueError, match="expand to at most 20 MB; set PTSNE_MAX_MB to more"):
        Reader(file).read()
    monkeypatch.setenv("PTSNE_MAX_MB", "many")
    with pytest.raises(ValueError, match="PTSNE_MAX_MB should be a number"):
        Reader(file).read()
    if form == ".npz":
        monkeypatch.delenv("PTSNE_MAX_MB")
        assert Reader(file).count == 300


def test_a_line_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_LINE", 1000)
    (tmp_path / "rows.csv").write_text("1," * 1000)
    with pytest.raises(ValueError, match=r"rows\.csv should be a table with shorter cells"):
        Reader(tmp_path / "rows.csv")


def npy(header):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def zipped(change):
    """Return an .npz file whose headers of its member are changed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("X.npy", npy(b"{'descr':'<f4','fortran_order':False,'shape':(1,1)}\n"))
    body = bytearray(stream.getvalue())
    for start, flags in ((body.index(b"PK\3\4"), 6), (body.index(b"PK\1\2"), 8)):
        body[start + flags + change[0]] = change[1]
    return bytes(body)


DAMAGED = {
    "an open bracket": (".npy", npy(b"{'descr': (((")),
    "a shape beyond memory": (
        ".npy",
        npy(b"{'descr':'<f4','fortran_order':False,'shape':(9**9,)}"),
    ),
    "a shape of words": (".npy", npy(b"{'descr':'<f4','fortran_order':False,'shape':('a',)}")),
    "encrypted": (".npz", zipped((0, 1))),
    "compressed in a way of its own": (".npz", zipped((2, 77))),
    "an array of no archive": (".npz", npy(b"{'descr':'<f4','fortran_order':False,'shape':()}")),
    "a long cell": (".csv", b"a,b\n1," + b"x" * 200_000 + b"\n"),
    "no gzip": (".csv.gz", b"a,b\n1,2\n"),
    "cut gzip": (".csv.gz", gzip.compress(b"a,b\n1,2\n")[:-9]),
    "changed gzip": (".csv.gz", gzip.compress(b"a,b\n1,2\n")[:10] + b"\xff" * 9),
    "changed Parquet": (".parquet", b"PAR1" + b"\xff" * 40 + b"PAR1"),
    "changed HDF5": (".h5ad", b"\x89HDF\r\n\x1a\n" + b"\xff" * 99),
}


@pytest.mark.parametrize(("form", "body"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_named_in_one_line(form, body, tmp_path):
    file = tmp_path / f"rows{form}"
    file.write_bytes(body)
    with pytest.raises(ValueError, match=r"rows\..* should be .*Received: ") as raised:
        Reader(file).read()
    assert str(raised.value).isprintable()


@pytest.mark.slow
def test_fuzzed_files_are_read_or_refused():
    for form, found in fuzz.fuzz(0.03).items():
        assert not any(found[name] for name in ("other", "hang", "crash")), (form, found["kinds"])
        assert found["MB"] < 1000, (form, found["kinds"])
        assert found["refused"] > found["inputs"]


def test_damaged_parquet_is_named(rng, tmp_path):
    file = tmp_path / "rows.parquet"
    pandas.DataFrame(rng.normal(size=(3000, 5)), columns=NAMES).to_parquet(file)
    body = bytearray(file.read_bytes())
    body[100:40_000] = bytes(reversed(body[100:40_000]))
    file.write_bytes(body)
    with pytest.raises(ValueError, match=r"should be a whole \.parquet file") as raised:
        Reader(file).read()
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".parquet", ".h5ad", ".xlsx"])
def test_files_that_are_not_what_their_ending_says(ending, tmp_path):
    file = tmp_path / f"bad{ending}"
    file.write_text("nonsense")
    words = r"should end in .npy, .npz" if ending == ".xlsx" else f"whole {ending} file"
    with pytest.raises(ValueError, match=words) as raised:
        Reader(file)
    assert "\n" not in str(raised.value)
    assert "pickle" not in str(raised.value)


WRONG = {
    "none": ("none.npy", {}, "file that exists"),
    "cut": ("cut.npy", {}, r"whole \.npy file"),
    "flat": ("flat.npy", {}, "rows \\[N, D\\]"),
    "text": ("text.npy", {}, "should hold numbers"),
    "array": ("two.npz", {}, r"array should name.*'one', 'two'"),
    "a column of text": ("rows.parquet", {}, r"Column 'sample'.*Received: string"),
    "few labels": ("rows.npy", {"labels": "few.npy"}, r"one entry for each of the 90 rows.*80"),
    "no labels": ("rows.npy", {"labels": "kind"}, "labels should be one of what"),
    "layer": ("rows.npy", {"layer": "counts"}, r"layer should be left out for other than \.h5ad"),
    "marks": ("rows.npy", {"delimiter": "||"}, "delimiter should be one character"),
}


@pytest.mark.parametrize(("name", "choice", "words"), WRONG.values(), ids=WRONG)
def test_more_that_is_wrong(name, choice, words, frame, X, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(frame, X, tmp_path, ".parquet")
    arrays = {"rows": X, "flat": X[:, 0], "text": SAMPLES[:, None], "few": KINDS[:80]}
    for stem, array in arrays.items():
        np.save(f"{stem}.npy", array)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "rows.npy").read_bytes()[:-50])
    np.savez("two.npz", one=X, two=X)
    assert Reader("two.npz", Choice(array="two")).count == 90
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        Reader(name, Choice(**choice)).read()


@pytest.mark.parametrize("form", [".csv", ".parquet", ".h5ad", ".npy"])
@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (pandas.Series(["u", None, "v"] * 30), ["u", None, "v"]),
        (pandas.Series([0, None, 2] * 30), [0, None, 2]),
        (pandas.Series([0.5, None, 2] * 30), [0.5, None, 2.0]),
    ],
    ids=["text", "whole", "fractions"],
)
def test_missing_labels_are_none_whatever_the_file(form, kinds, expected, frame, X, tmp_path):
    file, choice = write(frame, X, tmp_path, form)
    if form == ".h5ad":
        values = kinds.values if kinds.dtype.kind == "f" else pandas.Categorical(kinds)
        obs = pandas.DataFrame({"kind": values}, index=SAMPLES)
        anndata.AnnData(X, obs).write_h5ad(file)
    elif form == ".npy":
        text = kinds.dtype.kind != "f"
        np.save(tmp_path / "kind.npy", kinds.fillna("").to_numpy(str) if text else kinds)
    else:
        frame["kind"] = kinds
        frame.to_csv(file, index=False) if form == ".csv" else frame.to_parquet(file)
    labels = Reader(file, choice).read().labels
    assert labels.tolist() == expected * 30
    assert [type(label) for label in labels[:3]] == [type(label) for label in expected]


def test_an_array_of_objects_leaves_others_readable(X, tmp_path):
    objects = np.array(["u", None, 3] * 30, object)
    np.savez(tmp_path / "rows.npz", X=X, kind=KINDS, mixed=objects)
    rows = Reader(tmp_path / "rows.npz", Choice(labels="kind")).read()
    np.testing.assert_array_equal(rows.X, X)
    assert rows.labels.tolist() == KINDS.tolist()
    with pytest.raises(ValueError, match=r"labels should be one of what .*rows.npz has"):
        Reader(tmp_path / "rows.npz", Choice(labels="mixed")).read()
