"""Rows come out of every kind of file as they were put in; what is wrong with a file is named."""

import gzip
import tracemalloc
import warnings

import numpy as np
import pandas
import pytest
import scipy.sparse

from ptsne_keras.io import formats, text_rows
from ptsne_keras.io.inputs import Choice, Reading
from ptsne_keras.utils import labels as class_labels

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


def table(file, head, X, **others):
    """Write rows below names that are numbers."""
    frame = pandas.DataFrame(X, columns=head)
    for name, values in others.items():
        frame[name] = values
    frame.to_csv(file, index=False)
    return file


def test_names_of_columns_that_are_numbers(rng, tmp_path, recwarn):
    whole = rng.integers(0, 17, (90, 6))
    file = tmp_path / "rows.csv"
    reading = Reading(table(file, range(6), whole))  # as pandas names columns
    assert reading.names == list("012345")
    np.testing.assert_array_equal(reading.read().X, whole)
    table(file, range(6), whole, id=SAMPLES, label=KINDS)
    rows = Reading(file, Choice(ids="id", labels="label")).read()
    np.testing.assert_array_equal(rows.X, whole)
    np.testing.assert_array_equal(rows.ids, SAMPLES)
    table(file, range(6), whole, label=np.arange(90) % 3)  # a word above numbers
    assert Reading(file).names == [*"012345", "label"]
    table(file, range(6), whole, id=SAMPLES)
    assert Reading(file, Choice(columns=["0", "5"])).read().X.shape == (90, 2)
    assert Reading(file).names == [*"012345", "id"]  # only words above words
    years = [2019, 2018, 2021, 2022, 2023, 2024]
    table(file, years, whole)
    for choice in (Choice(labels="2021"), Choice(columns=["2018", "2019"]), Choice(drop=["2019"])):
        assert len(Reading(file, choice).read().X) == 90
    assert Reading(file, like=list(map(str, years))).read().X.shape == (90, 6)
    assert not recwarn.list


@pytest.mark.parametrize("fractions", [True, False])
def test_years_above_numbers_are_names_and_said_to_be(fractions, X, tmp_path):
    rows = X if fractions else np.rint(X * 9).astype(int)
    file = table(tmp_path / "rows.csv", [2019, 2020, 2021, 2022, 2023], rows)
    with pytest.warns(UserWarning, match=r"first line, 2019, 2020, 2021, …, is read as names"):
        reading = Reading(file)
    np.testing.assert_allclose(reading.read().X, rows, rtol=1e-6)


def test_whole_numbers_that_rise_above_others_like_them_are_a_row_and_said_to_be(tmp_path):
    (tmp_path / "rows.csv").write_text("3,5,9\n4,2,9\n8,1,11\n3,1,1\n")
    with pytest.warns(UserWarning, match=r"first line, 3, 5, 9, is read as a row"):
        reading = Reading(tmp_path / "rows.csv")
    assert len(reading.read().X) == 4


@pytest.mark.parametrize(
    "text",
    ["3,1\n2,5\n", "0,1\n3,4\n", "0.5,1.5,2\n1,2,0\n", "1,2,3\n4,5,6\n", "?,2,1\n1,2,3\n"],
)
def test_other_first_lines_of_numbers_are_rows(text, tmp_path):
    (tmp_path / "rows.csv").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not Reading(tmp_path / "rows.csv").source.named


def test_a_row_that_has_a_name_of_the_model_by_chance_is_no_header(rng, tmp_path):
    X = rng.integers(0, 4, (20, 8))
    np.savetxt(tmp_path / "rows.csv", X, fmt="%d", delimiter=",")
    reading = Reading(tmp_path / "rows.csv", Choice(labels="8"), like=list("01234567"))
    assert len(reading.read().X) == 20


