"""`tf.data` pipelines of batches (X, P) of rows that are read in order: data sets and files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from ptsne_keras import affinities
from ptsne_keras.data import order
from ptsne_keras.data.order import check_batches
from ptsne_keras.io.rows import ParquetRows
from ptsne_keras.typing import FloatArray, Perplexity
from ptsne_keras.utils.validation import check_integer, check_rows


def from_dataset(
    data: tf.data.Dataset,
    perplexity: Perplexity = 30.0,
    batch_size: int = 2500,
    *,
    count: int | None = None,
    buffer: int | None = None,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Make batches of a `tf.data.Dataset` of rows, with P calibrated inside each batch.

    Elements and batch sizes are those of :func:`from_array`.

    Parameters
    ----------
    data : tf.data.Dataset
        Rows [D], or batches of rows [b, D] of any size, which are regrouped.
    perplexity, batch_size, seed
        As in :func:`from_array`.
    count : int, default=None
        Number of rows. Needed if the data set does not know it, as after `filter` or in batches.
    buffer : int, default=None
        Number of rows that the next one is drawn from; 4 · batch_size by default, and 0 keeps the
        order. Rows further apart never meet in a batch, so interleave files sorted by class.

    Raises
    ------
    ValueError
        If the number of rows is not known, or the sizes do not fit.
    tf.errors.FailedPreconditionError, tf.errors.InvalidArgumentError
        While it runs, if the number of rows is not `count`, or a row is not finite.

    Examples
    --------
    >>> data = tf.data.Dataset.from_tensor_slices(X)
    >>> model.compile("adam", loss=losses.TSNE())
    >>> history = model.fit(from_dataset(data, 30, 100, seed=0), epochs=2, shuffle=False)
    """
    data, n = _rows_of(data, count)
    check_batches(n, perplexity, batch_size)
    buffer = 4 * batch_size if buffer is None else check_integer(buffer, "buffer", 0)
    if buffer:
        data = data.shuffle(buffer, seed=seed)
    # Checked for rows, too: the number of batches would not reveal a few missing rows.
    data = order.of_length(data, n)
    number = order.batch_count(n, batch_size)
    sizes = np.diff(order.batch_bounds(n, number)).tolist()
    batches = order.of_length(data.batch(batch_size).rebatch(sizes), number)
    return order.prefetched(
        batches.map(lambda x: (x, affinities.joint_probabilities(x, perplexity)), tf.data.AUTOTUNE)
    )


