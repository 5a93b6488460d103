"""The t-SNE divergence, as a function and as a Keras loss."""

from ptsne_keras.losses.tsne import TSNE, degrees_of_freedom, tsne

__all__ = ["TSNE", "degrees_of_freedom", "tsne"]
