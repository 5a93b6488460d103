"""`tf.data` pipelines of (X, P): a batch of rows and its joint probabilities."""

import math
import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
import tensorflow as tf

from ptsne_keras import affinities
from ptsne_keras.affinities.neighbors import Neighbors, nearest
from ptsne_keras.affinities.perplexity import is_variable, several, values
from ptsne_keras.affinities.probabilities import calibrate_neighbors, duplicates_message
from ptsne_keras.data import order
from ptsne_keras.data._pairs import PairSampler
from ptsne_keras.data.order import Shuffle, check_batches
from ptsne_keras.data.sources import Source, source
from ptsne_keras.typing import Perplexity
from ptsne_keras.utils import distribution, validation

# Divides the number of graph batches of an epoch, where they are so many that a few more do not
# matter: `steps_per_execution` has to divide it, and of a prime number nothing does.
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
    """Batches (X [b, D], P [b, b]) of an array, P calibrated inside each batch; for `model.fit`.

    Every row comes exactly once an epoch, in ceil(N / batch_size) batches whose sizes differ by
    one row at most. In-batch perplexity u acts like u N / B on the whole set.

    Parameters
    ----------
    X : array [N, D], np.memmap, or SciPy sparse matrix or array
        Rows; float64 stays float64, anything else becomes float32. An array is copied once; of the
        other two only the rows of a batch are read, or made dense, at a time.
    perplexity : float, sequence of float or scalar variable
        Above 1 and below b - 1. Of several, P is the mean over them. A variable may change between
        epochs: see `callbacks.Schedule`.
    batch_size : int
        Most rows a batch. P takes b² numbers.
    shuffle : bool or "once"
        True: new batches every epoch, P recomputed, so that each row meets all its neighbours
        sooner or later. "once": one random split, kept, with P computed in the first epoch and
        cached (the 2009 paper's recipe); this holds N · b numbers in memory. False: the same
        with the rows in the order given.
    seed : int, optional
        Makes the order reproducible.
    epoch : tf.Variable, optional
        The number of the epoch, from `callbacks.Schedule()`: the order derives from it, so that a
        run that goes on from a backup meets the batches that it would have met.
    replicas : int
        Of a `tf.distribute` strategy, or devices of a `keras.distribution`. An element is then so
        many batches of one size stacked, X [R b, D] and P [R b, b], of which each replica is given
        one. Fewer rows than there are batches are left out, other ones in each epoch. Where a
        `keras.distribution` of several processes is set, each makes the blocks of its own devices
        alone.

    Returns
    -------
    tf.data.Dataset
        Of known cardinality, in graph ops alone for an array.

    Raises
    ------
    ValueError
        If X is not a finite numeric [N, D] array with N ≥ 3, or the smallest batch has no more
        than perplexity + 1 rows.

    Warns
    -----
    UserWarning
        If rows have at least as many exact duplicates in X as the perplexity.

    Examples
    --------
    >>> model.compile("adam", loss=ptsne_keras.losses.TSNE())
    >>> model.fit(from_array(X, perplexity=30, batch_size=1000, seed=0), epochs=50)

    References
    ----------
    van der Maaten (2009), section 4.1: 12 fixed batches of 5,000 MNIST rows.
    """
    drawn = source(X)
    check_batches(drawn.count, perplexity, batch_size, replicas)
    own = distribution.own_blocks(replicas, seed)
    warn_of_duplicates(drawn, perplexity)
    indices = order.index_batches(
        drawn.count, batch_size, shuffle=shuffle, seed=seed, epoch=epoch, replicas=replicas
    )

    def batch(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = drawn.take(i)
        return x, affinities.joint_probabilities(x, perplexity)

    dataset = _blocks(indices, own, replicas).map(batch, num_parallel_calls=tf.data.AUTOTUNE)
    # Fixed batches have a fixed P. One batch of all rows has, too, in whatever order they come.
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
    jitter: float = 0.0,
    places: Any = None,
    seed: int | None = None,
    epoch: tf.Variable | None = None,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Batches (X [b, D], P [b, 1]) of pairs drawn along the neighbourhood graph of all rows.

    A batch is b/2 rows i and, b/2 rows further on, one neighbour j of each, drawn from p_{j|i},
    which is calibrated on the whole set. P is nonzero only at the drawn pairs, p_ij = p_ji = 1/b,
    so that the mean of Σ p_ij f_ij over batches is that of the P of the whole set, and
    `losses.tsne` takes it as [b, 1]; all pairs of a batch repel. Each row is an i exactly once an
    epoch, in about 2 N / batch_size batches whose sizes differ by two at most.

    Parameters
    ----------
    X : array [N, D]
        Rows, N ≥ 4.
    perplexity : float, sequence of float or scalar variable
        Of the whole set: above 1, and below N - 1 or, with `neighbors`, below their number k. Of
        several, p_{j|i} is the mean over them. A variable may change, see `callbacks.Schedule`, and
        neighbours are sought for its first value.
    batch_size : int
        Most rows in a batch, at least 4.
    neighbors : Neighbors, optional
        Found elsewhere, such as on principal components; by default the nearest 3 · perplexity.
    jitter : float
        Each row drawn comes with noise, as if drawn from an estimate of the density and not from
        the sample itself, so that a network cannot learn rows by heart:
        x + jitter · ((x_a - x_b) / 2 + r / √(2D) · ε), where a and b are two of its 15 nearest
        neighbours at random, r is the distance of the nearest, and ε is standard normal. The
        difference has the directions in which the data vary there, ε all directions.
    places : array [N, d], optional
        Of the rows on a map that is given: they come behind P, [b, 1 + d], for
        `placement.Placement`.
    seed : int, optional
        Makes neighbours, order and draws reproducible.
    epoch, replicas
        As in :func:`from_array`.

    Returns
    -------
    tf.data.Dataset
        Of known cardinality, in graph ops alone.

    Raises
    ------
    ValueError
        If X is not finite numeric rows, or the sizes do not fit one another.

    Warns
    -----
    UserWarning
        If rows have at least as many exact duplicates in X as the perplexity.

    Examples
    --------
    >>> model.compile("adam", loss=ptsne_keras.losses.TSNE(exaggeration=2))
    >>> model.fit(from_graph(X, perplexity=15, batch_size=200, seed=0), epochs=50)

    References
    ----------
    Tang et al. (2016), Visualizing large-scale and high-dimensional data, section 3.2, for drawing
    edges in proportion to their weights.
    """
    X = validation.check_rows(X)
    n = len(X)
    if n < 4:
        raise ValueError(f"X should have at least 4 rows. Received: {n}.")
    if not isinstance(batch_size, Integral) or batch_size < 4:
        raise ValueError(
            f"batch_size should be an integer of at least 4. Received: {batch_size!r}."
        )
    if isinstance(jitter, bool) or not isinstance(jitter, Real) or not 0 <= jitter < math.inf:
        raise ValueError(f"jitter should be a number of at least 0. Received: {jitter!r}.")
    if places is not None:
        places = validation.check_rows(places, name="places")
        if len(places) != n:
            raise ValueError(
                f"places should be as many as the {n} rows of X. Received: {len(places)}."
            )
    own = distribution.own_blocks(replicas, seed)
    perplexities = several(perplexity)
    if neighbors is None:
        largest = max(values(perplexity))
        if not largest < n - 1:
            raise ValueError(
                f"perplexity should be above 1 and below N - 1 = {n - 1}. Received: {perplexity!r}."
            )
        neighbors = nearest(X, min(math.ceil(3 * largest), n - 1), seed=seed)
    else:
        neighbors = _checked(neighbors, n)
    order_seed, draw_seed = np.random.default_rng(seed).integers(2**31, size=2).tolist()
    heads = order.index_batches(
        n,
        batch_size // 2,
        multiple=GRAPH_MULTIPLE,
        seed=order_seed,
        epoch=epoch,
        replicas=replicas,
    )
    probabilities: Any
    if any(map(is_variable, perplexities)):
        distances = tf.constant(neighbors.distances)

        def probabilities(i: tf.Tensor) -> tf.Tensor:
            return calibrate_neighbors(tf.gather(distances, i), perplexity)[0]
    else:
        probabilities = affinities.neighbor_probabilities(neighbors.distances, perplexity)
    draw = PairSampler(X, neighbors, probabilities, jitter, places)
    dataset = tf.data.Dataset.zip((heads, order.random_numbers(draw_seed, epoch)))
    dataset = _blocks(dataset, own, replicas).map(draw, num_parallel_calls=tf.data.AUTOTUNE)
    return order.prefetched(stacked(dataset, len(own)))


def _blocks(dataset: tf.data.Dataset, own: range, replicas: int) -> tf.data.Dataset:
    """Keep those of each so many consecutive elements that are the process's own."""
    if len(own) == replicas:
        return dataset

    def is_own(k: tf.Tensor, _: Any) -> tf.Tensor:
        return (k % replicas >= own.start) & (k % replicas < own.stop)

    count = int(dataset.cardinality()) // replicas * len(own)
    kept = dataset.enumerate().filter(is_own).map(lambda _, element: element)
    return kept.apply(tf.data.experimental.assert_cardinality(count))


def stacked(dataset: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    """Stack so many batches of one size: X [R b, D], P [R b, b]."""
    if replicas == 1:
        return dataset

    def merge(x: tf.Tensor) -> tf.Tensor:  # [R, b, …] → [R b, …]
        return tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], axis=0))

    stacked = dataset.batch(replicas, drop_remainder=True)
    return stacked.map(lambda x, P: (merge(x), merge(P)))


