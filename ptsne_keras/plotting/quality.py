"""Plots of map quality: distances, neighbours by their number, and recall row by row."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from scipy.spatial.distance import pdist

from ptsne_keras import metrics
from ptsne_keras.metrics import ranks
from ptsne_keras.plotting.colors import PALETTE
from ptsne_keras.plotting.scatter import scatter
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays
from ptsne_keras.utils.validation import check_rows


def shepard(
    X: Any,
    Y: Any,
    *,
    sample_size: int | None = 2000,
    random_state: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw distances on the map against distances in the data, for all pairs of a sample of rows.

    The title gives Spearman's ρ, see `metrics.distance_correlation`: 1 if the map keeps the order
    of all distances.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_samples, n_features)
        Rows.
    Y : array-like of shape (n_samples, n_dimensions)
        Map of the rows.
    sample_size : int or None, default=2000
        Number of rows drawn at random, among which pairs are formed; None for all rows.
    random_state : int, default=0
        Seed of the sample.
    ax : matplotlib Axes, default=None
        Axes to draw on. By default a new figure is made.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If `X` and `Y` are not finite, differ in their number of rows, or have fewer than three.

    Examples
    --------
    >>> plotting.shepard(X, Y).figure.savefig("shepard.png")
    """
    if sample_size is not None and sample_size < 3:
        raise ValueError(
            f"sample_size should be at least 3, or None for all rows. Received: {sample_size!r}."
        )
    X, Y = _pair(X, Y)
    sample = {"sample_size": sample_size, "random_state": random_state}
    rho = metrics.distance_correlation(X, Y, **sample)
    chosen = ranks.drawn(len(Y), **sample)
    far, found = pdist(arrays.rows_at(X, chosen)), pdist(Y[chosen])
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
    n_neighbors: Sequence[int] = (1, 2, 5, 10, 20, 50, 100),
    sample_size: int | None = 2000,
    random_state: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw neighbourhood recall against the number of neighbours k.

    Recall is the mean fraction of a row's k nearest rows in the data that are among its k nearest
    on the map. Small k shows fine detail, large k whole clusters. The dotted line is the recall of
    a random map, k / (N - 1).

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_samples, n_features)
        Rows.
    Y : array-like of shape (n_samples, n_dimensions)
        Map of the rows.
    X_test, Y_test : array-like, default=None
        Test rows and their map. If given, a second curve shows the recall of their nearest rows
        among `X`.
    n_neighbors : sequence of int, default=(1, 2, 5, 10, 20, 50, 100)
        Values of k. Those above N - 2 are left out.
    sample_size : int or None, default=2000
        Number of rows drawn at random whose neighbours are sought, among all; None for all rows.
    random_state : int, default=0
        Seed of the sample.
    ax : matplotlib Axes, default=None
        Axes to draw on. By default a new figure is made.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If rows or maps are not finite or differ in their number of rows, or no k is in range.

    Examples
    --------
    >>> plotting.recall_curve(X, Y).figure.savefig("recall.png")
    >>> axes = plotting.recall_curve(X_train, Y_train, X_test=X_test, Y_test=Y_test)
    """
    both = _pair(X, Y)
    n = both[0].shape[0]
    ks = sorted({int(k) for k in n_neighbors if 1 <= k < n - 1})
    if not ks:
        raise ValueError(
            f"n_neighbors should be from 1 to N - 2 = {n - 2}. Received: {tuple(n_neighbors)}."
        )
    chosen = ranks.drawn(n, sample_size, random_state)
    near = [ranks.nearest(A, ks[-1], of=chosen) for A in both]
    curves = [("training rows", "o", near)]
    if X_test is not None:
        new = _pair(X_test, Y_test, ("X_test", "Y_test"))
        chosen = ranks.drawn(new[0].shape[0], sample_size, random_state)
        near = [ranks.nearest(A, ks[-1], X_new=B[chosen]) for A, B in zip(both, new, strict=True)]
        curves.append(("test rows", "s", near))
    ax = ax or plt.subplots(figsize=(6, 4), layout="constrained")[1]
    for color, (label, marker, (true, found)) in zip(PALETTE, curves, strict=False):
        recall = ranks.recall(true, found, ks).mean(axis=0)
        ax.plot(ks, recall, marker=marker, markersize=4, color=color, label=label)
    ax.plot(ks, np.array(ks) / (n - 1), linestyle=":", color=PALETTE[8], label="chance")
    ax.set(xlabel="neighbours k", ylabel="neighbourhood recall", xscale="log", ylim=(0, None))
    ax.set_xticks(ks, [f"{k:,}" for k in ks], minor=False)
    ax.minorticks_off()
    ax.legend(frameon=False)
    return ax


def point_quality(X: Any, Y: Any, *, n_neighbors: int = 10, ax: Axes | None = None) -> Axes:
    """Draw a map with each row coloured by its own neighbourhood recall, the worst on top.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_samples, n_features)
        Rows.
    Y : array-like of shape (n_samples, 2)
        Map of the rows.
    n_neighbors : int, default=10
        Number of neighbours of each row.
    ax : matplotlib Axes, default=None
        Axes to draw on. By default a new figure is made.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If `X` and `Y` are not finite or differ in their number of rows, or `n_neighbors` is out of
        range.

    Examples
    --------
    >>> plotting.point_quality(X, Y).figure.savefig("quality.png")
    """
    recall = metrics.neighborhood_recall_per_row(X, Y, n_neighbors)
    order = np.argsort(-recall, kind="stable")
    ax = scatter(np.asarray(Y)[order], recall[order], ax=ax, continuous=True)
    title = f"fraction of the {n_neighbors} nearest rows kept: {recall.mean():.2f} on average"
    ax.set_title(title, fontsize=10)
    return ax


def _pair(X: Any, Y: Any, names: tuple[str, str] = ("X", "Y")) -> tuple[Any, FloatArray]:
    """Return finite rows, dense or CSR, and their finite map."""
    X, Y = check_rows(X, name=names[0], sparse=True), check_rows(Y, name=names[1])
    if X.shape[0] != len(Y):
        raise ValueError(
            f"{names[0]} and {names[1]} should have the same number of rows. "
            f"Received: {X.shape[0]} and {len(Y)}."
        )
    return X, Y
