"""`tf.data` pipelines of batches (X, P) drawn from rows in memory or on disk."""

import math
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from ptsne_keras import affinities
from ptsne_keras.affinities.neighbors import Neighbors, check_neighbors, nearest
from ptsne_keras.affinities.perplexity import is_variable, several, values
from ptsne_keras.affinities.probabilities import duplicates_message
from ptsne_keras.data import order
from ptsne_keras.data._pairs import PairSampler
from ptsne_keras.data.order import Shuffle, check_batches
from ptsne_keras.data.sources import Source, source
from ptsne_keras.typing import FloatArray, Perplexity
from ptsne_keras.utils import distribution
from ptsne_keras.utils.validation import check_integer, check_not_negative, check_rows, check_shape

# Graph batches in an epoch are a multiple of this, unless few: `steps_per_execution` divides it.
GRAPH_MULTIPLE = 8


def from_array(
    X: Any,
    perplexity: Perplexity = 30.0,
    batch_size: int = 2500,
    *,
    shuffle: Shuffle = True,
    seed: int | None = None,
    epoch: tf.Variable | None = None,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Make batches of random rows, with P calibrated inside each batch.

    An element is (X [b, D], P [b, b]). Every row comes exactly once per epoch, in
    ceil(N / batch_size) batches whose sizes differ by at most one. Perplexity u in a batch acts
    like u N / b on the whole data set.

    Parameters
    ----------
    X : {array-like, np.memmap, sparse matrix} of shape (n_samples, n_features)
        Rows; float64 stays float64, everything else becomes float32. Memory-mapped and sparse rows
        are read, or made dense, one batch at a time.
    perplexity : float, sequence of float or scalar variable, default=30.0
        Above 1 and below b - 1. P is the mean over several perplexities. A variable may change
        between epochs, see `callbacks.Schedule`.
    batch_size : int, default=2500
        Largest number of rows in a batch. P takes b² numbers.
    shuffle : bool or "once", default=True
        True draws new batches and computes P again every epoch, so that each row meets all its
        neighbours in time. "once" keeps one random split and caches its P, N · b numbers, as in the
        2009 paper. False does the same with the rows in the given order.
    seed : int, default=None
        Seed of the order.
    epoch : tf.Variable, default=None
        Number of the epoch, the `value` of `callbacks.Schedule()`, from which the order derives,
        so that a resumed run meets the batches that it would have met.
    replicas : int, default=1
        Number R of replicas of a `tf.distribute` strategy, or of devices of a
        `keras.distribution`. An element is then R batches of the same size stacked, X [R b, D] and
        P [R b, b], and each epoch leaves out fewer rows than there are batches. Each process of a
        `keras.distribution` makes the blocks of its own devices.

    Returns
    -------
    tf.data.Dataset
        Of known cardinality; for an array, of graph ops only.

    Raises
    ------
    ValueError
        If X is not finite and numeric, or the smallest batch has too few rows for the perplexity.

    Warns
    -----
    UserWarning
        If rows have at least as many exact duplicates in X as the perplexity.

    Examples
    --------
    >>> model.compile("adam", loss=ptsne_keras.losses.TSNE())
    >>> dataset = from_array(X, perplexity=30, batch_size=1000, seed=0)
    >>> model.fit(dataset, epochs=50, shuffle=False)

    References
    ----------
    van der Maaten (2009), section 4.1: 12 fixed batches of 5,000 MNIST rows.
    """
    own = distribution.own_blocks(replicas, seed)
    drawn = checked_source(X, perplexity, batch_size, replicas)
    indices = order.index_batches(
        drawn.count, batch_size, shuffle=shuffle, seed=seed, epoch=epoch, replicas=replicas
    )

    def batch(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = drawn.take(i)
        return x, affinities.joint_probabilities(x, perplexity)

    # Graph ops already: converting the function takes seconds.
    batch = tf.autograph.experimental.do_not_convert(batch)
    dataset = _blocks(indices, own, replicas).map(batch, num_parallel_calls=tf.data.AUTOTUNE)
    # P is fixed if the batches are, or if one batch holds all rows, in whatever order.
    single = batch_size >= drawn.count and replicas == 1
    fixed = single or not order.reshuffled(shuffle)
    if fixed and not any(map(is_variable, several(perplexity))):
        dataset = dataset.cache()
    return order.prefetched(stacked(dataset, len(own)))


def from_graph(
    X: Any,
    perplexity: Perplexity = 15.0,
    batch_size: int = 1024,
    *,
    neighbors: Neighbors | None = None,
    probabilities: FloatArray | None = None,
    jitter: float = 0.0,
    seed: int | None = None,
    epoch: tf.Variable | None = None,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Make batches of pairs drawn along the neighbour graph of all rows.

    An element is (X [b, D], P [b, 1]): b/2 rows i and, b/2 rows further on, one neighbour j of
    each, drawn from p_{j|i}, which is calibrated on the whole data set. Drawn pairs have
    p_ij = p_ji = 1/b and all others 0, so that Σ p_ij f_ij averaged over batches is that of the
    whole data set; all rows of a batch repel one another. Each row is an i exactly once per epoch.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        At least 4 rows.
    perplexity : float, sequence of float or scalar variable, default=15.0
        Perplexity on the whole data set, above 1 and below N - 1, or k if `neighbors` are given.
        As in :func:`from_array`; neighbours are found for the first value of a variable.
    batch_size : int, default=1024
        Largest number of rows in a batch, at least 4.
    neighbors : Neighbors, default=None
        Neighbours found elsewhere; by default the nearest 3 · perplexity rows.
    probabilities : ndarray of shape (n_samples, k), default=None
        p_{j|i} over the given `neighbors`, which are not checked then; by default calibrated to
        the perplexity.
    jitter : float, default=0.0
        Scale of noise on each drawn row, which keeps a network from memorising the rows:
        x + jitter · ((x_a - x_b) / 2 + r / √(2D) · ε), where a and b are two random ones of its 15
        nearest neighbours, r is the distance to the nearest, and ε is standard normal.
    seed, epoch, replicas
        As in :func:`from_array`.

    Returns
    -------
    tf.data.Dataset
        Of known cardinality, of graph ops only.

    Raises
    ------
    ValueError
        If X is not finite and numeric, or an option is out of range or does not fit X.

    Warns
    -----
    UserWarning
        As :func:`from_array`.

    Examples
    --------
    >>> model.compile("adam", loss=ptsne_keras.losses.TSNE(exaggeration=2))
    >>> dataset = from_graph(X, perplexity=15, batch_size=200, seed=0)
    >>> model.fit(dataset, epochs=50, shuffle=False)

    References
    ----------
    Tang et al. (2016), Visualizing large-scale and high-dimensional data, section 3.2.
    """
    X = check_rows(X)
    check_shape(X, least=4)
    check_integer(batch_size, "batch_size", 4)
    check_not_negative(jitter, "jitter")
    own = distribution.own_blocks(replicas, seed)
    near = neighbors if probabilities is not None else None
    near = near or _graph_neighbors(X, perplexity, neighbors, seed)
    order_seed, draw_seed = np.random.default_rng(seed).integers(2**31, size=2).tolist()
    options: dict[str, Any] = {"multiple": GRAPH_MULTIPLE, "epoch": epoch, "replicas": replicas}
    heads = order.index_batches(len(X), batch_size // 2, seed=order_seed, **options)
    dataset = tf.data.Dataset.zip((heads, order.random_numbers(draw_seed, epoch)))
    sampler = PairSampler(X, near, perplexity, jitter, probabilities)
    draw = tf.autograph.experimental.do_not_convert(sampler)
    dataset = _blocks(dataset, own, replicas).map(draw, num_parallel_calls=tf.data.AUTOTUNE)
    return order.prefetched(stacked(dataset, len(own)))


def checked_source(X: Any, perplexity: Perplexity, batch_size: int, replicas: int) -> Source:
    """Return a source of rows that suffice for the perplexity; warn of duplicates once."""
    drawn = source(X)
    check_batches(drawn.count, perplexity, batch_size, replicas)
    # By hashes, because comparing the rows would take a copy of all of them.
    rows = (row for block in drawn.blocks() for row in block + 0.0)  # -0 → 0
    hashes = np.fromiter((hash(row.tobytes()) for row in rows), np.int64, drawn.count)
    _, counts = np.unique(hashes, return_counts=True)
    many = int(counts[counts - 1 >= min(values(perplexity))].sum())
    if many:
        warnings.warn(duplicates_message(many, perplexity), stacklevel=3)
    return drawn


def stacked(dataset: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    """Stack R batches of the same size: X [R b, D], P [R b, b]."""
    if replicas == 1:
        return dataset

    def merge(x: tf.Tensor) -> tf.Tensor:  # [R, b, …] → [R b, …]
        return tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], axis=0))

    stacked = dataset.batch(replicas, drop_remainder=True)
    return stacked.map(lambda x, P: (merge(x), merge(P)))


def _blocks(dataset: tf.data.Dataset, own: range, replicas: int) -> tf.data.Dataset:
    """Keep those of every R consecutive elements that belong to this process."""
    if len(own) == replicas:
        return dataset

    def is_own(k: tf.Tensor, _: Any) -> tf.Tensor:
        return (k % replicas >= own.start) & (k % replicas < own.stop)

    count = int(dataset.cardinality()) // replicas * len(own)
    kept = dataset.enumerate().filter(is_own).map(lambda _, element: element)
    return order.of_length(kept, count)


def _graph_neighbors(
    X: FloatArray, perplexity: Perplexity, given: Neighbors | None, seed: int | None
) -> Neighbors:
    """Return the given neighbours after checking them, or the nearest 3 · perplexity rows."""
    n, largest = len(X), max(values(perplexity))
    if given is None:
        if not largest < n - 1:
            raise ValueError(
                f"perplexity should be above 1 and below N - 1 = {n - 1}. Received: {perplexity!r}."
            )
        return nearest(X, min(math.ceil(3 * largest), n - 1), seed=seed)
    return check_neighbors(given, n)
