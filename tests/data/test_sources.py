import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

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
    if kind == "memmap":
        return memmap(X, tmp_path / "X.npy")
    return getattr(scipy.sparse, kind)(X)


KINDS = ["memmap", "csr_matrix", "csr_array", "csc_matrix", "coo_array"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_batches_are_those_of_the_array(kind, dtype, X, tmp_path):
    X = (10 * X).astype(dtype)
    pipelines = [
        batches.from_array(given, 8, 30, seed=0) for given in (X, given_as(kind, X, tmp_path))
    ]
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


def test_a_memmap_of_another_shape(tmp_path):
    with pytest.raises(ValueError, match="should be a 2-D array"):
        batches.from_array(memmap(np.zeros(9, "float32"), tmp_path / "X.npy"), 8, 30)


def check_epoch(pipeline, X, sizes):
    """Every row once, P of the batch's own rows, in batches of these sizes."""
    assert int(pipeline.cardinality()) == len(sizes)
    found = list(pipeline)
    assert sorted(len(x) for x, _ in found) == sorted(sizes)
    seen = np.concatenate([x for x, _ in found])
    np.testing.assert_array_equal(seen[np.lexsort(seen.T)], X[np.lexsort(X.T)])
    for x, P in found:
        fresh = next(iter(batches.from_array(x.numpy(), 8, len(x), shuffle=False)))[1]
        np.testing.assert_allclose(P, fresh, atol=1e-7)


@pytest.fixture
def unique(rng):
    return rng.normal(size=(100, 6)).astype("float32")


class TestDataset:
    @pytest.mark.parametrize("batched", [None, 7])
    def test_of_rows(self, unique, batched):
        data = tf.data.Dataset.from_tensor_slices(unique)
        data = data if batched is None else data.batch(batched)
        count = None if batched is None else 100
        pipeline = streams.from_dataset(data, 8, 30, count=count, seed=0)
        check_epoch(pipeline, unique, [25] * 4)

    def test_reshuffles_every_epoch(self, unique):
        data = tf.data.Dataset.from_tensor_slices(unique)
        first, second = (
            np.concatenate([x for x, _ in pipeline])
            for pipeline in [streams.from_dataset(data, 8, 30, seed=0)] * 2
        )
        assert not np.array_equal(first, second)
        kept = streams.from_dataset(data, 8, 30, buffer=0)
        np.testing.assert_array_equal(np.concatenate([x for x, _ in kept]), unique)

    def test_needs_its_length(self, unique):
        data = tf.data.Dataset.from_tensor_slices(unique).filter(lambda x: x[0] > 0)
        with pytest.raises(ValueError, match="count, the number of rows, should be given"):
            streams.from_dataset(data, 8, 30)

    @pytest.mark.parametrize("count", [80, 110, 200])
    def test_a_wrong_length_is_an_error(self, count, unique):
        data = tf.data.Dataset.from_tensor_slices(unique)
        with pytest.raises(tf.errors.FailedPreconditionError, match="expected to contain"):
            list(streams.from_dataset(data, 8, 30, count=count))

    def test_bad_input_is_named(self, unique):
        with pytest.raises(ValueError, match=r"data should be a tf\.data\.Dataset"):
            streams.from_dataset(unique, 8, 30)
        data = tf.data.Dataset.from_tensor_slices((unique, unique))
        with pytest.raises(ValueError, match="data should be a data set of rows"):
            streams.from_dataset(data, 8, 30)
        data = tf.data.Dataset.from_tensor_slices(unique)
        for name, wrong in (("count", "200"), ("count", -5), ("buffer", 2.5), ("buffer", -1)):
            with pytest.raises(ValueError, match=f"{name} should be an integer of at least 0"):
                streams.from_dataset(data, 8, 30, **{name: wrong})

    def test_bad_rows_are_reported(self, unique):
        unique[5, 1] = np.inf
        data = tf.data.Dataset.from_tensor_slices(unique)
        with pytest.raises(tf.errors.InvalidArgumentError, match="X should be finite"):
            list(streams.from_dataset(data, 8, 30))


def write_tfrecord(path, X):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for x in X:
            feature = tf.train.Feature(float_list=tf.train.FloatList(value=x))
            features = tf.train.Features(feature={"features": feature})
            writer.write(tf.train.Example(features=features).SerializeToString())


def write_parquet(path, X, label=True, **options):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    if label:
        frame = frame.assign(label="x")
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


def test_tfrecords_of_another_width_are_an_error(unique, tmp_path):
    write_tfrecord(tmp_path / "rows.tfrecord", unique)
    pipeline = streams.from_tfrecord(tmp_path / "rows.tfrecord", 5, 8, 30)
    with pytest.raises(tf.errors.InvalidArgumentError, match="features"):
        list(pipeline)


def test_the_index_that_pandas_writes_is_not_a_feature(unique, tmp_path):
    write_parquet(tmp_path / "rows.parquet", unique, label=False)
    x, _ = next(iter(streams.from_parquet(tmp_path / "rows.parquet", None, 8, 30)))
    assert x.shape[1] == 6


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (
            lambda folder: streams.from_tfrecord(folder / "*.x", 6),
            "files should name TFRecord files",
        ),
        (lambda folder: streams.from_parquet([folder / "x"]), "files should name Parquet files"),
        (lambda folder: streams.from_parquet(folder / "empty"), "files should have rows"),
        (lambda folder: streams.from_parquet(folder / "rows"), "row group 0, should be numeric"),
        (
            lambda folder: streams.from_parquet(folder / "rows", ["a", "z"]),
            r"columns should be in every file.*\['z'\]",
        ),
        *[
            (
                lambda folder, names=names: streams.from_parquet(folder / "rows", names),
                "columns should be one or more names",
            )
            for names in ("ab", [], ["a", "a"], 30)
        ],
    ],
)
def test_bad_files_and_columns_are_named(read, message, unique, tmp_path):
    write_parquet(tmp_path / "rows", unique)
    write_parquet(tmp_path / "empty", unique[:0])
    with pytest.raises(ValueError, match=message):
        read(tmp_path)
