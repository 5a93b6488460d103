"""Rows through `tf.data`: which rows form which batch, in an order that derives from a seed."""

import contextlib
from numbers import Integral
from typing import Any, Literal, TypeAlias

import numpy as np
import tensorflow as tf

from ptsne_keras.typing import FloatArray

Shuffle: TypeAlias = bool | Literal["once"]
"""True: a new order every epoch; "once": one random order, kept; False: the order given."""


def check(X: Any, *, name: str = "X") -> FloatArray:
    """Return `X` as a float array [N, D], or raise a ValueError that names cause and mend.

    float64 stays float64, anything else numeric becomes float32.

    Raises
    ------
    ValueError
        If `X` is not 2-D, has no rows or no columns, is not numeric, or holds NaN or infinity.
    """
    X = np.asarray(X)
    if X.dtype == object:  # such as a frame of mixed or nullable columns
        with contextlib.suppress(TypeError, ValueError):
            X = X.astype(np.float64)
    if X.dtype.kind not in "fiub":
        raise ValueError(f"{name} should be numeric. Received: dtype {X.dtype}.")
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"{name} should be a 2-D array [N, D] of rows. Received: shape {X.shape}.")
    double = X.dtype.kind == "f" and X.dtype.itemsize == 8  # of either byte order
    X = X.astype(np.float64 if double else np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(X).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{name} should be finite; drop or impute the rows with NaN or infinity. "
            f"Received: {bad.size} such rows, the first at index {bad[0]}."
        )
    return X


def reshuffled(shuffle: Shuffle) -> bool:
    """Whether the order is new in every epoch.

    Examples
    --------
    >>> reshuffled("once")
    False
    """
    return not isinstance(shuffle, str) and bool(shuffle)


def batch_count(n: int, batch_size: int, multiple: int = 1) -> int:
    """Count the batches of at most `batch_size` rows; of many, the next multiple of `multiple`.

    Examples
    --------
    >>> batch_count(1000, 300), batch_count(60_000, 512, multiple=8)
    (4, 120)
    """
    count = -(-n // batch_size)
    return count + (-count % multiple if count >= 4 * multiple else 0)


def index_batches(
    n: int,
    batch_size: int,
    *,
    multiple: int = 1,
    shuffle: Shuffle = True,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Batches of row indices, each of the n rows exactly once an epoch, in graph ops alone.

    There are `batch_count` batches whose sizes differ by one row at most: a small last batch
    would have a neighbourhood graph of its own, or too few rows for any.

    Returns
    -------
    tf.data.Dataset of int64 [b]
        Of known cardinality.
    """
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(
            f"batch_size should be an integer of at least 1. Received: {batch_size!r}."
        )
    if shuffle != "once" and not isinstance(shuffle, bool | np.bool_):
        raise ValueError(f'shuffle should be True, False or "once". Received: {shuffle!r}.')
    count = batch_count(n, batch_size, multiple)
    seed = int(np.random.default_rng(seed).integers(2**31))
    # ⌊i n / count⌋ spreads the remainder over the batches.
    bounds = tf.constant(np.arange(count + 1, dtype=np.int64) * n // count)

    def epoch(epoch_seed: Any) -> tf.data.Dataset:
        order = tf.range(n, dtype=tf.int64)
        if shuffle:
            order = tf.random.experimental.stateless_shuffle(order, seed=[seed, epoch_seed])
        return tf.data.Dataset.range(count).map(lambda i: order[bounds[i] : bounds[i + 1]])

    if reshuffled(shuffle):
        epochs = random_numbers(seed).take(1)
    else:
        epochs = tf.data.Dataset.from_tensors(tf.constant(0, tf.int64))
    batches = epochs.flat_map(epoch)
    return batches.apply(tf.data.experimental.assert_cardinality(count))


def random_numbers(seed: int) -> tf.data.Dataset:
    """Random int64 numbers: other ones in each iteration over the data set, that is each epoch.

    `tf.data.Dataset.random` would mix in the global seed, so that what a user does elsewhere
    changed the order here.

    Examples
    --------
    >>> numbers = random_numbers(0).take(2)
    >>> [len(set(numbers.as_numpy_iterator())) for epoch in range(2)]
    [2, 2]
    """
    numbers = tf.raw_ops.RandomDatasetV2(
        seed=seed,
        seed2=1,  # two zeros would mean: unseeded
        seed_generator=tf.raw_ops.DummySeedGenerator(),
        rerandomize_each_iteration=True,
        output_types=[tf.int64],
        output_shapes=[[]],
    )
    return tf.data.experimental.from_variant(numbers, tf.TensorSpec([], tf.int64))


def from_array(
    X: Any, batch_size: int, *, shuffle: Shuffle = True, seed: int | None = None
) -> tf.data.Dataset:
    """Batches of rows X [b, D] of an array [N, D]; for what needs rows alone, such as an RBM.

    Examples
    --------
    >>> for part in from_array(X, 100, shuffle=False):
    ...     print(part.shape)
    (100, 64)
    (100, 64)
    """
    X = tf.constant(check(X))
    indices = index_batches(X.shape[0], batch_size, shuffle=shuffle, seed=seed)
    # Gathering is a memory copy: a thread pool for it costs more than it saves.
    return indices.map(lambda i: tf.gather(X, i)).prefetch(tf.data.AUTOTUNE)
