"""How good a map is, from arrays: neighbours and ranks exactly, and block by block."""

from typing import Any

import numpy as np
import scipy.sparse
import scipy.stats
from scipy.spatial.distance import pdist
from sklearn.neighbors import KNeighborsClassifier

from ptsne_keras import losses
from ptsne_keras.metrics import ranks
from ptsne_keras.typing import Dof, FloatArray
from ptsne_keras.utils.validation import check_rows


def trustworthiness(
    X: Any, Y: Any, k: int = 12, *, rows: int | None = None, seed: int = 0
) -> float:
    """Trustworthiness T(k) in [0, 1]: how far map neighbours are neighbours in the data.

    T(k) = 1 - 2 / (N k (2N - 3k - 1)) Σ_i Σ_{j ∈ U_i(k)} (r(i, j) - k), U_i(k) the map neighbours
    of i that are not among its k data neighbours, r their rank in the data.

    Computed block by block, so that memory does not grow with N²; time ∝ N² D, or `rows` N D.

    Parameters
    ----------
    X : array or sparse matrix [N, D]
        Data.
    Y : array [N, d]
        Map.
    k : int
        Neighbours, below N / 2.
    rows : int, optional
        How many rows i, drawn at random, the sum runs over; their ranks are among all N. By default
        all.
    seed : int
        Of the draw.

    Raises
    ------
    ValueError
        If X or Y is not finite numeric rows, they are not as many, or k is out of range.

    Examples
    --------
    >>> trustworthiness(X_test, tsne.transform(X_test), k=12)

    References
    ----------
    Venna & Kaski (2001).
    """
    X, Y = _pair(X, Y)
    n = X.shape[0]
    if ranks.positive(k, "k") >= n / 2:
        raise ValueError(f"k should be below N / 2 = {n / 2:g}. Received: {k!r}.")
    chosen = ranks.drawn(n, rows, seed)
    near = ranks.nearest(Y, k, of=chosen if len(chosen) < n else None)
    return trust(ranks.ranks(X, chosen, near), n)


def trust(found: ranks.Indices, n: int) -> float:
    """T(k) of the ranks [q, k], among n rows, of the k neighbours of q of them."""
    q, k = found.shape
    return 1.0 - 2.0 * float(np.maximum(found - k, 0).sum()) / (q * k * (2 * n - 3 * k - 1))


def continuity(X: Any, Y: Any, k: int = 12, *, rows: int | None = None, seed: int = 0) -> float:
    """Continuity in [0, 1]: how far neighbours in the data are neighbours on the map.

    Trustworthiness with the roles of X and Y exchanged.

    Examples
    --------
    >>> continuity(X_test, tsne.transform(X_test), k=12)

    References
    ----------
    Venna & Kaski (2001).
    """
    return trustworthiness(Y, X, k, rows=rows, seed=seed)


def knn_accuracy(
    Y_train: Any, labels_train: Any, Y_test: Any = None, labels_test: Any = None, k: int = 1
) -> float:
    """Share of test rows whose label is the majority of their k nearest training rows on the map.

    Without test rows, each training row is judged by the k others that are nearest (leave one out).

    Examples
    --------
    >>> knn_accuracy(tsne.embedding_, labels_train, tsne.transform(X_test), labels_test, k=5)
    >>> knn_accuracy(tsne.embedding_, labels_train, k=5)

    References
    ----------
    van der Maaten (2009), section 4.2 (there as error, k = 1).
    """
    if Y_test is None:
        codes = np.unique(np.asarray(labels_train), return_inverse=True)[1]
        near = ranks.nearest(np.asarray(Y_train), k)
        # Of a tie, the first in the order of the labels, as in scikit-learn.
        return float(np.mean(scipy.stats.mode(codes[near], axis=1).mode == codes))
    classifier = KNeighborsClassifier(k).fit(Y_train, labels_train)
    return float(classifier.score(Y_test, labels_test))


def neighborhood_recall(X_train: Any, Y_train: Any, X_test: Any, Y_test: Any, k: int = 10) -> float:
    """Mean share of a test row's k nearest training rows in the data that are so on the map.

    Examples
    --------
    >>> neighborhood_recall(X_train, tsne.embedding_, X_test, tsne.transform(X_test))
    """
    each = neighborhood_recall_per_row(X_train, Y_train, k, X_test=X_test, Y_test=Y_test)
    return float(each.mean())


