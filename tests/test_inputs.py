"""Rows come out of every kind of file as they were put in; what is wrong with a file is named."""

import gzip
import tracemalloc

import numpy as np
import pandas
import pytest
import scipy.sparse

from ptsne_keras import formats, text_rows
from ptsne_keras.inputs import Choice, Reading

NAMES = ["a", "b", "c", "d", "e"]
KINDS = np.array(["left", "right", "up"])[np.arange(90) % 3]
SAMPLES = np.array([f"s{i}" for i in range(90)])


@pytest.fixture
def frame(X):
    frame = pandas.DataFrame(X, columns=NAMES)
    frame.insert(0, "sample", SAMPLES)
    frame["kind"] = KINDS
    return frame


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
        anndata = pytest.importorskip("anndata")
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
    monkeypatch.setattr(text_rows, "_CELLS", 7 * 40)  # blocks of 40 rows
    monkeypatch.setattr(formats, "_NUMBERS", 5 * 40)
    file, choice = write(frame, X, tmp_path, form)
    reading = Reading(file, choice)
    rows = reading.read()
    np.testing.assert_allclose(rows.X, X, rtol=1e-6)
    assert rows.ids.tolist() == SAMPLES.tolist()
    assert rows.labels.tolist() == KINDS.tolist()
    assert reading.names == (None if form in (".npz", ".npy") else NAMES)
    blocks = list(Reading(file, choice).blocks())
    assert sum(len(block.X) for block in blocks) == 90
    np.testing.assert_array_equal(np.concatenate([b.ids for b in blocks]), SAMPLES)
    np.testing.assert_allclose(np.concatenate([b.X for b in blocks]), X, rtol=1e-6)
    assert len(blocks) == 3


@pytest.mark.parametrize("form", [".csv", ".parquet", ".h5ad"])
def test_columns_are_matched_by_name_with_those_of_a_model(form, frame, X, tmp_path):
    file, choice = write(frame, X, tmp_path, form)
    reading = Reading(file, choice, like=["e", "a"])
    np.testing.assert_allclose(reading.read().X, X[:, [4, 0]], rtol=1e-6)
    assert reading.ignored == ["b", "c", "d"]
    with pytest.raises(ValueError, match=r"columns that the model was fitted with.*'missing'"):
        Reading(file, choice, like=["a", "missing"])


@pytest.mark.parametrize("form", [".csv", ".npz", ".npy"])
def test_columns_are_chosen_and_dropped(form, frame, X, tmp_path):
    file, choice = write(frame, X, tmp_path, form)
    a, b, c = NAMES[:3] if form == ".csv" else ["1", "2", "3"]
    chosen = Reading(file, Choice(columns=[c, a], ids=choice.ids)).read()
    np.testing.assert_allclose(chosen.X, X[:, [2, 0]], rtol=1e-6)
    dropped = Choice(drop=[b], ids=choice.ids, labels=choice.labels)
    np.testing.assert_allclose(Reading(file, dropped).read().X, np.delete(X, 1, 1), rtol=1e-6)
    with pytest.raises(ValueError, match="--drop should be among the columns"):
        Reading(file, Choice(drop=["nonsense"]))


def test_a_column_of_an_array_may_be_the_labels(X, tmp_path):
    np.save(tmp_path / "rows.npy", X)
    rows = Reading(tmp_path / "rows.npy", Choice(labels="5")).read()
    assert rows.X.shape == (90, 4)
    np.testing.assert_allclose(rows.labels.astype(float), X[:, 4], rtol=1e-6)


def test_layers_and_obsm_of_anndata(frame, X, tmp_path):
    file, _ = write(frame, X, tmp_path, ".h5ad")
    np.testing.assert_allclose(Reading(file, Choice(layer="twice")).read().X, 2 * X)
    np.testing.assert_allclose(Reading(file, Choice(obsm="X_pca")).read().X, X[:, :3])
    with pytest.raises(ValueError, match=r"--obsm should be one of those.*'X_pca'.*'X_umap'"):
        Reading(file, Choice(obsm="X_umap"))


@pytest.mark.parametrize("form", ["npz", "h5ad"])
def test_sparse_rows_stay_sparse(form, X, tmp_path):
    S = scipy.sparse.random(90, 40, 0.1, format="csr", dtype=np.float32, random_state=0)
    file = tmp_path / f"rows.{form}"
    if form == "npz":
        scipy.sparse.save_npz(file, S)
    else:
        pytest.importorskip("anndata").AnnData(S).write_h5ad(file)
    rows = Reading(file).read()
    assert scipy.sparse.issparse(rows.X)
    assert abs(rows.X - S).max() == 0
    assert scipy.sparse.issparse(next(Reading(file).blocks()).X)


def test_an_array_on_the_disk_is_mapped_and_not_loaded(X, tmp_path):
    np.save(tmp_path / "rows.npy", X)
    assert isinstance(Reading(tmp_path / "rows.npy").read().X, np.memmap)


