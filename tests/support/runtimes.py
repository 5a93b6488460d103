"""Exported files in the runtimes that read them, by the runtimes' own names only."""

import warnings

import onnxruntime
import openvino
import tensorflow as tf


def load(path):
    """Return the function from rows to places of a file, by the runtime of its own."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        return lambda X: session.run(["embedding"], {"features": X})[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it moves to ai_edge_litert
        interpreter = tf.lite.Interpreter(str(path))
    return lambda X: interpreter.get_signature_runner()(features=X)["embedding"]


def load_in_openvino(path):
    """Return the same function of an ONNX file or the folder of a SavedModel."""
    model = openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda X: model({"features": X})["embedding"]
