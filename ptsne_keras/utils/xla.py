"""XLA for one function of a training step that is not compiled as a whole."""

import platform
from collections.abc import Callable
from typing import Any

import keras


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function compiled by XLA, if it is called while TensorFlow builds a graph."""
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    metal = platform.system() == "Darwin" and tf.config.list_physical_devices("GPU")
    if tf.executing_eagerly() or metal:
        return function
    return tf.function(function, jit_compile=True, autograph=False)