def test_columns_beside_names_of_a_model(frame, X, tmp_path):
    file, _ = write(frame, X, tmp_path, ".csv")
    rows = Reading(file, Choice(columns=["a", "e"]), like=["e", "a"]).read()
    np.testing.assert_allclose(rows.X, X[:, [4, 0]], rtol=1e-6)  # in the model's order
    with pytest.raises(ValueError, match=r"--columns should be left out, or.*'e', 'a'.*'b', 'a'"):
        Reading(file, Choice(columns=["b", "a"]), like=["e", "a"])
    with pytest.raises(ValueError, match=r"name each column once. Received: 'a' twice"):
        Reading(file, Choice(columns=["a", "a", "b"]))


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
        anndata = pytest.importorskip("anndata")
        values = kinds.values if kinds.dtype.kind == "f" else pandas.Categorical(kinds)
        obs = pandas.DataFrame({"kind": values}, index=SAMPLES)
        anndata.AnnData(X, obs).write_h5ad(file)
    elif form == ".npy":
        text = kinds.dtype.kind != "f"
        np.save(tmp_path / "kind.npy", kinds.fillna("").to_numpy(str) if text else kinds)
    else:
        frame["kind"] = kinds
        frame.to_csv(file, index=False) if form == ".csv" else frame.to_parquet(file)
    labels = Reading(file, choice).read().labels
    assert labels.tolist() == expected * 30
    assert [type(label) for label in labels[:3]] == [type(label) for label in expected]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["0", "10", "9"], [0, 10, 9]),
        (["0.0", "1.0", None], [0, 1, None]),
        (["0.5", "-1e-3"], [0.5, -0.001]),
        (["01", "1", "1.0"], ["01", "1", "1.0"]),
        (["1", "1.0"], ["1", "1.0"]),
        (["007", "8"], ["007", "8"]),
        (["1_0", "2"], ["1_0", "2"]),
        (["9007199254740993", "1"], ["9007199254740993", "1"]),
        (["inf", "1"], ["inf", "1"]),
        ([None, None], [None, None]),
    ],
)
def test_labels_are_numbers_only_if_nothing_is_lost(texts, expected):
    kind = object if None in texts else str
    labels = class_labels.as_numbers(np.array(texts, kind)).tolist()
    assert labels == expected
    assert list(map(type, labels)) == list(map(type, expected))


def test_a_number_with_an_underscore_is_none(tmp_path):
    (tmp_path / "rows.csv").write_text("x,y\n1,2\n1_0,3\n")
    with pytest.raises(ValueError, match=r"'x'.*'1_0' in line 3"):
        Reading(tmp_path / "rows.csv").read()


def test_rows_that_are_all_wider_than_the_header_are_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("x,y\n1,2,3,4\n5,6,7,8\n")
    with pytest.raises(ValueError, match=r"2 cells in every row.*4 in line 2"):
        Reading(tmp_path / "rows.csv").read()


def test_a_delimiter_within_quotes_is_none(tmp_path):
    (tmp_path / "rows.csv").write_text('name,"x;y",z\na,1,2\nb,3,4\n')
    reading = Reading(tmp_path / "rows.csv", Choice(ids="name"))
    assert reading.names == ["x;y", "z"]
    assert reading.read().X.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "text",
    [
        "#id,kind,x\na,u,1\nb,v,2\n",
        "## of 2009\n# by hand\n# id,kind,x\na,u,1\nb,v,2\n",
        "# by hand\nid,kind,x\na,u,1\nb,v,2\n",
        "# x, kind, id\nid,kind,x\na,u,1\nb,v,2\n",
        "#id\tkind\tx\na\tu\t1\nb\tv\t2\n",
    ],
)
def test_a_header_may_begin_with_a_hash(text, tmp_path):
    (tmp_path / "rows.csv").write_text(text)
    rows = Reading(tmp_path / "rows.csv", Choice(ids="id", labels="kind")).read()
    assert (rows.X.tolist(), rows.ids.tolist(), rows.labels.tolist()) == (
        [[1], [2]],
        ["a", "b"],
        ["u", "v"],
    )


@pytest.mark.parametrize("head", ["#id,x", "id,x"])
def test_rows_below_the_header_are_no_comments(head, tmp_path):
    (tmp_path / "rows.csv").write_text(f"{head}\n#1,5\n#2,6\n")
    rows = Reading(tmp_path / "rows.csv", Choice(ids="id")).read()
    assert (rows.X.tolist(), rows.ids.tolist()) == ([[5], [6]], ["#1", "#2"])


def test_damaged_files_are_named(rng, tmp_path):
    X = rng.normal(size=(3000, 5))
    frame = pandas.DataFrame(X, columns=NAMES)
    for name, words in (
        ("rows.parquet", "should be a whole Parquet file"),
        ("rows.csv.gz", "should be a whole gzip file"),
    ):
        file = tmp_path / name
        frame.to_parquet(file) if name.endswith("parquet") else frame.to_csv(file, index=False)
        body = bytearray(file.read_bytes())
        body[100:40_000] = bytes(reversed(body[100:40_000]))
        file.write_bytes(body)
        with pytest.raises(ValueError, match=words) as raised:
            Reading(file).read()
        assert str(file) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_an_array_of_objects_leaves_others_readable(X, tmp_path):
    objects = np.array(["u", None, 3] * 30, object)
    np.savez(tmp_path / "rows.npz", X=X, kind=KINDS, mixed=objects)
    rows = Reading(tmp_path / "rows.npz", Choice(labels="kind")).read()
    np.testing.assert_array_equal(rows.X, X)
    assert rows.labels.tolist() == KINDS.tolist()
    with pytest.raises(ValueError, match=r"'mixed' of .*rows.npz should be numbers or text"):
        Reading(tmp_path / "rows.npz", Choice(labels="mixed")).read()
