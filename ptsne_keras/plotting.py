"""Pictures: axes in, axes out."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

# Petroff (2021), "Accessible color sequences for data visualization": ten colours that stay apart
# under the common colour-vision deficiencies.
PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)


def map(
    Y: Any,
    labels: Any = None,
    *,
    ax: Axes | None = None,
    classes: Any = None,
    legend: bool = True,
    **scatter: Any,
) -> Axes:
    """Draw a map, one colour a class.

    Parameters
    ----------
    Y : array [N, 2]
        Map coordinates.
    labels : array [N], optional
        Class of each row; more than ten classes reuse the colours.
    ax : matplotlib Axes, optional
        Drawn on; a new figure's by default.
    classes : sequence, optional
        All classes there are, in the order of their colours; by default those in `labels`.
    legend : bool
        Whether to list the classes.
    **scatter
        To `Axes.scatter`: `s`, `alpha`, …

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If Y is not [N, 2] or there is not one label a row.

    Examples
    --------
    >>> plotting.map(tsne.transform(X), labels).figure.savefig("map.png")
    """
    Y = np.asarray(Y)
    if Y.ndim != 2 or Y.shape[1] != 2:
        raise ValueError(f"Y should be a 2-D map [N, 2]. Received: shape {Y.shape}.")
    labels = np.zeros(len(Y), int) if labels is None else np.asarray(labels)
    if len(labels) != len(Y):
        raise ValueError(f"labels should be one a row, {len(Y)}. Received: {len(labels)}.")
    ax = ax or plt.subplots(figsize=(8, 7), layout="constrained")[1]
    style = {"s": 12, "linewidths": 0, **scatter}
    classes = np.unique(labels) if classes is None else classes
    for i, label in enumerate(classes):
        color = PALETTE[i % len(PALETTE)]
        name = str(label) if legend else None
        ax.scatter(*Y[labels == label].T, color=color, label=name, **style)
    # Distances mean the same in both directions, and the axes themselves mean nothing.
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xticks([])
    ax.set_yticks([])
    if legend and len(classes) > 1:
        ax.legend(markerscale=1.5, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def overlay(
    Y_train: Any, labels_train: Any, Y_test: Any, labels_test: Any, *, ax: Axes | None = None
) -> Axes:
    """Draw the training rows of a map faint and the test rows strong, in the same colours.

    Examples
    --------
    >>> plotting.overlay(Y_train, labels_train, Y_test, labels_test).figure.savefig("map.png")
    """
    # Among all classes, so that one missing from either set does not shift the colours.
    classes = np.unique(np.concatenate([labels_train, labels_test]))
    ax = map(Y_train, labels_train, ax=ax, classes=classes, legend=False, s=8, alpha=0.25)
    map(Y_test, labels_test, ax=ax, classes=classes, s=22)
    ax.set_title("faint: training rows, strong: test rows", fontsize=10)
    return ax


def learning_curve(history: Any, *, ax: Axes | None = None) -> Axes:
    """Draw training and held-out error of each epoch, as parts of the map's variance.

    Parameters
    ----------
    history : dict
        With "error" and "val_error", such as `MapRegressor.history_`.

    Examples
    --------
    >>> axes = plotting.learning_curve({"error": [0.5, 0.1], "val_error": [0.6, 0.3]})
    """
    ax = ax or plt.subplots(figsize=(6, 4), layout="constrained")[1]
    epochs = np.arange(1, len(history["error"]) + 1)
    ax.plot(epochs, history["error"], color=PALETTE[0], label="training rows")
    ax.plot(epochs, history["val_error"], color=PALETTE[1], label="held-out rows")
    best = int(np.argmin(history["val_error"]))
    ax.axvline(best + 1, color=PALETTE[3], linewidth=1, label="least held-out error")
    ax.set(xlabel="epoch", ylabel="squared error / variance of the map", yscale="log")
    ax.legend(frameon=False)
    return ax


def correlations(
    Y: Any, Y_found: Any, held_out: Any, held_out_found: Any, *, axes: Any = None
) -> Any:
    """Draw found against given coordinates, an axis a row: training rows left, held-out right.

    Parameters
    ----------
    Y, Y_found : array [n, d]
        Given and found coordinates of training rows.
    held_out, held_out_found : array [m, d]
        Of rows that took no part in training.
    axes : array of matplotlib Axes [d, 2], optional

    Returns
    -------
    array of matplotlib Axes [d, 2]

    Examples
    --------
    >>> axes = plotting.correlations(Y, 0.9 * Y, Y[:50], 0.5 * Y[:50])
    """
    Y, Y_found, held_out, held_out_found = (
        np.reshape(coordinates, (len(coordinates), -1))
        for coordinates in (Y, Y_found, held_out, held_out_found)
    )
    d = Y.shape[1]
    if axes is None:
        axes = plt.subplots(d, 2, figsize=(8, 4 * d), squeeze=False, layout="constrained")[1]
    both = ((Y, Y_found, "training rows"), (held_out, held_out_found, "held-out rows"))
    for column, (given, found, title) in enumerate(both):
        for k in range(d):
            ax = axes[k][column]
            x, y = given[:, k], found[:, k]
            ax.scatter(x, y, s=3, alpha=0.3, linewidths=0, color=PALETTE[column], rasterized=True)
            ax.axline((x.mean(), x.mean()), slope=1, color=PALETTE[3], linewidth=1)
            r = np.corrcoef(x, y)[0, 1] if x.std() and y.std() else 0.0
            ax.set_title(f"{title}, coordinate {k + 1}: r = {r:.3f}", fontsize=10)
            ax.set(xlabel="given", ylabel="found")
    return axes
