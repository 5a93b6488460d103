"""Plots of map quality: distances, neighbours by their number, and recall row by row."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from scipy.spatial.distance import num_obs_y

# What needs Keras is imported where it is used: drawing a map does not need it.
from ptsne_keras.plotting.colors import PALETTE
from ptsne_keras.plotting.scatter import scatter
from ptsne_keras.utils.validation import check_pair, check_test_pair


def shepard(
    X: Any, Y: Any, *, sample_size: int | None = 2000, random_state: int = 0, ax: Axes | None = None
) -> Axes:
    """Draw distances on the map against distances in the data, with Spearman's ρ as the title.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_samples, n_features)
        Rows.
    Y : array-like of shape (n_samples, n_dimensions)
        Map of the rows.
    sample_size, random_state
        Rows whose pairs are drawn, as in `metrics.distance_correlation`.
    ax : matplotlib Axes, default=None
        Axes to draw on; a new figure by default.

    Raises
    ------
    ValueError
        If `X` and `Y` are not finite, differ in their number of rows, or have fewer than three.

    Examples
    --------
    >>> plotting.shepard(X, Y).figure.savefig("shepard.png")
    """
    from ptsne_keras.metrics import quality

    far, found = quality.sampled_distances(X, Y, sample_size, random_state)
    rho, n = quality.rank_correlation(far, found), num_obs_y(far)
    ax = ax or plt.subplots(figsize=(6, 5), layout="constrained")[1]
    pairs = ax.hexbin(
        far, found, gridsize=60, bins="log", mincnt=1, cmap="Blues", linewidths=0, rasterized=True
    )
    ax.figure.colorbar(pairs, ax=ax, label="pairs")
    ax.set(xlabel="distance in the data", ylabel="distance on the map")
    ax.set_title(f"Spearman's ρ = {rho:.2f}, pairs of {n:,} rows", fontsize=10)
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
    """Draw neighbourhood recall against the number of neighbours k, and that of a random map.

    Small k shows fine detail, large k whole clusters. See `metrics.neighborhood_recall`.

    Parameters
    ----------
    X, Y, ax
        As in :func:`shepard`.
    X_test, Y_test : array-like, default=None
        Test rows and their map: a second curve shows the recall of their nearest rows in `X`.
    n_neighbors : sequence of int, default=(1, 2, 5, 10, 20, 50, 100)
        Values of k. Those above N - 2 are left out.
    sample_size : int or None, default=2000
        Number of rows, drawn at random, whose neighbours are found among all. None for all rows.
    random_state : int, default=0
        Seed of the sample.

    Raises
    ------
    ValueError
        If rows or maps are not finite or differ in their number of rows, or no k is in range.

    Examples
    --------
    >>> plotting.recall_curve(X, Y).figure.savefig("recall.png")
    >>> axes = plotting.recall_curve(X_train, Y_train, X_test=X_test, Y_test=Y_test)
    """
    from ptsne_keras.metrics import ranks

    both = check_pair(X, Y)
    n = both[0].shape[0]
    ks = sorted({int(k) for k in n_neighbors if 1 <= k < n - 1})
    if not ks:
        raise ValueError(
            f"n_neighbors should be from 1 to N - 2 = {n - 2}. Received: {tuple(n_neighbors)}."
        )
    new = check_test_pair(*both, X_test, Y_test)
    curves = [("training rows", "o", n, (None, None))]
    if X_test is not None:
        curves.append(("test rows", "s", new[0].shape[0], new))
    ax = ax or plt.subplots(figsize=(6, 4), layout="constrained")[1]
    for color, (label, marker, rows, maps) in zip(PALETTE, curves, strict=False):
        of = ranks.drawn(rows, sample_size, random_state)
        pairs = zip(both, maps, strict=True)
        true, found = (ranks.nearest(A, ks[-1], of=of, X_new=A_new) for A, A_new in pairs)
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
    X, Y, ax
        As in :func:`shepard`, with a map in two dimensions.
    n_neighbors : int, default=10
        Number of neighbours of each row.

    Raises
    ------
    ValueError
        If rows and map do not match or are not finite, or `n_neighbors` is out of range.

    Examples
    --------
    >>> plotting.point_quality(X, Y).figure.savefig("quality.png")
    """
    from ptsne_keras import metrics

    recall = metrics.neighborhood_recall_per_row(X, Y, n_neighbors=n_neighbors)
    order = np.argsort(-recall, kind="stable")
    ax = scatter(np.asarray(Y)[order], recall[order], ax=ax, continuous=True)
    title = f"fraction of the {n_neighbors} nearest rows kept: {recall.mean():.2f} on average"
    ax.set_title(title, fontsize=10)
    return ax
