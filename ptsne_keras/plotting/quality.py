"""How good a map is, to be seen: distances, neighbours by their number, and row by row."""

import contextlib
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse
import scipy.stats
from matplotlib.axes import Axes
from scipy.spatial.distance import pdist

from ptsne_keras.metrics import ranks
from ptsne_keras.plotting.colors import PALETTE
from ptsne_keras.plotting.scatter import map


def shepard(X: Any, Y: Any, *, rows: int = 2000, seed: int = 0, ax: Axes | None = None) -> Axes:
    """Draw distance on the map against distance in the data, of all pairs of some rows.

    The title says Spearman's ρ, which is `metrics.distance_correlation`: 1 if the order of
    distances is kept.

    Parameters
    ----------
    X : array or sparse matrix [N, D]
    Y : array [N, d]
        Map.
    rows : int
        Rows drawn at random, among which pairs are taken.
    seed : int
        Of the draw.
    ax : matplotlib Axes, optional

    Raises
    ------
    ValueError
        If X and Y are not finite and as many rows, or fewer than three.

    Examples
    --------
    >>> plotting.shepard(X, Y).figure.savefig("shepard.png")
    """
    X, Y = _pair(X, Y)
    if X.shape[0] < 3:
        raise ValueError(f"X should have at least 3 rows. Received: {X.shape[0]}.")
    if rows is not None and rows < 3:
        raise ValueError(f"rows should be at least 3, or None for all. Received: {rows!r}.")
    chosen = ranks.drawn(X.shape[0], rows, seed)
    part = X[chosen].toarray() if scipy.sparse.issparse(X) else X[chosen]
    far, found = pdist(part), pdist(Y[chosen])
    rho = scipy.stats.spearmanr(far, found).statistic if np.ptp(far) and np.ptp(found) else 0.0
    ax = ax or plt.subplots(figsize=(6, 5), layout="constrained")[1]
    pairs = ax.hexbin(
        far, found, gridsize=60, bins="log", mincnt=1, cmap="Blues", linewidths=0, rasterized=True
    )
    ax.figure.colorbar(pairs, ax=ax, label="pairs")
    ax.set(xlabel="distance in the data", ylabel="distance on the map")
    ax.set_title(f"Spearman's ρ = {rho:.2f}, pairs of {len(chosen):,} rows", fontsize=10)
    return ax


def recall_curve(
    X: Any,
    Y: Any,
    *,
    X_test: Any = None,
    Y_test: Any = None,
    ks: Sequence[int] = (1, 2, 5, 10, 20, 50, 100),
    rows: int | None = 2000,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean share of rows' k nearest in the data that are so on the map, against k.

    With test rows also the share of *their* k nearest training rows. The dotted line is chance,
    k / (N - 1). Small k tells of fine detail, large k of whole clusters.

    Parameters
    ----------
    X : array or sparse matrix [N, D]
    Y : array [N, d]
        Map.
    X_test, Y_test : arrays [M, D] and [M, d], optional
    ks : sequence of int
        Numbers of neighbours; those of N - 1 or more are left out.
    rows : int, optional
        Rows drawn at random whose neighbours are sought, among all; None for all.
    seed : int
        Of the draw.
    ax : matplotlib Axes, optional

    Raises
    ------
    ValueError
        If rows and their maps are not finite and as many, or no k is in range.

    Examples
    --------
    >>> plotting.recall_curve(X, Y).figure.savefig("recall.png")
    >>> axes = plotting.recall_curve(X_train, Y_train, X_test=X_test, Y_test=Y_test)
    """
    X, Y = _pair(X, Y)
    n = X.shape[0]
    wanted = sorted({int(k) for k in ks if 1 <= k < n - 1})
    if not wanted:
        raise ValueError(f"ks should be from 1 to N - 2 = {n - 2}. Received: {tuple(ks)}.")
    chosen = ranks.drawn(n, rows, seed)
    pairs = [ranks.nearest(A, wanted[-1], of=chosen) for A in (X, Y)]
    ax = ax or plt.subplots(figsize=(6, 4), layout="constrained")[1]
    shares = ranks.recall(pairs[0], pairs[1], wanted).mean(axis=0)
    ax.plot(wanted, shares, marker="o", markersize=4, color=PALETTE[0], label="training rows")
    if X_test is not None:
        X_test, Y_test = _pair(X_test, Y_test, ("X_test", "Y_test"))
        chosen = ranks.drawn(X_test.shape[0], rows, seed)
        true = ranks.nearest(X, wanted[-1], X_new=X_test[chosen])
        found = ranks.nearest(Y, wanted[-1], X_new=Y_test[chosen])
        shares = ranks.recall(true, found, wanted).mean(axis=0)
        ax.plot(wanted, shares, marker="s", markersize=4, color=PALETTE[1], label="test rows")
    chance = np.array(wanted) / (n - 1)
    ax.plot(wanted, chance, linestyle=":", color=PALETTE[8], label="chance")
    ax.set(xlabel="neighbours k", ylabel="neighbourhood recall", xscale="log", ylim=(0, None))
    ax.set_xticks(wanted, [f"{k:,}" for k in wanted], minor=False)
    ax.minorticks_off()
    ax.legend(frameon=False)
    return ax


def point_quality(X: Any, Y: Any, *, k: int = 10, ax: Axes | None = None) -> Axes:
    """Draw a map with each row coloured by its own neighbourhood recall, the worst on top.

    Parameters
    ----------
    X : array or sparse matrix [N, D]
    Y : array [N, 2]
        Map.
    k : int
        Neighbours.
    ax : matplotlib Axes, optional

    Raises
    ------
    ValueError
        If X and Y are not finite and as many rows, or k is out of range.

    Examples
    --------
    >>> plotting.point_quality(X, Y).figure.savefig("quality.png")
    """
    X, Y = _pair(X, Y)
    recall = ranks.recall(ranks.nearest(X, k), ranks.nearest(Y, k))
    order = np.argsort(-recall, kind="stable")
    ax = map(Y[order], recall[order], ax=ax, continuous=True)
    ax.set_title(f"share of the {k} nearest rows kept: {recall.mean():.2f} on average", fontsize=10)
    return ax


def _pair(X: Any, Y: Any, names: tuple[str, str] = ("X", "Y")) -> tuple[Any, Any]:
    X = X.tocsr() if scipy.sparse.issparse(X) else np.asarray(X)
    Y = np.asarray(Y)
    if X.ndim != 2 or Y.ndim != 2 or X.shape[0] != len(Y):
        raise ValueError(
            f"{names[0]} and {names[1]} should be [N, D] and [N, d], a place for each row. "
            f"Received: shapes {X.shape} and {Y.shape}."
        )
    return _finite(X, names[0]), _finite(Y, names[1])


def _finite(X: Any, name: str) -> Any:
    """Return rows as they are, or raise a ValueError if they are not finite numbers."""
    if X.dtype == object and not scipy.sparse.issparse(X):  # such as a frame of mixed columns
        with contextlib.suppress(TypeError, ValueError):
            X = X.astype(np.float64)
    if X.dtype.kind not in "fiub":
        raise ValueError(f"{name} should be numeric. Received: dtype {X.dtype}.")
    sparse = scipy.sparse.issparse(X)
    finite = np.isfinite(X.data).all() if sparse else np.isfinite(X).all(axis=1)
    if not np.all(finite):
        where = "" if sparse else f", the first at index {np.argmin(finite)}"
        raise ValueError(
            f"{name} should be finite; drop or impute the rows with NaN or infinity. "
            f"Received: NaN or infinity{where}."
        )
    return X
