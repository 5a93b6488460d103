"""Serving a map: SavedModels for TensorFlow Serving, what goes with them, and other runtimes."""

from ptsne_keras.serving.client import Client
from ptsne_keras.serving.configuration import configure
from ptsne_keras.serving.export import export_saved_model
from ptsne_keras.serving.inspection import check
from ptsne_keras.serving.loopback import Loopback
from ptsne_keras.serving.sender import ServingError

__all__ = ["Client", "Loopback", "ServingError", "check", "configure", "export_saved_model"]
