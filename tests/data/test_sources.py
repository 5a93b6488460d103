import numpy as np
import pandas
import pytest
import scipy.sparse
import tensorflow as tf
from support.pipelines import assert_every_row_once

from ptsne_keras.data import batches, sources, streams
from ptsne_keras.utils import validation


@pytest.fixture
def X(rng):
    X = rng.normal(size=(100, 6)).astype("float32")
    X[rng.random(X.shape) < 0.5] = 0
    return X


def memmap(X, path):
    np.save(path, X)
    return np.load(path, mmap_mode="r")


def given_as(kind, X, tmp_path):
    return memmap(X, tmp_path / "X.npy") if kind == "memmap" else getattr(scipy.sparse, kind)(X)


KINDS = ["memmap", "csr_matrix", "csr_array", "csc_matrix", "coo_array"]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    zip(KINDS, ["float32", "float64", "int16", "float64", "float32"], strict=True),
)
def test_batches_are_those_of_the_array(kind, dtype, X, tmp_path):
    X = (10 * X).astype(dtype)
    both = X, given_as(kind, X, tmp_path)
    pipelines = [batches.from_array(given, 8, 30, seed=0) for given in both]
    for (x, P), (x_given, P_given) in zip(*pipelines, strict=True):
        np.testing.assert_array_equal(x, x_given)
        np.testing.assert_array_equal(P, P_given)
        assert x.dtype == x_given.dtype == validation.check_rows(X).dtype


@pytest.mark.parametrize("kind", KINDS)
def test_bad_rows_are_named(kind, X, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_BLOCK", 100)
    X[[40, 70], 2] = np.nan
    with pytest.raises(ValueError, match=r"rows, the first at index 40"):
        batches.from_array(given_as(kind, X, tmp_path), 8, 30)
    if kind == "memmap":
        with pytest.raises(ValueError, match="should be a 2-D array"):
            batches.from_array(memmap(X[0], tmp_path / "row.npy"), 8, 30)


def check_epoch(pipeline, X, sizes):
    """Every row once, P of the batch's own rows, in batches of these sizes."""
    assert int(pipeline.cardinality()) == len(sizes)
    found = list(pipeline)
    assert sorted(len(x) for x, _ in found) == sorted(sizes)
    assert_every_row_once([x for x, _ in found], X)
    for x, P in found:
        fresh = next(iter(batches.from_array(x.numpy(), 8, len(x), shuffle=False)))[1]
        np.testing.assert_allclose(P, fresh, atol=1e-7)


@pytest.fixture
def unique(rng):
    return rng.normal(size=(100, 6)).astype("float32")


@pytest.fixture
def data(unique):
    return tf.data.Dataset.from_tensor_slices(unique)


def test_a_data_set_of_rows_or_of_batches_gives_every_row_once_an_epoch(data, unique):
    for given, count in ((data, None), (data.batch(7), 100)):
        pipeline = streams.from_dataset(given, 8, 30, count=count, seed=0)
        check_epoch(pipeline, unique, [25] * 4)
    first, second = (np.concatenate([x for x, _ in pipeline]) for _ in range(2))
    assert not np.array_equal(first, second)
    kept = streams.from_dataset(data, 8, 30, buffer=0)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in kept]), unique)


@pytest.mark.parametrize("count", [80, 110, 200])
def test_a_data_set_of_another_length_is_an_error(count, data):
    with pytest.raises(tf.errors.FailedPreconditionError, match="expected to contain"):
        list(streams.from_dataset(data, 8, 30, count=count))


def test_bad_data_sets_are_named(data, unique):
    for wrong, message in (
        (unique, r"data should be a tf\.data\.Dataset"),
        (tf.data.Dataset.zip((data, data)), "data should be a data set of rows"),
        (data.filter(lambda x: x[0] > 0), "count, the number of rows, should be given"),
    ):
        with pytest.raises(ValueError, match=message):
            streams.from_dataset(wrong, 8, 30)
    for name, wrong in (("count", "200"), ("count", -5), ("buffer", 2.5), ("buffer", -1)):
        with pytest.raises(ValueError, match=f"{name} should be an integer of at least 0"):
            streams.from_dataset(data, 8, 30, **{name: wrong})
    with pytest.raises(tf.errors.InvalidArgumentError, match="X should be finite"):
        list(streams.from_dataset(data.map(lambda x: x / 0), 8, 30))


def write_tfrecord(path, X):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for x in X:
            feature = tf.train.Feature(float_list=tf.train.FloatList(value=x))
            features = tf.train.Features(feature={"features": feature})
            writer.write(tf.train.Example(features=features).SerializeToString())


def write_parquet(path, X, label=True, **options):
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    frame = frame.assign(label="x") if label else frame
    frame.sample(frac=1, random_state=0).to_parquet(path, **options)


@pytest.mark.parametrize("kind", ["tfrecord", "parquet"])
def test_every_row_of_all_files_comes_once(kind, unique, tmp_path):
    for part, X in enumerate(np.split(unique, [30, 35])):
        path = tmp_path / f"rows-{part}.{kind}"
        if kind == "tfrecord":
            write_tfrecord(path, X)
        else:
            write_parquet(path, X, row_group_size=20)
    files = str(tmp_path / f"rows-*.{kind}")
    if kind == "tfrecord":
        pipeline = streams.from_tfrecord(files, 6, 8, 30, seed=0)
    else:
        pipeline = streams.from_parquet(files, list("abcdef"), 8, 30, seed=0)
    check_epoch(pipeline, unique, [25] * 4)


def test_widths_are_those_of_tfrecords_and_of_parquet_without_the_index_of_pandas(unique, tmp_path):
    write_parquet(tmp_path / "rows.parquet", unique, label=False)
    x, _ = next(iter(streams.from_parquet(tmp_path / "rows.parquet", None, 8, 30)))
    assert x.shape[1] == 6
    write_tfrecord(tmp_path / "rows.tfrecord", unique)
    with pytest.raises(tf.errors.InvalidArgumentError, match="features"):
        list(streams.from_tfrecord(tmp_path / "rows.tfrecord", 5, 8, 30))


def test_lists_in_parquet_are_rows(unique, tmp_path):
    for part, X in enumerate(np.split(unique, [30])):
        frame = pandas.DataFrame({"id": "x", "embedding": X.tolist()})
        frame.to_parquet(tmp_path / f"{part}.parquet", row_group_size=20)
    pipeline = streams.from_parquet(str(tmp_path / "*.parquet"), ["embedding"], 8, 30, seed=0)
    check_epoch(pipeline, unique, [25] * 4)


def test_bad_files_and_columns_are_named(unique, tmp_path):
    write_parquet(tmp_path / "rows", unique)
    (tmp_path / "damaged").write_bytes((tmp_path / "rows").read_bytes()[:-9])
    write_parquet(tmp_path / "empty", unique[:0])
    several = "columns should be one or more names"
    for name, columns, message in (
        ("x", None, "files should name Parquet files"),
        ("empty", None, "files should have rows"),
        ("rows", None, "Column 'label' of .*rows should be numbers"),
        ("damaged", None, "damaged should be a whole"),
        ("rows", ["a", "z"], r"columns should be in all files.*\['z'\]"),
        *(("rows", columns, several) for columns in ("ab", [], ["a", "a"], 30)),
    ):
        with pytest.raises(ValueError, match=message):
            streams.from_parquet([tmp_path / name], columns)
    with pytest.raises(ValueError, match="files should name TFRecord files"):
        streams.from_tfrecord(tmp_path / "*.x", 6)
