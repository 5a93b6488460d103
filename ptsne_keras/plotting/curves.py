"""Curves of training, and of what was found against what was given."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ptsne_keras.plotting.colors import PALETTE


def kl_curve(history: Any, *, exaggeration: float | None = None, ax: Axes | None = None) -> Axes:
    """Draw the loss of fine-tuning after each epoch, in nats.

    It is KL(P‖Q) at exaggeration c = 1, and is called so only then: else it is
    -c · Σ p log w + log Σ w + Σ p log p, which may be below 0.

    Parameters
    ----------
    history : ParametricTSNE, fitted; or dict
        The estimator, whose exaggeration is then known; its `history_`; or that of `model.fit`,
        with "loss" and possibly "val_loss".
    exaggeration : float, optional
        c of that loss, where `history` is a dict.
    ax : matplotlib Axes, optional

    Raises
    ------
    ValueError
        If there is no loss in the history.

    Examples
    --------
    >>> plotting.kl_curve(tsne).figure.savefig("loss.png")
    >>> plotting.kl_curve(tsne.history_, exaggeration=1.5).figure.savefig("loss.svg")
    """
    if hasattr(history, "history_"):
        exaggeration = getattr(history, "exaggeration", exaggeration)
        history = history.history_
    history = getattr(history, "history", history)  # what `model.fit` returns
    curves = history.get("finetune", history) if isinstance(history, Mapping) else None
    if not isinstance(curves, Mapping) or not len(curves.get("loss", ())):
        received = sorted(curves) if isinstance(curves, Mapping) else type(history).__name__
        raise ValueError(
            'history should have a "loss": a fitted ParametricTSNE, its history_, or what '
            f"model.fit returns. Received: {received}."
        )
    ax = ax or plt.subplots(figsize=(6, 4), layout="constrained")[1]
    for i, (name, label) in enumerate((("loss", "training rows"), ("val_loss", "held-out rows"))):
        if name in curves:
            epochs = np.arange(1, len(curves[name]) + 1)
            # A single epoch is a point and no line.
            marker = "o" if len(epochs) == 1 else None
            ax.plot(epochs, curves[name], color=PALETTE[i], label=label, marker=marker)
    ax.set(xlabel="epoch", ylabel="KL(P‖Q), nats" if exaggeration == 1 else "loss, nats")
    if exaggeration not in (None, 1):
        ax.set_title(f"at exaggeration c = {exaggeration:g}: not KL(P‖Q) itself", fontsize=10)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if "val_loss" in curves:
        ax.legend(frameon=False)
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
