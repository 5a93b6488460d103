"""The last stage, rows that are freed: refine."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from ptsne_keras.affinities.neighbors import Neighbors
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import validation

# Up to this many rows all repel one another, up to the next the tree of Barnes and Hut is faster
# than the grid of the Fourier transform.
_EXACT_ROWS, _TREE_ROWS = 200, 5000
TREE_DIMS, _GRID_DIMS = 3, 2
"""The most dimensions that the tree can divide, and those of the grid."""
# The extent of a map at which the grid would take gigabytes.
_GRID_EXTENT = 1000.0
_CALLBACK_STEPS = 50


def refine(
    Y: Any,
    neighbors: Neighbors,
    P: Any,
    *,
    dof: float = 1.0,
    exaggeration: float = 1.0,
    iterations: int = 250,
    free: Any = None,
    callback: Callable[[int, float], Any] | None = None,
) -> FloatArray:
    """Free the rows of a map, and move them down the gradient of KL(P‖Q).

    A network smooths its map; its rows, once free, recover the fine structure. They move at once,
    by gradient descent with momentum. The repulsion is exact up to 200 rows, by the tree of Barnes
    and Hut up to 5,000 or in three dimensions, and else by interpolation on a grid.

    Parameters
    ----------
    Y : array-like of shape (n_samples, n_components)
        The map to start from, of at most three dimensions.
    neighbors : Neighbors
        The k nearest neighbours of each row.
    P : array-like of shape (n_samples, k)
        Conditional probabilities p_{j|i} over these neighbours, from
        `affinities.neighbor_probabilities`.
    dof : float, default=1.0
        Degrees of freedom α of the Student-t kernel.
    exaggeration : float, default=1.0
        Weight c of the attraction.
    iterations : int, default=250
        Number of steps.
    free : array-like of bool of shape (n_samples,), default=None
        The rows that move; the others keep their places to the bit. By default all.
    callback : callable, default=None
        Called every 50 steps with their number so far and KL(P‖Q) in nats over the graph of all
        rows, without exaggeration. A true answer ends the descent.

    Returns
    -------
    ndarray of shape (n_samples, n_components)
        The places of all rows, float32.

    Raises
    ------
    ValueError
        If the shapes do not belong together, the map has more than three dimensions, or the descent
        diverges.

    Examples
    --------
    >>> from ptsne_keras import affinities
    >>> found = affinities.nearest(X, 45)
    >>> P = affinities.neighbor_probabilities(found.distances, 15)
    >>> refine(Y, found, P).shape
    (200, 2)

    References
    ----------
    Poličar, Stražar & Zupan (2024), openTSNE, for the implementation; Linderman et al. (2019),
    Fast interpolation-based t-SNE, and van der Maaten (2014) for the approximations.
    """
    Y, P = validation.check_rows(Y, name="Y"), validation.check_rows(P, name="P")
    _check_descent(Y, neighbors, P, dof=dof, exaggeration=exaggeration)
    validation.check_integer(iterations, "iterations")
    fixed = np.zeros(len(Y), bool) if free is None else ~np.asarray(free, bool)
    if fixed.shape != (len(Y),):
        raise ValueError(
            f"free should tell of each of the {len(Y)} rows of Y. Received: shape {fixed.shape}."
        )
    # openTSNE's kernel is (1 + d² / β)^-β: the same as ours at β = (α + 1) / 2 and another scale.
    exponent = (dof + 1) / 2
    scale = math.sqrt(exponent / dof)
    tell = callback or (lambda steps, loss: None)
    moving = _start(scale * Y, _sparse(P, neighbors), exponent, fixed)
    moving.optimize(
        iterations,
        inplace=True,
        exaggeration=exaggeration,
        momentum=0.8,
        learning_rate="auto",
        callbacks=lambda steps, loss, _: tell(steps, loss),
        callbacks_every_iters=_CALLBACK_STEPS,
        use_callbacks=callback is not None,
    )
    found = np.asarray(moving / scale, dtype=np.float32)
    if fixed.any():  # the descent has centred the map
        found += (Y[fixed] - found[fixed]).mean(axis=0)
        found[fixed] = Y[fixed]
    if not np.isfinite(found).all():
        raise ValueError("The descent diverged: Y should be a map whose places are not far apart.")
    return found


def _start(Y: FloatArray, C: Any, exponent: float, fixed: npt.NDArray[np.bool_]) -> Any:
    """Return a map in openTSNE's units as it moves it, along conditional probabilities C [N, N]."""
    import faiss
    import openTSNE

    n, d = Y.shape
    grid = n > _TREE_ROWS and d <= _GRID_DIMS and np.ptp(Y, axis=0).max() < _GRID_EXTENT
    return openTSNE.TSNEEmbedding(
        Y,
        openTSNE.affinity.PrecomputedAffinities(C + C.T),
        negative_gradient_method=_gradient(grid, fixed),
        theta=0.0 if n <= _EXACT_ROWS else 0.5,
        dof=exponent,
        # As many threads as the search, but of few rows one: waiting for others costs more.
        n_jobs=faiss.omp_get_max_threads() if n > _TREE_ROWS else 1,
    )


def _gradient(grid: bool, fixed: npt.NDArray[np.bool_]) -> Callable[..., tuple[float, FloatArray]]:
    """Return openTSNE's loss with its gradient, which is 0 for rows that are fixed."""
    from openTSNE.tsne import kl_divergence_bh, kl_divergence_fft

    def gradient(*map_and_P: Any, **options: Any) -> tuple[float, FloatArray]:
        loss, found = (kl_divergence_fft if grid else kl_divergence_bh)(*map_and_P, **options)
        found[fixed] = 0
        return loss, found

    return gradient


def _sparse(P: FloatArray, neighbors: Neighbors) -> Any:
    """Return p_{j|i} over the neighbours as a sparse matrix [N, N]."""
    ends = np.arange(0, P.size + 1, P.shape[1])
    parts = (P.ravel(), neighbors.indices.ravel(), ends)
    return scipy.sparse.csr_matrix(parts, (len(P), len(P)), dtype=float)


def _check_descent(Y: FloatArray, neighbors: Neighbors, P: FloatArray, **positive: float) -> None:
    """Raise unless the arguments of `refine` belong together and are in their range."""
    n, d = Y.shape
    if d > TREE_DIMS:
        raise ValueError(f"Y should have at most {TREE_DIMS} dimensions. Received: {d}.")
    for name, value in positive.items():
        if not (isinstance(value, Real) and 0 < value < math.inf):
            raise ValueError(f"{name} should be a number above 0. Received: {value!r}.")
    if not P.shape == neighbors.indices.shape == (n, P.shape[1]):
        raise ValueError(
            f"neighbors and P should be of the {n} rows of Y. Received: neighbors of shape "
            f"{neighbors.indices.shape} and P of shape {P.shape}."
        )
