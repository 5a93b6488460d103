"""Serving a map: SavedModels for TensorFlow Serving, what goes with them, and other runtimes."""

from ptsne_keras.serving.configuration import configure
from ptsne_keras.serving.export import export_saved_model
from ptsne_keras.serving.inspection import check

__all__ = ["check", "configure", "export_saved_model"]
