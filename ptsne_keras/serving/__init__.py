"""Serving a map: SavedModels for TensorFlow Serving, what goes with them, and other runtimes."""

from ptsne_keras.serving.export import export_saved_model

__all__ = ["export_saved_model"]
