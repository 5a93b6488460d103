"""Measures of a map from arrays, block by block, so that memory does not grow with N²."""

from typing import Any

import numpy as np
import scipy.stats
from scipy.spatial.distance import pdist

from ptsne_keras import losses
from ptsne_keras.metrics import ranks
from ptsne_keras.typing import Dof, FloatArray
from ptsne_keras.utils import arrays
from ptsne_keras.utils.validation import (
    check_integer,
    check_pair,
    check_rows,
    check_same_width,
    check_test_pair,
    check_together,
    unmasked,
)


def trustworthiness(
    X: Any, Y: Any, n_neighbors: int = 12, *, sample_size: int | None = None, random_state: int = 0
) -> float:
    """Return the trustworthiness T(k), 0 to 1: whether neighbours on the map are so in the data.

    T(k) = 1 - 2 / (N k (2N - 3k - 1)) Σ_i Σ_{j ∈ U_i(k)} (r(i, j) - k), where U_i(k) are the k map
    neighbours of i that are not among its k data neighbours, and r is their rank in the data.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        Data.
    Y : array-like of shape (n_samples, n_dimensions)
        Map.
    n_neighbors : int, default=12
        k, below n_samples / 2.
    sample_size : int, default=None
        Number of rows i, drawn at random, that the sum runs over; their ranks are among all rows.
        By default all rows, which takes time ∝ N² D.
    random_state : int, default=0
        Seed of the draw.

    Raises
    ------
    ValueError
        If X and Y are not finite with the same number of rows, or a number is out of range.

    Examples
    --------
    >>> trustworthiness(X_test, tsne.transform(X_test), n_neighbors=12)

    References
    ----------
    Venna & Kaski (2001), Neighborhood preservation in nonlinear projection methods.
    """
    X, Y = check_pair(X, Y)
    n = X.shape[0]
    if check_integer(n_neighbors, "n_neighbors") >= n / 2:
        raise ValueError(f"n_neighbors should be below N / 2 = {n / 2:g}. Received: {n_neighbors}.")
    chosen = ranks.drawn(n, sample_size, random_state)
    near = ranks.nearest(Y, n_neighbors, of=chosen)
    return trust(ranks.ranks(X, chosen, near), n)


def trust(found: ranks.Indices, n: int) -> float:
    """Return T(k) for the ranks [q, k], among n rows, of the k neighbours of q rows."""
    q, k = found.shape
    return 1.0 - 2.0 * float(np.maximum(found - k, 0).sum()) / (q * k * (2 * n - 3 * k - 1))


def continuity(
    X: Any, Y: Any, n_neighbors: int = 12, *, sample_size: int | None = None, random_state: int = 0
) -> float:
    """Return the continuity: whether neighbours in the data are neighbours on the map.

    This is :func:`trustworthiness` with X and Y exchanged, and takes the same parameters.

    Examples
    --------
    >>> continuity(X_test, tsne.transform(X_test), n_neighbors=12)
    """
    return trustworthiness(Y, X, n_neighbors, sample_size=sample_size, random_state=random_state)


def knn_accuracy(
    Y_train: Any,
    labels_train: Any,
    Y_test: Any = None,
    labels_test: Any = None,
    n_neighbors: int = 1,
) -> float:
    """Return the accuracy of a k-nearest-neighbour classifier on the map.

    A tie between labels goes to the first in sorted order, as in scikit-learn.

    Parameters
    ----------
    Y_train, labels_train : array-like of shape (n_samples, n_dimensions), (n_samples,)
        Map of the training rows, and their labels.
    Y_test, labels_test : array-like of shape (n_test, n_dimensions), (n_test,), default=None
        The same of test rows. By default each training row is classified by the others.
    n_neighbors : int, default=1
        k.

    Raises
    ------
    ValueError
        If a map is not finite and numeric, labels or widths do not match, one of `Y_test` and
        `labels_test` is missing, or `n_neighbors` is out of range.

    Examples
    --------
    >>> knn_accuracy(tsne.embedding_, labels_train, tsne.transform(X_test), labels_test, 5)
    >>> knn_accuracy(tsne.embedding_, labels_train, n_neighbors=5)

    References
    ----------
    van der Maaten (2009), section 4.2, which gives the error for k = 1.
    """
    check_together(Y_test=Y_test, labels_test=labels_test)
    Y_train, labels_train = _labelled(Y_train, labels_train, "train")
    if Y_test is None:
        labels_test = labels_train
    else:
        Y_test, labels_test = _labelled(Y_test, labels_test, "test")
        check_same_width(Y_test, Y_train, names=("Y_test", "Y_train"))
    near = ranks.nearest(Y_train, n_neighbors, X_new=Y_test)
    classes, codes = np.unique(labels_train, return_inverse=True)
    found = classes[scipy.stats.mode(codes[near], axis=1).mode]
    return float(np.mean(found == labels_test))


def _labelled(Y: Any, labels: Any, part: str) -> tuple[FloatArray, Any]:
    """Return a finite map and its labels [N], or raise unless there is one for each row."""
    Y, labels = check_rows(Y, name=f"Y_{part}"), np.asarray(unmasked(labels, f"labels_{part}"))
    if labels.shape != (len(Y),):
        raise ValueError(
            f"labels_{part} should have one label for each of the {len(Y)} rows of Y_{part}. "
            f"Received: shape {labels.shape}."
        )
    return Y, labels