def _checked(neighbors: Neighbors, n: int) -> Neighbors:
    """Return neighbours found elsewhere, with int32 indices, if they can be those of n rows."""
    indices = np.asarray(neighbors.indices)
    distances = validation.check_rows(neighbors.distances, name="neighbors.distances")
    if indices.shape != distances.shape or indices.ndim != 2 or len(indices) != n:
        raise ValueError(
            f"neighbors should be indices and distances [N, k] of the N = {n} rows of X. "
            f"Received: shapes {indices.shape} and {distances.shape}."
        )
    if indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= n:
        raise ValueError(
            f"neighbors.indices should be integers from 0 to N - 1 = {n - 1}. "
            f"Received: {indices.dtype} from {indices.min()} to {indices.max()}."
        )
    own = np.flatnonzero((indices == np.arange(n)[:, None]).any(axis=1))
    if own.size:
        raise ValueError(
            "neighbors should not name a row as its own neighbour: leave that column out. "
            f"Received: {own.size} such rows, the first at index {own[0]}."
        )
    return Neighbors(indices.astype(np.int32, copy=False), distances)


def warn_of_duplicates(drawn: Source, perplexity: Perplexity) -> None:
    """Warn if rows have too many exact duplicates, once here rather than in each batch."""
    # By hashes: comparing the rows themselves would take a copy of all of them.
    hashes = np.fromiter(
        (hash(row.tobytes()) for block in drawn.blocks() for row in block + 0.0),  # -0 → 0
        np.int64,
        drawn.count,
    )
    _, counts = np.unique(hashes, return_counts=True)
    least = min(values(perplexity))
    many = int(counts[counts - 1 >= least].sum())
    if many:
        warnings.warn(duplicates_message(many, perplexity), stacklevel=3)
