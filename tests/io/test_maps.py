"""Maps from the files that people have."""

import resource
import sys
import types

import anndata
import numpy as np
import pandas as pd
import pytest

from ptsne_keras.io import maps


@pytest.fixture
def Y(rng):
    return rng.normal(size=(5, 2)).astype("float32")


def test_a_first_column_of_text_names_the_rows(Y, tmp_path):
    index = pd.Index(["1,2", "1.2", "c", "d", "e"], name="cell")
    pd.DataFrame(Y, columns=["x", "y"], index=index).to_csv(tmp_path / "map.csv", sep=";")
    found = maps.read(tmp_path / "map.csv", ids="cell")  # its first is a number, too
    np.testing.assert_allclose(found.of(["1,2"]), Y[[0]], rtol=1e-6)
    (tmp_path / "map.csv").write_text("a,1.5,2.5\nb,3,4\n")
    np.testing.assert_array_equal(maps.read(tmp_path / "map.csv").of(["b"]), [[3, 4]])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_and_ids_by_name(suffix, Y, tmp_path):
    frame = pd.DataFrame({"barcode": list("abcde"), "cluster": 1, "a": Y[:, 0], "b": Y[:, 1]})
    file = tmp_path / f"map.{suffix}"
    frame.to_csv(file, index=False) if suffix == "csv" else frame.to_parquet(file, index=False)
    found = maps.read(file, columns=["a", "b"], ids="barcode")
    np.testing.assert_allclose(found.of(["d", "a"]), Y[[3, 0]], rtol=1e-6)
    with pytest.raises(ValueError, match=r"columns should name .* 'cluster', 'a', 'b'"):
        maps.read(file, ids="barcode")
    with pytest.raises(ValueError, match=r"among .* 'barcode', .* Received: 'z'"):
        maps.read(file, columns=["a", "z"])


def test_the_index_of_a_parquet_file_names_the_rows(Y, tmp_path):
    file = tmp_path / "map.parquet"
    for name in (None, "cell"):
        index = pd.Index(list("abcde"), name=name)
        pd.DataFrame(Y, columns=["x", "y"], index=index).to_parquet(file)
        np.testing.assert_array_equal(maps.read(file).of(["c"]), Y[[2]])
    numbers = pd.Index([10, 20, 30, 40, 50], name="number")
    pd.DataFrame(Y, columns=["x", "y"], index=numbers).to_parquet(file)
    for ids in ([30], [30.0], ["30"]):
        np.testing.assert_array_equal(maps.read(file).of(ids), Y[[2]])


def test_what_an_embedder_of_batches_writes_is_a_map(Y, tmp_path):
    frame = pd.DataFrame(Y, columns=["embedding_1", "embedding_2"])
    frame.assign(id=np.arange(len(Y)), novelty=0.5).to_parquet(tmp_path / "map.parquet")
    found = maps.read(tmp_path / "map.parquet")
    np.testing.assert_allclose(found.Y, Y)
    assert found.ids.tolist() == [str(i) for i in range(len(Y))]


def test_anndata(Y):
    cells = types.SimpleNamespace(obsm={"X_tsne": Y, "X_umap": -Y}, obs_names=list("abcde"))
    np.testing.assert_array_equal(maps.from_anndata(cells).of(["b"]), Y[[1]])
    np.testing.assert_array_equal(maps.from_anndata(cells, "X_umap").Y, -Y)
    with pytest.raises(ValueError, match=r"obsm should be one .*: 'X_tsne', 'X_umap'. Received"):
        maps.from_anndata(cells, "X_pca")


