"""Serving a map: SavedModels for TensorFlow Serving, what goes with them, and other runtimes."""

from ptsne_keras.serving.bulk import Embedder
from ptsne_keras.serving.export import export_saved_model
from ptsne_keras.serving.runtimes import export_litert, export_onnx

__all__ = ["Embedder", "export_litert", "export_onnx", "export_saved_model"]
