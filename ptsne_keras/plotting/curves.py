"""Curves of training, and plots of predicted against given coordinates."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ptsne_keras.plotting.colors import PALETTE

_PARTS = ("training rows", "held-out rows")


def kl_curve(history: Any, *, exaggeration: float | None = None, ax: Axes | None = None) -> Axes:
    """Draw the loss of fine-tuning after each epoch, in nats: KL(P‖Q) at exaggeration 1 only.

    Parameters
    ----------
    history : ParametricTSNE, keras.callbacks.History or dict
        A fitted estimator, its `history_`, or what `model.fit` returned.
    exaggeration : float, default=None
        Exaggeration c of the loss, which an estimator knows itself. None means unknown.
    ax : matplotlib Axes, default=None
        Axes to draw on; a new figure by default.

    Raises
    ------
    ValueError
        If there is no loss in `history`.

    Examples
    --------
    >>> plotting.kl_curve(tsne).figure.savefig("loss.png")
    >>> plotting.kl_curve(tsne.history_, exaggeration=1.5).figure.savefig("loss.svg")
    """
    if hasattr(history, "history_"):
        # "auto" is resolved in the settings of the fit.
        fitted = getattr(history, "_settings", history)
        exaggeration = getattr(fitted, "exaggeration", exaggeration)
        history = history.history_
    history = getattr(history, "history", history)  # of a keras History
    curves = history.get("finetune", history) if isinstance(history, Mapping) else None
    if not isinstance(curves, Mapping) or not len(curves.get("loss", ())):
        received = sorted(curves) if isinstance(curves, Mapping) else type(history).__name__
        raise ValueError(
            'history should have a "loss": a fitted ParametricTSNE, its history_, or what '
            f"model.fit returns. Received: {received}."
        )
    ax = _draw(curves, ("loss", "val_loss"), ax)
    ax.set(ylabel="KL(P‖Q), nats" if exaggeration == 1 else "loss, nats")
    if exaggeration not in (None, 1):
        ax.set_title(f"at exaggeration c = {exaggeration:g}: not KL(P‖Q) itself", fontsize=10)
    if "val_loss" in curves:
        ax.legend(frameon=False)
    return ax


def learning_curve(history: Any, *, ax: Axes | None = None) -> Axes:
    """Draw training and held-out error after each epoch, as fractions of the map's variance.

    Parameters
    ----------
    history : dict
        Contains "error" and "val_error": `MapRegressor.history_`, or its "finetune".
    ax : matplotlib Axes, default=None
        Axes to draw on; a new figure by default.

    Examples
    --------
    >>> axes = plotting.learning_curve({"error": [0.5, 0.1], "val_error": [0.6, 0.3]})
    """
    history = history.get("finetune", history)
    ax = _draw(history, ("error", "val_error"), ax)
    best = int(np.argmin(history["val_error"]))
    ax.axvline(best + 1, color=PALETTE[3], linewidth=1, label="smallest held-out error")
    ax.set(ylabel="squared error / variance of the map", yscale="log")
    ax.legend(frameon=False)
    return ax


def correlations(
    Y: Any, Y_found: Any, held_out: Any, held_out_found: Any, *, axes: Any = None
) -> Any:
    """Draw predicted against given coordinates, one row of axes per coordinate.

    Parameters
    ----------
    Y, Y_found : array-like of shape (n_samples, n_dimensions)
        Given and predicted coordinates of training rows, drawn on the left.
    held_out, held_out_found : array-like of shape (n_held_out, n_dimensions)
        Given and predicted coordinates of held-out rows, drawn on the right.
    axes : array of matplotlib Axes of shape (n_dimensions, 2), default=None
        Axes to draw on; a new figure by default.

    Returns
    -------
    array of matplotlib Axes of shape (n_dimensions, 2)

    Examples
    --------
    >>> axes = plotting.correlations(Y, 0.9 * Y, Y[:50], 0.5 * Y[:50])
    """
    pairs = (Y, Y_found), (held_out, held_out_found)
    columns = [[np.reshape(Z, (len(Z), -1)) for Z in pair] for pair in pairs]
    d = columns[0][0].shape[1]
    if axes is None:
        axes = plt.subplots(d, 2, figsize=(8, 4 * d), squeeze=False, layout="constrained")[1]
    for column, (given, found) in enumerate(columns):
        for k in range(d):
            ax, x, y = axes[k][column], given[:, k], found[:, k]
            ax.scatter(x, y, s=3, alpha=0.3, linewidths=0, color=PALETTE[column], rasterized=True)
            ax.axline((x.mean(), x.mean()), slope=1, color=PALETTE[3], linewidth=1)
            r = np.corrcoef(x, y)[0, 1] if x.std() and y.std() else 0.0
            ax.set_title(f"{_PARTS[column]}, coordinate {k + 1}: r = {r:.3f}", fontsize=10)
            ax.set(xlabel="given", ylabel="predicted")
    return axes


def _draw(curves: Mapping[str, Any], names: tuple[str, str], ax: Axes | None) -> Axes:
    """Draw the curves of training and held-out rows, where there are any, by epoch."""
    ax = ax or plt.subplots(figsize=(6, 4), layout="constrained")[1]
    for name, label, color in zip(names, _PARTS, PALETTE, strict=False):
        if name in curves:
            epochs = np.arange(1, len(curves[name]) + 1)
            marker = "o" if len(epochs) == 1 else None  # a line of one point is invisible
            ax.plot(epochs, curves[name], color=color, label=label, marker=marker)
    ax.set(xlabel="epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax
