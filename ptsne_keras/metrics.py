"""How good a map is. All take arrays, return floats, and hold [N, N] numbers at most."""

from typing import Any

import numpy as np
import sklearn.manifold
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from ptsne_keras import losses
from ptsne_keras.typing import Dof


def trustworthiness(X: Any, Y: Any, k: int = 12) -> float:
    """Trustworthiness T(k) in [0, 1]: how far map neighbours are neighbours in the data.

    T(k) = 1 - 2 / (N k (2N - 3k - 1)) Σ_i Σ_{j ∈ U_i(k)} (r(i, j) - k), U_i(k) the map neighbours
    of i that are not among its k data neighbours, r their rank in the data.

    Parameters
    ----------
    X : array [N, D]
        Data.
    Y : array [N, d]
        Map.
    k : int
        Neighbours, below N / 2.

    Examples
    --------
    >>> trustworthiness(X_test, tsne.transform(X_test), k=12)

    References
    ----------
    Venna & Kaski (2001); computed by scikit-learn.
    """
    return float(sklearn.manifold.trustworthiness(X, Y, n_neighbors=k))


def continuity(X: Any, Y: Any, k: int = 12) -> float:
    """Continuity in [0, 1]: how far neighbours in the data are neighbours on the map.

    Trustworthiness with the roles of X and Y exchanged.

    Examples
    --------
    >>> continuity(X_test, tsne.transform(X_test), k=12)

    References
    ----------
    Venna & Kaski (2001).
    """
    return trustworthiness(Y, X, k)


def knn_accuracy(
    Y_train: Any, labels_train: Any, Y_test: Any, labels_test: Any, k: int = 1
) -> float:
    """Share of test rows whose label is the majority of their k nearest training rows on the map.

    Examples
    --------
    >>> knn_accuracy(tsne.embedding_, labels_train, tsne.transform(X_test), labels_test, k=5)

    References
    ----------
    van der Maaten (2009), section 4.2 (there as error, k = 1).
    """
    classifier = KNeighborsClassifier(k).fit(Y_train, labels_train)
    return float(classifier.score(Y_test, labels_test))


def neighborhood_recall(X_train: Any, Y_train: Any, X_test: Any, Y_test: Any, k: int = 10) -> float:
    """Mean share of a test row's k nearest training rows in the data that are so on the map.

    Examples
    --------
    >>> neighborhood_recall(X_train, tsne.embedding_, X_test, tsne.transform(X_test))
    """
    true = NearestNeighbors(n_neighbors=k).fit(X_train).kneighbors(X_test, return_distance=False)
    found = NearestNeighbors(n_neighbors=k).fit(Y_train).kneighbors(Y_test, return_distance=False)
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(true, found, strict=True)]))


def procrustes_correlation(Y: Any, Y_other: Any) -> float:
    """How alike two maps of the same rows are, whatever their place, size and rotation: in [0, 1].

    The correlation of the coordinates after the best similarity transform, mirror images included:
    r = Σ σ_i(AᵀB) / (‖A‖ ‖B‖), with A and B the centred maps and σ the singular values.

    Parameters
    ----------
    Y, Y_other : array [N, d]
        Maps of the same rows, in the same order.

    Raises
    ------
    ValueError
        If the maps are not finite or not of the same shape.

    Examples
    --------
    >>> round(procrustes_correlation(Y, 3 * Y[:, ::-1] + 1), 6)
    1.0

    References
    ----------
    Gower (1975), Generalized Procrustes analysis; r² = 1 - scipy.spatial.procrustes' disparity.
    """
    A, B = np.asarray(Y, np.float64), np.asarray(Y_other, np.float64)
    if A.shape != B.shape or A.ndim != 2 or not (np.isfinite(A).all() and np.isfinite(B).all()):
        raise ValueError(
            "Y and Y_other should be finite maps [N, d] of the same rows. "
            f"Received: shapes {A.shape} and {B.shape}."
        )
    A, B = _unit(A), _unit(B)
    return min(1.0, float(np.linalg.svd(A.T @ B, compute_uv=False).sum()))


def _unit(A: Any) -> Any:
    """Centred, and divided by its norm, whose squares may be too large."""
    A = A - A.mean(axis=0)
    A = A / (np.abs(A).max() or 1.0)
    return A / (np.linalg.norm(A) or 1.0)


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