def neighborhood_recall(
    X: Any,
    Y: Any,
    X_test: Any = None,
    Y_test: Any = None,
    n_neighbors: int = 10,
    *,
    sample_size: int | None = None,
    random_state: int = 0,
) -> float:
    """Return the mean share of the k nearest rows in the data that are k nearest on the map.

    This is the mean of :func:`neighborhood_recall_per_row`, and takes the same parameters.

    Examples
    --------
    >>> neighborhood_recall(X, Y)
    >>> neighborhood_recall(X_train, tsne.embedding_, X_test, tsne.transform(X_test))
    """
    each = neighborhood_recall_per_row(
        X, Y, X_test, Y_test, n_neighbors, sample_size=sample_size, random_state=random_state
    )
    return float(each.mean())


def neighborhood_recall_per_row(
    X: Any,
    Y: Any,
    X_test: Any = None,
    Y_test: Any = None,
    n_neighbors: int = 10,
    *,
    sample_size: int | None = None,
    random_state: int = 0,
) -> FloatArray:
    """Return the share of each row's k nearest rows in the data that are k nearest on the map.

    Parameters
    ----------
    X, Y : {array-like, sparse matrix} of shape (n_samples, n_features), (n_samples, n_dimensions)
        Data to choose neighbours from, and their map.
    X_test, Y_test : array-like or sparse matrix, default=None
        Rows whose neighbours are found, and their map. By default X and Y, each without itself.
    n_neighbors : int, default=10
        k.
    sample_size : int, default=None
        Number of rows, drawn at random, whose neighbours are found among all. By default all rows.
    random_state : int, default=0
        Seed of the draw.

    Returns
    -------
    ndarray of shape (n_samples,), (n_test,) or (sample_size,)
        Shares, in the order of the rows.

    Raises
    ------
    ValueError
        If data and map are not finite with the same number of rows, test rows have other widths,
        one of `X_test` and `Y_test` is missing, or a number is out of range.

    Examples
    --------
    >>> worst_first = np.argsort(neighborhood_recall_per_row(X, Y))
    """
    X, Y = check_pair(X, Y)
    X_test, Y_test = check_test_pair(X, Y, X_test, Y_test)
    n = (X if X_test is None else X_test).shape[0]
    of = ranks.drawn(n, sample_size, random_state)
    true = ranks.nearest(X, n_neighbors, of=of, X_new=X_test)
    return ranks.recall(true, ranks.nearest(Y, n_neighbors, of=of, X_new=Y_test))


def distance_correlation(
    X: Any, Y: Any, *, sample_size: int | None = 2000, random_state: int = 0
) -> float:
    """Return Spearman's ρ, from -1 to 1, between the distances in the data and on the map.

    It measures the large-scale order of the map, which t-SNE does not optimise.

    Parameters
    ----------
    X, Y, random_state
        As in :func:`trustworthiness`.
    sample_size : int, default=2000
        Number of rows, drawn at random, all pairs of which are compared, in memory. None for all.

    Raises
    ------
    ValueError
        If X and Y are not finite with the same number of rows, or there are fewer than 3.

    Examples
    --------
    >>> distance_correlation(X, Y)
    """
    return rank_correlation(*sampled_distances(X, Y, sample_size, random_state))


def sampled_distances(
    X: Any, Y: Any, sample_size: int | None, random_state: int
) -> tuple[FloatArray, FloatArray]:
    """Return the distances in the data and on the map between all pairs of a sample of rows."""
    X, Y = check_pair(X, Y, least=3)
    if sample_size is not None:
        check_integer(sample_size, "sample_size", 3)
    chosen = ranks.drawn(X.shape[0], sample_size, random_state)
    return pdist(arrays.rows_at(X, chosen)), pdist(arrays.rows_at(Y, chosen))


def rank_correlation(far: FloatArray, found: FloatArray) -> float:
    """Return Spearman's ρ, or 0 if all distances are equal and have no order."""
    if not (np.ptp(far) and np.ptp(found)):
        return 0.0
    return float(scipy.stats.spearmanr(far, found).statistic)


def kl_divergence(P: Any, Y: Any, *, dof: Dof = 1.0) -> float:
    """Return KL(P‖Q) of a map in nats, the sum of the row terms of `losses.tsne`.

    Parameters
    ----------
    P, Y, dof
        Joint probabilities, map and degrees of freedom, as in :func:`ptsne_keras.losses.tsne`.

    Examples
    --------
    >>> kl_divergence(affinities.joint_probabilities(X, 30), Y)
    """
    return float(np.sum(np.asarray(losses.tsne(P, Y, dof=dof), dtype=np.float64)))


def mean_kl_divergence(encoder: Any, batches: Any, *, dof: Dof = 1.0) -> float:
    """Return KL(P‖Q) in nats of the maps of batches, averaged over rows.

    Parameters
    ----------
    encoder : callable
        A Keras model, or anything that maps X and takes `training=False`.
    batches : iterable of (X, P)
        Rows [B, D] and their joint probabilities [B, B].
    dof : float or "auto", default=1.0
        Degrees of freedom of the Student-t kernel.

    Examples
    --------
    >>> mean_kl_divergence(tsne.encoder_, data.from_array(X_test, 30, shuffle=False))
    """
    total, count = 0.0, 0
    for X, P in batches:
        total += len(X) * kl_divergence(P, encoder(X, training=False), dof=dof)
        count += len(X)
    return total / count
