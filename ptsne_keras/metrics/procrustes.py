"""Two maps of the same rows, compared or laid over one another: orthogonal Procrustes."""

from typing import Any

import numpy as np
from scipy.linalg import orthogonal_procrustes

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils.validation import unmasked


def align(Y: Any, target: Any = None) -> FloatArray:
    """Rotate, mirror and shift a map onto another map of the same rows, without scaling it.

    R minimises ‖(Y - ȳ) R - (T - t̄)‖² over all orthogonal matrices. The result is centred at 0.

    Parameters
    ----------
    Y : array-like of shape (n_samples, n_dimensions)
        The map to move.
    target : array-like of shape (n_samples, n_dimensions), default=None
        The map T to lay it over. By default Y is only centred.

    Returns
    -------
    ndarray of shape (n_samples, n_dimensions)

    Raises
    ------
    ValueError
        If the maps are not finite or do not have the same shape.

    Examples
    --------
    >>> target = align(Y)
    >>> bool(np.allclose(align(Y[:, ::-1] + 5, target), target, atol=1e-4))
    True

    References
    ----------
    Schönemann (1966), A generalized solution of the orthogonal Procrustes problem.
    """
    Y = np.asarray(unmasked(Y, "Y"))
    A, B = _unit_maps(Y, Y if target is None else target)
    centred = Y - Y.mean(axis=0)
    if target is None:
        return centred
    return (centred @ orthogonal_procrustes(A, B)[0]).astype(centred.dtype, copy=False)


def procrustes_correlation(Y: Any, Y_other: Any) -> float:
    """Return how similar two maps of the same rows are, in [0, 1], whatever their pose and size.

    The correlation of the coordinates after the best similarity transform, mirror images included:
    r = Σ σ_i(AᵀB) / (‖A‖ ‖B‖), with A and B the centred maps and σ_i singular values.

    Parameters
    ----------
    Y, Y_other : array-like of shape (n_samples, n_dimensions)
        Maps of the same rows, in the same order.

    Raises
    ------
    ValueError
        If the maps are not finite or do not have the same shape.

    Examples
    --------
    >>> round(procrustes_correlation(Y, 3 * Y[:, ::-1] + 1), 6)
    1.0

    References
    ----------
    Gower (1975), Generalized Procrustes analysis; r² = 1 - scipy.spatial.procrustes' disparity.
    """
    A, B = _unit_maps(Y, Y_other)
    return min(1.0, float(np.linalg.svd(A.T @ B, compute_uv=False).sum()))


def _unit_maps(Y: Any, Y_other: Any) -> tuple[FloatArray, FloatArray]:
    """Return both maps in float64, centred and of norm 1."""
    A, B = (np.asarray(unmasked(Z, "Y"), np.float64) for Z in (Y, Y_other))
    if A.shape != B.shape or A.ndim != 2 or not (np.isfinite(A).all() and np.isfinite(B).all()):
        raise ValueError(
            "Both maps should be finite arrays [N, d] of the same rows. "
            f"Received: shapes {A.shape} and {B.shape}."
        )
    A, B = (Z - Z.mean(axis=0) for Z in (A, B))
    A, B = (Z / (np.abs(Z).max() or 1.0) for Z in (A, B))  # squares of large values may overflow
    return A / (np.linalg.norm(A) or 1.0), B / (np.linalg.norm(B) or 1.0)
