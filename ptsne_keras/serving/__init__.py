"""Serving a map: SavedModels for TensorFlow Serving, what goes with them, and other runtimes."""

from ptsne_keras.serving.client import Client, ServingError
from ptsne_keras.serving.export import export_saved_model
from ptsne_keras.serving.loopback import Loopback

__all__ = ["Client", "Loopback", "ServingError", "export_saved_model"]
