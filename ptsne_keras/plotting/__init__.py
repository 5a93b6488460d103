"""Plots of maps, fits and map quality, and an interactive page."""

from ptsne_keras.plotting.colors import CONTINUOUS, MARKERS, PALETTE
from ptsne_keras.plotting.curves import correlations, kl_curve, learning_curve
from ptsne_keras.plotting.html import html
from ptsne_keras.plotting.quality import point_quality, recall_curve, shepard
from ptsne_keras.plotting.rbm_filters import rbm_filters
from ptsne_keras.plotting.scatter import overlay, scatter

__all__ = [
    "CONTINUOUS",
    "MARKERS",
    "PALETTE",
    "correlations",
    "html",
    "kl_curve",
    "learning_curve",
    "overlay",
    "point_quality",
    "rbm_filters",
    "recall_curve",
    "scatter",
    "shepard",
]