def test_a_large_table_is_never_held_twice(rng, tmp_path, monkeypatch):
    X = rng.normal(size=(40_000, 20)).astype(np.float32)
    pandas.DataFrame(X).add_prefix("c").to_csv(tmp_path / "rows.csv", index=False)
    monkeypatch.setattr(text_rows, "_CELLS", 20 * 1000)
    tracemalloc.start()
    rows = Reading(tmp_path / "rows.csv").read()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(rows.X, X, rtol=1e-5)
    assert most < 1.5 * X.nbytes


def test_tables_without_a_header_have_numbers_for_names(X, tmp_path):
    np.savetxt(tmp_path / "rows.csv", np.column_stack([X, np.arange(90)]), delimiter=",")
    rows = Reading(tmp_path / "rows.csv", Choice(labels="6")).read()
    np.testing.assert_allclose(rows.X, X, rtol=1e-6)
    assert rows.labels.tolist() == list(range(90))


def test_row_names_of_R_and_the_index_of_pandas_are_ids(frame, X, tmp_path):
    numbers = frame[NAMES].set_index(SAMPLES)
    numbers.to_csv(tmp_path / "rows.csv")
    numbers.to_parquet(tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.parquet"):
        rows = Reading(tmp_path / name).read()
        assert rows.ids.tolist() == SAMPLES.tolist()
        np.testing.assert_allclose(rows.X, X, rtol=1e-6)


def test_quoted_cells_and_blank_lines(tmp_path):
    (tmp_path / "rows.csv").write_text('"a","b","kind"\n"1","2","x, y"\n\n3,4,z\n')
    rows = Reading(tmp_path / "rows.csv", Choice(labels="kind")).read()
    assert rows.X.tolist() == [[1, 2], [3, 4]]
    assert rows.labels.tolist() == ["x, y", "z"]


HEAD = "a,b\n1,2\n"
BAD = {
    "text": (".csv", HEAD + "3,four\n", r"Column 'b' .*--drop 'b'.*'four' in line 3"),
    "missing": (".csv", HEAD + "3,\n", "finite number in every cell.*NaN in row 2, column 'b'"),
    "NA": (".csv", HEAD + "NA,1\n", "finite number in every cell.*NaN in row 2, column 'a'"),
    "infinite": (".csv", HEAD + "1e60,1\n", "finite number.*row 2, column 'a'"),
    "ragged": (".csv", HEAD + "3\n", "2 cells in every row.*1 in line 3"),
    "wider": (".csv", HEAD + "3,4,5\n", "2 cells in every row.*3 in line 3"),
    "empty": (".csv", "", "should be a table of rows"),
    "header alone": (".csv", "a,b\n", "should be a table of rows"),
    "twice": (".csv", "a,a\n1,2\n", "name of its own for each column"),
    "not an array": (".npy", "nonsense", "whole .npy file"),
    "not an archive": (".npz", "nonsense", "whole .npz file"),
    "not Parquet": (".parquet", "nonsense", "whole .parquet file"),
    "not HDF5": (".h5ad", "nonsense", "whole .h5ad file"),
    "unknown": (".xlsx", "nonsense", "ends in .npy, .npz"),
    "not text": (".csv", b"a,b\n\xff\xfe,2\n", "UTF-8"),
    "cut": (".csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 9999)[:-20], "truncated|cannot be read"),
}


@pytest.mark.parametrize(("form", "text", "words"), BAD.values(), ids=BAD)
def test_what_is_wrong_with_a_file_is_said_in_one_line(form, text, words, tmp_path):
    file = tmp_path / f"rows{form}"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=words) as raised:
        Reading(file).read()
    assert "\n" not in str(raised.value)
    assert str(file) in str(raised.value)


def test_more_that_is_wrong(frame, X, tmp_path):
    with pytest.raises(FileNotFoundError, match="file that exists"):
        Reading(tmp_path / "none.csv")
    np.save(tmp_path / "cut.npy", X)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"whole \.npy file"):
        Reading(tmp_path / "cut.npy")
    np.save(tmp_path / "flat.npy", X[:, 0])
    with pytest.raises(ValueError, match="rows \\[N, D\\]"):
        Reading(tmp_path / "flat.npy")
    np.save(tmp_path / "text.npy", SAMPLES[:, None])
    with pytest.raises(ValueError, match="should hold numbers"):
        Reading(tmp_path / "text.npy")
    np.savez(tmp_path / "two.npz", one=X, two=X)
    with pytest.raises(ValueError, match=r"--array should name.*'one', 'two'"):
        Reading(tmp_path / "two.npz")
    assert Reading(tmp_path / "two.npz", Choice(array="two")).count == 90
    file, _ = write(frame, X, tmp_path, ".parquet")
    with pytest.raises(ValueError, match=r"Column 'sample'.*Received: string"):
        Reading(file).read()
    np.save(tmp_path / "few.npy", KINDS[:80])
    np.save(tmp_path / "rows.npy", X)
    with pytest.raises(ValueError, match=r"one entry for each of the 90 rows.*80"):
        Reading(tmp_path / "rows.npy", Choice(labels=str(tmp_path / "few.npy"))).read()
    with pytest.raises(ValueError, match="--label should be one of what"):
        Reading(tmp_path / "rows.npy", Choice(labels="kind"))
    with pytest.raises(ValueError, match=r"--layer is for \.h5ad files"):
        Reading(tmp_path / "rows.npy", Choice(layer="counts"))
