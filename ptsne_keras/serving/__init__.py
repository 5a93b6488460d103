"""SavedModels for TensorFlow Serving, a client, bulk embedding, and other runtimes."""

from ptsne_keras.serving._sender import ServingError
from ptsne_keras.serving.bulk import Embedder, embed_parquet
from ptsne_keras.serving.checks import check
from ptsne_keras.serving.client import Client
from ptsne_keras.serving.export import export_saved_model
from ptsne_keras.serving.runtimes import export_litert, export_onnx
from ptsne_keras.serving.server_config import configure

__all__ = [
    "Client",
    "Embedder",
    "ServingError",
    "check",
    "configure",
    "embed_parquet",
    "export_litert",
    "export_onnx",
    "export_saved_model",
]
