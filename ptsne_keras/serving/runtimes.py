"""Encoders for other runtimes: ONNX and LiteRT files, checked against Keras as they are written."""

import itertools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ptsne_keras.serving import signatures
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import files

# Largest difference from Keras, in parts of the map's extent.
_CLOSE = 1e-5
_CHECKED_ROWS = 256
# GELU and all else that Keras has; ONNX Runtime takes it since 1.14 of 2023.
_OPSET = 18

Run = Callable[[FloatArray], FloatArray]


def export_onnx(encoder: keras.Model, path: str | os.PathLike[str]) -> Path:
    """Write an encoder as one ONNX file, for ONNX Runtime, OpenVINO, TensorRT and others.

    It takes `features` float32 [N, D], any N, and returns `embedding` float32 [N, d].
    Standardisation is inside. The file appears whole or not at all; the encoder is left as it is.
    Where onnxruntime is installed, the file's answers are compared with those of Keras first.

    Parameters
    ----------
    encoder : keras.Model
        One input [N, D], one output [N, d]. One of mixed precision is written in float32, in which
        its weights are kept.
    path : path
        The file, which should end in `.onnx`; its folder is made if it is missing.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    FileExistsError
        If the file exists.
    ModuleNotFoundError
        Without tf2onnx; the extra `onnx` has it.
    ValueError
        If `path` ends otherwise, or the encoder's input or output is not one matrix.
    RuntimeError
        If ONNX lacks an operation of the encoder; if the answers differ from those of Keras by more
        than 1e-5 of the map's extent; or on another backend than TensorFlow.

    Examples
    --------
    >>> export_onnx(tsne.encoder_, "digits.onnx")  # doctest: +SKIP
    PosixPath('digits.onnx')
    """
    try:
        import onnx
        import tf2onnx
    except ModuleNotFoundError as error:
        package = (error.name or "tf2onnx").split(".")[0]
        raise ModuleNotFoundError(
            f"export_onnx needs {package}: pip install 'ptsne_keras[onnx]'.", name=package
        ) from error

    def convert(frozen: Any) -> bytes:
        model, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(),
            name="encoder",
            input_names=["features:0"],
            output_names=[frozen.outputs[0].name],
            tensors_to_rename={"features:0": "features", frozen.outputs[0].name: "embedding"},
            opset=_OPSET,
            custom_op_handlers={"Erfc": (_erfc, [])},
        )
        for tensor in (*model.graph.input, *model.graph.output):
            tensor.type.tensor_type.shape.dim[0].dim_param = "N"
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()

    return _export(encoder, path, ".onnx", convert, _onnx_runtime)


def export_litert(encoder: keras.Model, path: str | os.PathLike[str]) -> Path:
    """Write an encoder as a LiteRT (TensorFlow Lite) file, for phones, browsers and small devices.

    Its signature `serving_default` takes `features` float32 [N, D] and returns `embedding` float32
    [N, d], N ≥ 1: it is 1 until the caller resizes the input, as the signature runner does itself.
    All else is as in :func:`export_onnx`; the answers are always compared with those of Keras.

    Parameters
    ----------
    encoder : keras.Model
        As in :func:`export_onnx`.
    path : path
        The file, which should end in `.tflite`; its folder is made if it is missing.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    FileExistsError
        If the file exists.
    ValueError
        If `path` ends otherwise, or the encoder's input or output is not one matrix.
    RuntimeError
        If LiteRT lacks an operation of the encoder; if the answers differ from those of Keras by
        more than 1e-5 of the map's extent; or on another backend than TensorFlow.

    Examples
    --------
    >>> export_litert(tsne.encoder_, "digits.tflite")
    PosixPath('digits.tflite')
    """

    def convert(frozen: Any) -> bytes:
        features = frozen.inputs[0].shape[1]

        @tf.function(input_signature=[signatures.spec(features)])
        def embed(features: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"embedding": frozen(features)[0]}

        call = embed.get_concrete_function()
        return tf.lite.TFLiteConverter.from_concrete_functions([call], tf.Module()).convert()

    return _export(encoder, path, ".tflite", convert, _litert_interpreter)