def from_tfrecord(
    files: str | Sequence[str],
    features: int,
    perplexity: Perplexity = 30.0,
    batch_size: int = 2500,
    *,
    key: str = "features",
    count: int | None = None,
    buffer: int | None = None,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Make batches of the rows in TFRecord files of `tf.train.Example`, with P of each batch.

    Parameters
    ----------
    files : str or sequence of str
        Paths, or a pattern such as "rows-*.tfrecord". Rows are taken from all files in turn.
    features : int
        Number of values in a row.
    key : str, default="features"
        Key of the float_list that holds a row.
    count : int, default=None
        Number of rows. By default the files are read once to count them.
    perplexity, batch_size, buffer, seed
        As in :func:`from_dataset`.

    Raises
    ------
    ValueError
        If there are no such files, or the sizes do not fit.
    tf.errors.InvalidArgumentError
        While it runs, if a record has another number of values under the key.

    Examples
    --------
    >>> with tf.io.TFRecordWriter("rows.tfrecord") as writer:
    ...     for x in X:
    ...         values = tf.train.Feature(float_list=tf.train.FloatList(value=x))
    ...         features = tf.train.Features(feature={"features": values})
    ...         writer.write(tf.train.Example(features=features).SerializeToString())
    >>> X_batch, P = next(iter(from_tfrecord("rows.tfrecord", 64, 30, 100, seed=0)))
    >>> X_batch.shape, P.shape
    (TensorShape([100, 64]), TensorShape([100, 100]))
    """
    paths = _paths(files, "TFRecord")
    names = tf.data.Dataset.from_tensor_slices(paths)
    if count is None:
        count = sum(1 for _ in tf.data.TFRecordDataset(paths))
    spec = {key: tf.io.FixedLenFeature([features], tf.float32)}
    data = names.shuffle(len(paths), seed=seed).interleave(
        lambda path: tf.data.TFRecordDataset(path).map(
            lambda record: tf.io.parse_single_example(record, spec)[key]
        ),
        cycle_length=min(len(paths), 16),
    )
    return from_dataset(data, perplexity, batch_size, count=count, buffer=buffer, seed=seed)


def from_parquet(
    files: str | Sequence[str],
    columns: Sequence[str] | None = None,
    perplexity: Perplexity = 30.0,
    batch_size: int = 2500,
    *,
    buffer: int | None = None,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Make batches of the rows in Parquet files, read one row group at a time, with P of each.

    Parameters
    ----------
    files : str or sequence of str
        Paths, or a pattern such as "rows-*.parquet". Row groups come in a new order every epoch;
        groups of 10³ to 10⁵ rows keep memory low.
    columns : sequence of str, default=None
        Columns that form a row, of numbers or of lists of numbers (embeddings), all of one length.
        By default all columns of the first file.
    perplexity, batch_size, buffer, seed
        As in :func:`from_dataset`.

    Raises
    ------
    ModuleNotFoundError
        If pyarrow is not installed; it comes with the extra `parquet`.
    ValueError
        If there are no such files, one is damaged, a column is missing or not numeric, lists have
        several lengths, or the sizes do not fit.

    Examples
    --------
    >>> import pandas
    >>> pandas.DataFrame(X).rename(columns=str).to_parquet("rows.parquet")
    >>> X_batch, P = next(iter(from_parquet("rows.parquet", perplexity=30, batch_size=100)))
    >>> X_batch.shape, P.shape
    (TensorShape([100, 64]), TensorShape([100, 100]))
    """
    sources = [ParquetRows(Path(path)) for path in _paths(files, "Parquet")]
    features = _features(columns, sources)
    groups = [(f, g) for f, source in enumerate(sources) for g in range(source.groups)]

    def read(group: Any) -> FloatArray:
        f, g = group
        X = sources[f].group(features, int(g))
        name = f"{sources[f].file}, row group {g},"
        return check_rows(X, name=name, dtype=np.float32) if len(X) else X

    def block(group: tf.Tensor) -> tf.Tensor:
        x = tf.numpy_function(read, [group], tf.float32)
        return tf.ensure_shape(x, [None, len(features)])

    count = sum(source.count or 0 for source in sources)
    if not count:
        raise ValueError(f"files should have rows. Received: {files!r}, with none.")
    read(groups[0])  # reports here what cannot be read
    data = tf.data.Dataset.from_tensor_slices(groups).shuffle(len(groups), seed=seed).map(block)
    return from_dataset(data, perplexity, batch_size, count=count, buffer=buffer, seed=seed)


def _rows_of(data: Any, count: Any) -> tuple[tf.data.Dataset, int]:
    """Return a data set of single rows [D], and their number."""
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(
            "data should be a tf.data.Dataset; data.from_array takes arrays. "
            f"Received: {type(data).__name__}."
        )
    rank = getattr(getattr(data.element_spec, "shape", None), "rank", None)
    if rank not in (1, 2):
        raise ValueError(
            "data should be a data set of rows [D] or batches of rows [b, D]; select them by `map`."
            f" Received: elements {data.element_spec}."
        )
    data = data.unbatch() if rank == 2 else data
    n = int(data.cardinality()) if count is None else check_integer(count, "count", 0)
    if n < 0:
        raise ValueError(
            "count, the number of rows, should be given, because the data set does not know it. "
            f"Received: cardinality {n}."
        )
    return data, n


def _features(columns: Any, sources: list[ParquetRows]) -> list[str]:
    """Return the names of the features, which all files have."""
    if columns is None:  # without the index that pandas writes
        columns = [name for name in sources[0].names if name not in sources[0].index]
    elif not isinstance(columns, list | tuple) or not 0 < len(columns) == len(set(columns)):
        raise ValueError(f"columns should be one or more names, each once. Received: {columns!r}.")
    features = sources[0].expanded(columns)
    for source in sources:
        missing = sorted(set(features) - set(source.names))
        if missing:
            raise ValueError(
                f"columns should be in all files. Received: {source.file} without {missing}."
            )
    return features


def _paths(files: str | Sequence[str], kind: str) -> list[str]:
    """Return the files that paths and patterns name."""
    patterns = [files] if isinstance(files, str | os.PathLike) else files
    paths = sorted(path for pattern in patterns for path in tf.io.gfile.glob(str(pattern)))
    if not paths:
        raise ValueError(f"files should name {kind} files that exist. Received: {files!r}.")
    return paths
