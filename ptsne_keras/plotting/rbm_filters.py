"""Images of what the hidden units of an RBM respond to."""

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from ptsne_keras.utils.validation import check_integer

# Positive red, negative blue: distinct under the common colour-vision deficiencies.
_SIGNED = "RdBu_r"
# Empty pixels between two images.
_GAP = 1


def rbm_filters(
    rbm: Any, *, shape: tuple[int, int] | None = None, count: int = 64, ax: Axes | None = None
) -> Axes:
    """Draw the weights of hidden units as images, red positive and blue negative.

    Each is scaled by its own largest weight; the units with the largest weight norms come first.

    Parameters
    ----------
    rbm : RBM, layer with a `kernel`, or array-like of shape (n_features, n_hidden)
        Built RBM or dense layer, or its weights.
    shape : tuple (height, width), default=None
        Shape of the visible units as an image. By default a square.
    count : int, default=64
        Largest number of images.
    ax : matplotlib Axes, default=None
        Axes to draw on; a new figure by default.

    Raises
    ------
    ValueError
        If `rbm` has no weights yet, or its number of visible units is not height · width.

    Examples
    --------
    >>> rbm = networks.RBM(30, seed=0)
    >>> history = rbm.fit(X, epochs=1, verbose=0)
    >>> plotting.rbm_filters(rbm).figure.savefig("filters.png")
    """
    W = _weights(rbm)
    features = len(W)
    side = math.isqrt(features)
    height, width = shape or (side, side)
    if height * width != features:
        raise ValueError(
            f"shape should be (height, width) of {features} visible units. "
            f"Received: {shape if shape else f'None, and {features} is not a square'}."
        )
    check_integer(count, "count")
    strongest = np.argsort(-np.linalg.norm(W, axis=0), kind="stable")[:count]
    columns = math.ceil(math.sqrt(len(strongest) * height / width))
    rows = math.ceil(len(strongest) / columns)
    mosaic = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP), np.nan)
    for i, unit in enumerate(strongest):
        top, left = i // columns * (height + _GAP), i % columns * (width + _GAP)
        image = W[:, unit].reshape(height, width)
        mosaic[top : top + height, left : left + width] = image / (np.abs(image).max() or 1.0)
    ax = ax or plt.subplots(figsize=(7, 7 * len(mosaic) / mosaic.shape[1]), layout="constrained")[1]
    ax.imshow(mosaic, cmap=_SIGNED, vmin=-1, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(f"weights of {len(strongest)} of {W.shape[1]} hidden units", fontsize=10)
    return ax


def _weights(rbm: Any) -> Any:
    """Return the weights [D, H] of an RBM or layer, or check those given."""
    W = getattr(rbm, "kernel", None if hasattr(rbm, "fit") else rbm)
    if W is None:
        raise ValueError("rbm should be built or fitted: it has no weights yet.")
    W = np.asarray(W, dtype=np.float64)
    if W.ndim != 2 or not W.size:
        raise ValueError(f"rbm should have weights [D, H]. Received: shape {W.shape}.")
    return W
