"""`tf.data` pipelines of (X, P) from rows that are read in order: data sets, TFRecord, Parquet."""

import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import tensorflow as tf

from ptsne_keras import affinities
from ptsne_keras.data import order
from ptsne_keras.data.order import check_batches
from ptsne_keras.typing import FloatArray, Perplexity
from ptsne_keras.utils import validation


def from_dataset(
    data: tf.data.Dataset,
    perplexity: Perplexity = 30.0,
    batch_size: int = 2500,
    *,
    count: int | None = None,
    buffer: int | None = None,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Batches (X [b, D], P [b, b]) of a `tf.data.Dataset` of rows, P calibrated inside each batch.

    Every row comes exactly once an epoch, in batches whose sizes differ by one row at most.

    Parameters
    ----------
    data : tf.data.Dataset of [D], or of [b, D]
        Rows, one by one or in batches of any size, which are not kept.
    perplexity, batch_size
        As in :func:`from_array`.
    count : int, optional
        N, where the data set does not know it, such as after `filter`, or comes in batches.
    buffer : int, optional
        Rows among which the next one is drawn, 4 · batch_size by default; 0 leaves the order alone.
        Rows that are further apart than this never meet in a batch: files sorted by class want to
        be interleaved.
    seed : int, optional
        Makes the order reproducible.

    Raises
    ------
    ValueError
        If N is not known or the sizes do not fit.
    tf.errors.FailedPreconditionError or InvalidArgumentError
        While it runs, if there are other than `count` rows, or a row is not finite.

    Examples
    --------
    >>> data = tf.data.Dataset.from_tensor_slices(X)
    >>> model.compile("adam", loss=losses.TSNE())
    >>> history = model.fit(from_dataset(data, 30, 100, seed=0), epochs=2)
    """
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(
            "data should be a tf.data.Dataset; batches.from_array takes arrays. "
            f"Received: {type(data).__name__}."
        )
    rank = getattr(getattr(data.element_spec, "shape", None), "rank", None)
    if rank not in (1, 2):
        raise ValueError(
            "data should be a data set of rows [D] or batches of rows [b, D]; select them by `map`."
            f" Received: elements {data.element_spec}."
        )
    if rank == 2:
        data = data.unbatch()
    n = int(data.cardinality()) if count is None else count
    if count is None and n < 0:
        raise ValueError(
            "count should be given, the number of rows, because the data set does not know it. "
            f"Received: cardinality {n}."
        )
    for name, number in (("count", n), ("buffer", 0 if buffer is None else buffer)):
        if not isinstance(number, Integral) or number < 0:
            raise ValueError(f"{name} should be an integer of at least 0. Received: {number!r}.")
    check_batches(n, perplexity, batch_size)
    buffer = 4 * batch_size if buffer is None else buffer
    if buffer:
        data = data.shuffle(buffer, seed=seed)
    # Of rows, too: a batch more or less would not tell of a few rows.
    data = data.apply(tf.data.experimental.assert_cardinality(n))
    batches = data.batch(batch_size).rebatch(order.batch_sizes(n, batch_size))
    batches = batches.apply(
        tf.data.experimental.assert_cardinality(order.batch_count(n, batch_size))
    )
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
    """Batches (X [b, D], P [b, b]) of TFRecord files of `tf.train.Example`.

    Parameters
    ----------
    files : str or sequence of str
        Paths or a pattern such as "rows-*.tfrecord". Rows are taken from all of them in turn.
    features : int
        D, the numbers of a row.
    key : str
        Of the float_list that holds them.
    count : int, optional
        N. By default the files are read once to count.
    perplexity, batch_size, buffer, seed
        As in :func:`from_dataset`.

    Raises
    ------
    ValueError
        If there are no such files, or the sizes do not fit.
    tf.errors.InvalidArgumentError
        While it runs, if a record has other than D numbers under the key.

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
    """Batches (X [b, D], P [b, b]) of Parquet files, read a row group at a time, by pyarrow.

    Parameters
    ----------
    files : str or sequence of str
        Paths or a pattern such as "rows-*.parquet". Their row groups come in a new order every
        epoch; groups of 10³ to 10⁵ rows keep memory low.
    columns : sequence of str, optional
        The D columns; all of the first file by default.
    perplexity, batch_size, buffer, seed
        As in :func:`from_dataset`.

    Raises
    ------
    ModuleNotFoundError
        Without pyarrow; the extra `parquet` has it.
    ValueError
        If there are no such files, a column is missing or not numeric, or the sizes do not fit.

    Examples
    --------
    >>> import pandas
    >>> pandas.DataFrame(X).rename(columns=str).to_parquet("rows.parquet")
    >>> X_batch, P = next(iter(from_parquet("rows.parquet", perplexity=30, batch_size=100)))
    >>> X_batch.shape, P.shape
    (TensorShape([100, 64]), TensorShape([100, 100]))
    """
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "from_parquet needs pyarrow: pip install 'ptsne_keras[parquet]'.", name="pyarrow"
        ) from error
    paths = _paths(files, "Parquet")
    tables = [pyarrow.parquet.ParquetFile(path) for path in paths]
    if columns is None:  # without the index that pandas wrote
        schema = tables[0].schema_arrow
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        columns = [name for name in schema.names if name not in index]
    elif isinstance(columns, str | Real) or not 0 < len(columns) == len(set(columns)):
        raise ValueError(f"columns should be one or more names, each once. Received: {columns!r}.")
    for path, table in zip(paths, tables, strict=True):
        missing = sorted(set(columns) - set(table.schema_arrow.names))
        if missing:
            raise ValueError(
                f"columns should be in every file. Received: {path} without {missing}."
            )
    groups = [(f, g) for f, table in enumerate(tables) for g in range(table.num_row_groups)]
    groups = [(f, g) for f, g in groups if tables[f].metadata.row_group(g).num_rows]

    def read(group: Any) -> FloatArray:
        f, g = group
        table = tables[f].read_row_group(int(g), columns=columns)
        X = np.column_stack([column.to_numpy() for column in table.columns])
        return validation.check_rows(X, name=f"{paths[f]}, row group {g},").astype(
            np.float32, copy=False
        )

    def block(group: tf.Tensor) -> tf.Tensor:
        x = tf.numpy_function(read, [group], tf.float32)
        return tf.ensure_shape(x, [None, len(columns)])

    if not groups:
        raise ValueError(f"files should have rows. Received: {paths}, with none.")
    read(groups[0])  # what cannot be read is reported here
    data = tf.data.Dataset.from_tensor_slices(groups).shuffle(len(groups), seed=seed).map(block)
    count = sum(table.metadata.num_rows for table in tables)
    return from_dataset(data, perplexity, batch_size, count=count, buffer=buffer, seed=seed)


def _paths(files: str | Sequence[str], kind: str) -> list[str]:
    """List the files that paths and patterns name, or raise where there are none."""
    patterns = [files] if isinstance(files, str | os.PathLike) else files
    paths = sorted(path for pattern in patterns for path in tf.io.gfile.glob(str(pattern)))
    if not paths:
        raise ValueError(f"files should name {kind} files. Received: {files!r}, none there.")
    return paths
