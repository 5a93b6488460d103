"""Which rows form which batch, in an order that derives from a seed."""

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ptsne_keras.affinities.perplexity import values
from ptsne_keras.typing import Perplexity
from ptsne_keras.utils.validation import check_integer, check_rows

# Batches that wait to be used, besides those that are being computed.
_AHEAD = 4

Shuffle: TypeAlias = bool | Literal["once"]
"""True: a new order every epoch; "once": one random order, kept; False: the given order."""


def reshuffled(shuffle: Shuffle) -> bool:
    """Return whether the order is new in every epoch."""
    return not isinstance(shuffle, str) and bool(shuffle)


def batch_count(n: int, batch_size: int, multiple: int = 1, replicas: int = 1) -> int:
    """Return the number of batches of at most `batch_size` rows; many to a full `multiple`."""
    check_integer(replicas, "replicas")
    count = -(-n // batch_size)
    count += -count % multiple if count >= 4 * multiple else 0
    return count + -count % replicas


def batch_bounds(n: int, count: int, replicas: int = 1) -> npt.NDArray[np.int64]:
    """Return where in the order each batch starts, and where the last one ends: [count + 1]."""
    used = n if replicas == 1 else n // count * count
    # ⌊i n / count⌋ spreads the remainder over the batches.
    return np.arange(count + 1, dtype=np.int64) * used // count


def own_seed(seed: int | None) -> int:
    """Return the seed that the orders of all epochs derive from; random for None."""
    return int(np.random.default_rng(seed).integers(2**31))


def epoch_order(n: int, seed: int, number: Any) -> tf.Tensor:
    """Return a random order [n] of n rows that depends on the seed and the epoch's number only."""
    indices = tf.range(n, dtype=tf.int64)
    return tf.random.experimental.stateless_shuffle(indices, seed=[seed, number])


def index_batches(
    n: int,
    batch_size: int,
    *,
    multiple: int = 1,
    shuffle: Shuffle = True,
    seed: int | None = None,
    epoch: tf.Variable | None = None,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Return batches of row indices, each of the n rows exactly once per epoch, by graph ops."""
    check_integer(batch_size, "batch_size")
    if shuffle != "once" and not isinstance(shuffle, bool | np.bool_):
        raise ValueError(f'shuffle should be True, False or "once". Received: {shuffle!r}.')
    count = batch_count(n, batch_size, multiple, replicas)
    bounds = tf.constant(batch_bounds(n, count, replicas))
    seed = own_seed(seed)

    def batches_of(number: Any) -> tf.data.Dataset:
        order = epoch_order(n, seed, number) if shuffle else tf.range(n, dtype=tf.int64)
        return tf.data.Dataset.range(count).map(lambda i: order[bounds[i] : bounds[i + 1]])

    if not reshuffled(shuffle):
        return of_length(batches_of(0), count)
    return of_length(random_numbers(seed, epoch).take(1).flat_map(batches_of), count)


def of_length(dataset: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """Return the data set with a known number of elements, which is checked when it runs."""
    return dataset.apply(tf.data.experimental.assert_cardinality(count))


def random_numbers(seed: int, epoch: tf.Variable | None = None) -> tf.data.Dataset:
    """Return random int64 numbers, different ones in each iteration, which is each epoch."""
    if epoch is not None:

        def number(i: tf.Tensor) -> tf.Tensor:
            return _random_number([_random_number([seed, epoch]), i])

        return tf.data.Dataset.range(np.iinfo(np.int64).max).map(number)
    numbers = tf.raw_ops.RandomDatasetV2(
        seed=seed,
        seed2=1,  # two zeros would mean no seed
        seed_generator=tf.raw_ops.DummySeedGenerator(),
        rerandomize_each_iteration=True,
        output_types=[tf.int64],
        output_shapes=[[]],
    )
    return tf.data.experimental.from_variant(numbers, tf.TensorSpec([], tf.int64))


def _random_number(seed: list[Any]) -> tf.Tensor:
    return tf.random.stateless_uniform([], seed, minval=None, maxval=None, dtype=tf.int64)


def prefetched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Compute a few elements ahead of their use, in as many threads as there are cores."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(_AHEAD).with_options(options)


def from_array(
    X: Any, batch_size: int, *, shuffle: Shuffle = True, seed: int | None = None
) -> tf.data.Dataset:
    """Return batches of rows [b, D] of an array [N, D], for models such as RBMs."""
    X = tf.constant(check_rows(X))
    indices = index_batches(X.shape[0], batch_size, shuffle=shuffle, seed=seed)
    # Gathering is a memory copy: a thread pool for it costs more than it saves.
    return prefetched(indices.map(lambda i: tf.gather(X, i)))


def check_batches(n: int, perplexity: Perplexity, batch_size: int, replicas: int = 1) -> None:
    """Raise a ValueError unless every batch of n rows has enough rows for the perplexity."""
    if n < 3:
        raise ValueError(f"X should have at least 3 rows. Received: {n}.")
    count = batch_count(n, check_integer(batch_size, "batch_size", 3), replicas=replicas)
    smallest = n // count
    if not 1 < max(values(perplexity)) < smallest - 1:
        raise ValueError(
            f"perplexity should be above 1 and below B - 1 = {smallest - 1}, where B is the "
            f"smallest batch of {n} rows in {count}. Received: {perplexity!r}."
        )