def _export(
    encoder: keras.Model,
    path: str | os.PathLike[str],
    suffix: str,
    convert: Callable[[Any], bytes],
    load: Callable[[bytes], Run | None],
) -> Path:
    """Convert, compare with Keras, and write beside, then rename."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "encoder should be saved, then loaded and exported under KERAS_BACKEND=tensorflow. "
            f"Received: KERAS_BACKEND={keras.backend.backend()}."
        )
    target = Path(path).expanduser()
    if target.suffix != suffix:
        raise ValueError(f"path should end in {suffix}. Received: {target}.")
    _refuse_existing(target)
    features = signatures.feature_count(encoder)
    single = _in_float32(encoder)
    try:
        written = convert(_frozen(single, features))
        run = load(written)
    except Exception as error:  # each converter and runtime has errors of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RuntimeError(
            f"encoder should be of layers that can be written as {suffix}. "
            f"Received: {encoder.name!r}; {reason}"
        ) from error
    if run is not None:
        _compare(single, _check_rows(single, features), run, suffix)
    with files.made(target.parent), files.replacing(target) as beside:
        beside.write_bytes(written)
        _refuse_existing(target)
    return target


def _frozen(encoder: keras.Model, features: int) -> Any:
    """Trace the encoder into a graph that holds its weights as constants."""
    # No public name of TensorFlow does this to one function.
    from tensorflow.python.framework import convert_to_constants

    embed = tf.function(
        signatures.embedding(encoder), input_signature=[signatures.spec(features)], autograph=False
    )
    return convert_to_constants.convert_variables_to_constants_v2(embed.get_concrete_function())


def _in_float32(encoder: keras.Model) -> keras.Model:
    """Give the encoder itself, or of one in mixed precision a copy that computes in float32."""

    def rewritten(value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("class_name") == "DTypePolicy":
                return {**value, "config": {"name": "float32"}}
            return {key: rewritten(part) for key, part in value.items()}
        return [rewritten(part) for part in value] if isinstance(value, list | tuple) else value

    # No runtime here multiplies matrices of bfloat16, nor LiteRT those of float16.
    layers = encoder._flatten_layers(include_self=False)
    if all(layer.compute_dtype == "float32" for layer in layers):
        return encoder
    copy = type(encoder).from_config(rewritten(encoder.get_config()))
    copy.set_weights(encoder.get_weights())
    return copy


def _erfc(graph: Any, node: Any, _name: str, _args: list[Any]) -> None:
    """Write Erfc, of the exact GELU, which ONNX lacks, as 1 - Erf."""
    shapes, dtypes = node.output_shapes, node.output_dtypes
    one = graph.make_const(f"{node.name}_one", np.ones((), np.float32)).output[0]
    erf = graph.make_node("Erf", node.input[:1]).output[0]
    graph.remove_node(node.name)
    graph.make_node(
        "Sub", [one, erf], name=node.name, outputs=node.output, shapes=shapes, dtypes=dtypes
    )


def _onnx_runtime(written: bytes) -> Run | None:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    return lambda X: session.run(["embedding"], {"features": X})[0]


def _litert_interpreter(written: bytes) -> Run:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        Interpreter = tf.lite.Interpreter
    with warnings.catch_warnings():
        # TensorFlow's own says that it moves to ai_edge_litert.
        warnings.simplefilter("ignore", UserWarning)
        runner = Interpreter(model_content=written).get_signature_runner("serving_default")
    return lambda X: runner(features=X)["embedding"]


def _check_rows(encoder: keras.Model, features: int) -> FloatArray:
    """Random rows like those that the encoder was made for: [n, D], standard normal once scaled."""
    X = np.random.default_rng(0).standard_normal((_CHECKED_ROWS, features))
    scaling = itertools.takewhile(
        lambda layer: isinstance(
            layer, keras.layers.InputLayer | keras.layers.Normalization | keras.layers.Rescaling
        ),
        encoder.layers,
    )
    for layer in reversed(list(scaling)):
        if isinstance(layer, keras.layers.Normalization):
            X = X * np.sqrt(layer.variance) + np.asarray(layer.mean)
        elif isinstance(layer, keras.layers.Rescaling):
            X = (X - np.asarray(layer.offset)) / np.asarray(layer.scale)
    return X.astype(np.float32)


def _compare(encoder: keras.Model, X: FloatArray, run: Run, suffix: str) -> None:
    """Raise unless the file answers as Keras does, for many rows and for one."""
    Y = np.asarray(encoder(X, training=False), np.float32)
    # float32 has no more digits than this where a map lies far from the origin.
    extent = max(np.ptp(Y, axis=0).max(), np.abs(Y).max())
    for n in (len(X), 1):
        difference = np.abs(run(X[:n]) - Y[:n]).max()
        if not difference <= _CLOSE * extent:  # NaN neither
            raise RuntimeError(
                f"The {suffix} file should answer as Keras does, within {_CLOSE} of the map's "
                f"extent {extent:.3g}. Received: a difference of {difference:.3g} on {n} rows."
            )


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise FileExistsError(f"path should be a new file. Received: {target}, which exists.")
