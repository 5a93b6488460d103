"""The t-SNE divergence, alone or anchored to a given map: functions and Keras losses."""

from ptsne_keras.losses.anchored import AnchoredTSNE, anchored_tsne
from ptsne_keras.losses.tsne import TSNE, degrees_of_freedom, tsne

__all__ = ["TSNE", "AnchoredTSNE", "anchored_tsne", "degrees_of_freedom", "tsne"]
