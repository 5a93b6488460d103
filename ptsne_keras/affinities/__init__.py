"""From rows to the probabilities P: neighbours, perplexity, joint and conditional probabilities."""

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
