"""From rows to the probabilities P of t-SNE: nearest neighbours and perplexity calibration."""

from ptsne_keras.affinities.neighbors import Neighbors, nearest
from ptsne_keras.affinities.probabilities import (
    conditional_probabilities,
    joint_probabilities,
    neighbor_probabilities,
)

__all__ = [
    "Neighbors",
    "conditional_probabilities",
    "joint_probabilities",
    "nearest",
    "neighbor_probabilities",
]