def neighborhood_recall_per_row(
    X: Any, Y: Any, k: int = 10, *, X_test: Any = None, Y_test: Any = None
) -> FloatArray:
    """Share of each row's k nearest other rows in the data that are so on the map: [N].

    With test rows, share of *their* k nearest training rows: [M].

    Raises
    ------
    ValueError
        If X or Y is not finite numeric rows, they are not as many, or k is out of range.

    Examples
    --------
    >>> worst_first = np.argsort(neighborhood_recall_per_row(X, Y))
    """
    X, Y = _pair(X, Y)
    if X_test is None:
        return ranks.recall(ranks.nearest(X, k), ranks.nearest(Y, k))
    X_test, Y_test = _pair(X_test, Y_test)
    true, found = ranks.nearest(X, k, X_new=X_test), ranks.nearest(Y, k, X_new=Y_test)
    return ranks.recall(true, found)


def distance_correlation(X: Any, Y: Any, *, rows: int | None = 2000, seed: int = 0) -> float:
    """Spearman's ρ of the distances between rows in the data and on the map: in [-1, 1].

    Of all pairs among so many rows, drawn at random: the map's large-scale order, which t-SNE does
    not seek.

    Parameters
    ----------
    X : array or sparse matrix [N, D]
    Y : array [N, d]
    rows : int, optional
        Rows drawn; None for all, whose N² / 2 distances are held in memory.
    seed : int
        Of the draw.

    Raises
    ------
    ValueError
        If X or Y is not finite numeric rows, they are not as many, or fewer than three.

    Examples
    --------
    >>> distance_correlation(X, Y)

    References
    ----------
    Computed by scipy.stats.spearmanr.
    """
    X, Y = _pair(X, Y)
    if X.shape[0] < 3:
        raise ValueError(f"X should have at least 3 rows. Received: {X.shape[0]}.")
    chosen = ranks.drawn(X.shape[0], rows, seed)
    A = X[chosen].toarray() if scipy.sparse.issparse(X) else X[chosen]
    far, found = pdist(A), pdist(Y[chosen])
    if not (np.ptp(far) and np.ptp(found)):
        return 0.0  # all at one distance: no order to agree with
    return float(scipy.stats.spearmanr(far, found).statistic)


def _pair(X: Any, Y: Any) -> tuple[Any, Any]:
    """Check rows and their map; sparse rows stay so."""
    X, Y = _rows(X, "X"), _rows(Y, "Y")
    if X.shape[0] != Y.shape[0]:
        raise ValueError(
            f"X and Y should have as many rows. Received: {X.shape[0]} and {Y.shape[0]}."
        )
    return X, Y


def _rows(X: Any, name: str) -> Any:
    if not scipy.sparse.issparse(X):
        return check_rows(X, name=name)
    check_rows(X.data[:, None] if X.nnz else np.zeros((1, 1)), name=f"{name}.data")
    return X.tocsr()


def kl_divergence(P: Any, Y: Any, *, dof: Dof = 1.0) -> float:
    """KL(P‖Q) of a map in nats: the sum of the row terms of `losses.tsne`.

    Parameters
    ----------
    P : array [B, B]
        Joint probabilities.
    Y : array [B, d]
        Map.
    dof : float or "auto"
        Degrees of freedom of the Student-t kernel.

    Examples
    --------
    >>> kl_divergence(affinities.joint_probabilities(X, 30), Y)
    """
    return float(np.sum(np.asarray(losses.tsne(P, Y, dof=dof), dtype=np.float64)))


def mean_kl_divergence(encoder: Any, batches: Any, *, dof: Dof = 1.0) -> float:
    """KL(P‖Q) in nats of the maps of batches (X, P), averaged over rows.

    Examples
    --------
    >>> mean_kl_divergence(tsne.encoder_, batches.from_array(X_test, 30, shuffle=False))
    """
    total, count = 0.0, 0
    for X, P in batches:
        total += len(X) * kl_divergence(P, encoder(X, training=False), dof=dof)
        count += len(X)
    return total / count
