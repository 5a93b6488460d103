"""Map quality: measures of whole maps from arrays, and Keras metrics of batches."""

from ptsne_keras.metrics.batch import AnchorError, NeighborRecall, Trustworthiness
from ptsne_keras.metrics.procrustes import align, procrustes_correlation
from ptsne_keras.metrics.quality import (
    continuity,
    distance_correlation,
    kl_divergence,
    knn_accuracy,
    mean_kl_divergence,
    neighborhood_recall,
    neighborhood_recall_per_row,
    trustworthiness,
)

__all__ = [
    "AnchorError",
    "NeighborRecall",
    "Trustworthiness",
    "align",
    "continuity",
    "distance_correlation",
    "kl_divergence",
    "knn_accuracy",
    "mean_kl_divergence",
    "neighborhood_recall",
    "neighborhood_recall_per_row",
    "procrustes_correlation",
    "trustworthiness",
]
