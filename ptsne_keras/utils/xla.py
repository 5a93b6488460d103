"""XLA for one function inside a step that is not compiled as a whole."""

import platform
from collections.abc import Callable
from typing import Any

import keras


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of tensors by XLA, where it is called while a TensorFlow graph is made.

    Elementwise passes over [B, B] then become one, and take less than half the time; but XLA's
    matrix products on CPUs are the slower ones, so that a network gains less than it loses. Other
    backends compile a step as a whole by themselves, and an eager call would compile anew for each
    shape: there the function stays what it is.

    Examples
    --------
    >>> square = compiled(lambda x: x * x)
    >>> float(tf.function(square)(tf.constant(3.0)))
    9.0
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    metal = platform.system() == "Darwin" and tf.config.list_physical_devices("GPU")
    if tf.executing_eagerly() or metal:
        return function
    return tf.function(function, jit_compile=True, autograph=False)