def test_anndata_files(Y, tmp_path, monkeypatch):
    file = tmp_path / "map.h5ad"
    obs = pd.DataFrame(index=list("abcde"))
    anndata.AnnData(np.zeros((5, 1)), obs, obsm={"X_tsne": Y, "X_umap": -Y}).write_h5ad(file)
    np.testing.assert_array_equal(maps.read(file).of(["b"]), Y[[1]])
    np.testing.assert_array_equal(maps.read(file, obsm="X_umap").Y, -Y)
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs anndata: pip install"):
        maps.read(file)


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".npy"])
def test_maps_are_written_in_parts_and_read_without_arguments(ending, Y, tmp_path):
    file = tmp_path / "new" / f"map{ending}"
    # A block whose labels are all missing has a type, too.
    blocks = [[None, None], ["a", None], ["a", "b"]]
    parts = [(Y[:2], {"label": np.array(b, object), "novelty": np.ones(2)}) for b in blocks]
    assert maps.write(file, parts) == 6
    assert [other.name for other in file.parent.iterdir()] == [file.name]
    found = maps.read(file)
    np.testing.assert_array_equal(found.Y, np.concatenate([Y[:2]] * 3))
    if ending != ".npy":
        assert found.labels.tolist() == [None, None, "a", None, "a", "b"]
        beside = {"label": np.array([1, None], object), "id": np.array(["7", "8"])}
        maps.write(file, [(Y[:2], beside)])
        assert maps.read(file).labels.tolist() == [1, None]
        assert maps.read(file).ids.tolist() == ["7", "8"]


def test_a_map_that_fails_to_be_written_leaves_the_old_one(Y, tmp_path):
    file = tmp_path / "map.csv"
    file.write_text("old")

    def parts():
        yield Y, {}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        maps.write(file, parts())
    assert file.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NA,NA\n3,4\n5,6\n", "NaN in row 1, column '1'"),
        (",x,y\na,1,2\nb,nan,4\n", "NaN in row 2, column 'x'"),
        ("a,b,c\n1,2,3\n4,5,6\n", r"numbers in 'a', 'b', 'c'"),
        ("a,b\n1_0,2\n", "numbers in 'b'"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(text, message, tmp_path):
    file = tmp_path / "map.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        maps.read(file)


def test_arrays_that_are_no_maps_are_refused(tmp_path):
    file = tmp_path / "map.npy"
    np.save(file, np.zeros((2, 500)))
    with pytest.raises(ValueError, match=r"save its transpose. Received: shape \(2, 500\)"):
        maps.read(file)
    np.save(file, np.zeros((9, 2)))
    found = maps.read(file)
    assert (found.Y.dtype, found.ids) == (np.float32, None)
    with pytest.raises(ValueError, match="ids should be one of what"):
        maps.read(file, ids="x")
    np.save(file, np.array([{}, {}]))
    with pytest.raises(ValueError, match=r"map.npy should be a whole .npy file of numbers"):
        maps.read(file)


def test_what_is_no_file_and_no_list_of_names_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="should be a file with a map"):
        maps.read(tmp_path / "map.csv")
    (tmp_path / "map.csv").touch()
    with pytest.raises(ValueError, match="columns should be a list of names"):
        maps.read(tmp_path / "map.csv", columns="x")


def test_rows_without_a_place_are_named(Y):
    table = maps.Map(Y, np.array(list("abcde")))
    with pytest.raises(ValueError, match="ids should be a list of names"):
        table.of("ab")
    with pytest.raises(ValueError, match=r"no place for 'x', 'y'; the map has 'a', 'b', 'c', …"):
        table.of(["a", "x", "y"])
    with pytest.raises(ValueError, match="Received: 'a' several times"):
        maps.Map(Y, np.array(list("abcda"))).of(["b"])
    with pytest.raises(ValueError, match="matched by position"):
        maps.Map(Y, None).of(["b"])


def test_names_that_count_rows_are_asked_about(Y):
    for first in (0, 1):
        counted = np.arange(first, first + 5).astype(str)
        table, turned = maps.Map(Y, counted), counted[::-1]
        np.testing.assert_array_equal(table.of(counted), Y)
        np.testing.assert_array_equal(table.of(turned[:3]), Y[[4, 3, 2]])
        with pytest.raises(ValueError, match="match should be 'id' or 'position' where"):
            table.of(turned)
        np.testing.assert_array_equal(table.of(turned, match="id"), Y[::-1])
        np.testing.assert_array_equal(table.of(turned, match="position"), Y)
    np.testing.assert_array_equal(maps.Map(Y, counted[[0, 2, 1, 3, 4]]).of(turned)[0], Y[4])
    with pytest.raises(ValueError, match="match should be"):
        table.of(counted, match="name")
    with pytest.raises(ValueError, match="one for each of the map's 5 rows"):
        table.of(counted[:3], match="position")


@pytest.mark.parametrize("ending", maps.ENDINGS)
def test_a_full_disk_is_said_alike_by_every_writer(ending, tmp_path):
    Y = np.random.default_rng(0).normal(size=(100_000, 2)).astype("float32")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=rf"map{ending} could not be written: .*File too large\."):
            maps.write(tmp_path / f"map{ending}", [(Y, {})])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_texts_that_a_spreadsheet_runs_are_quoted_if_asked(Y, tmp_path):
    ids = np.array(["=1+1", "+A", "-x", "@SUM(A1)", "-5"])
    labels = np.array(["=2", None, "b", "-", "+1"], object)
    parts = [(Y, {"id": ids, "label": labels})]
    file = tmp_path / "map.csv"
    maps.write(file, parts)
    assert maps.read(file).ids.tolist() == ids.tolist()
    maps.write(file, parts, spreadsheet_safe=True)
    assert maps.read(file).ids.tolist() == ["'=1+1", "'+A", "'-x", "'@SUM(A1)", "-5"]
    assert maps.read(file).labels.tolist() == ["'=2", None, "b", "'-", "+1"]
    with pytest.raises(ValueError, match="spreadsheet_safe should be left out"):
        maps.write(tmp_path / "map.npy", parts, spreadsheet_safe=True)


def test_a_header_of_numbers_is_asked_for(tmp_path):
    (tmp_path / "map.csv").write_text("7,3\n1,2\n3,4\n")
    assert len(maps.read(tmp_path / "map.csv").Y) == 3
    found = maps.read(tmp_path / "map.csv", columns=["3", "7"], header=True)
    np.testing.assert_array_equal(found.Y, [[2, 1], [4, 3]])


def test_other_endings_are_refused():
    with pytest.raises(ValueError, match=r"path should end in .csv, .npy, .parquet. Received: m"):
        maps.write("m.txt", [(np.zeros((3, 2)), {})])


def test_a_map_goes_into_a_copy_of_its_cells(tmp_path, rng):
    anndata = pytest.importorskip("anndata")
    cells = anndata.AnnData(rng.normal(size=(6, 3)), obsm={"X_pca": rng.normal(size=(6, 2))})
    cells.write_h5ad(tmp_path / "cells.h5ad")
    Y = rng.normal(size=(6, 2)).astype("float32")
    for name in ("X_ptsne", "X_pca"):  # a new one, and one that is there
        options = {"source": tmp_path / "cells.h5ad", "obsm": name}
        assert maps.write(tmp_path / "mapped.h5ad", [(Y[:4], {}), (Y[4:], {})], **options) == 6
        found = anndata.read_h5ad(tmp_path / "mapped.h5ad")
        np.testing.assert_array_equal(found.obsm[name], Y)
        np.testing.assert_array_equal(found.X, cells.X)
    with pytest.raises(ValueError, match=r"cells\.h5ad should have as many rows as the map, 4"):
        maps.write(tmp_path / "short.h5ad", [(Y[:4], {})], source=tmp_path / "cells.h5ad")
    assert not (tmp_path / "short.h5ad").exists()
    with pytest.raises(ValueError, match=r"path should end in \.csv"):
        maps.write(tmp_path / "alone.h5ad", [(Y, {})])
