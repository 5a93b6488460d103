"""ONNX and LiteRT files of an encoder, compared with Keras before they appear."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ptsne_keras import networks
from ptsne_keras.serving import signatures
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import files, optional, validation

# The largest difference from Keras, relative to the extent of the map.
_CLOSE = 1e-5
_CHECKED_ROWS = 256
# It has GELU and all else that Keras has; ONNX Runtime reads it since version 1.14 of 2023.
_OPSET = 18

Run = Callable[[FloatArray], FloatArray]


def export_onnx(
    encoder: keras.Model, path: str | os.PathLike[str], *, reference_size: int = 65_536
) -> Path:
    """Write an encoder as an ONNX file, for ONNX Runtime, OpenVINO, TensorRT and others.

    The model takes `features` float32 [N, D] for any N, and returns `embedding` float32 [N, d].
    Standardisation is included. If onnxruntime is installed, the answers are compared with those of
    Keras first. The file appears complete or not at all, and the encoder is left unchanged.

    Parameters
    ----------
    encoder : keras.Model
        A model with one input [N, D] and one output [N, d]. A model in mixed precision is written
        in float32, the precision of its weights.
    path : path-like
        The file, ending in ".onnx"; its folder is created if it is missing.
    reference_size : int, default=65536
        The most reference rows that an encoder with placement keeps; of more, nearby ones are
        averaged.

    Raises
    ------
    FileExistsError
        If the file exists.
    ModuleNotFoundError
        If tf2onnx is not installed; the extra `onnx` contains it.
    ValueError
        If `path` has another suffix, or the encoder another number of inputs or outputs.
    RuntimeError
        If ONNX lacks an operation of the encoder, if the answers differ from those of Keras by more
        than 1e-5 of the map's extent, or on a backend other than TensorFlow.

    Examples
    --------
    >>> export_onnx(tsne.encoder_, "digits.onnx")  # doctest: +SKIP
    PosixPath('digits.onnx')
    """
    for module in ("onnx", "tf2onnx"):
        optional.require(module, extra="onnx", purpose="export_onnx")
    return _export(encoder, path, ".onnx", reference_size, _to_onnx, _onnx_runtime)


def export_litert(
    encoder: keras.Model, path: str | os.PathLike[str], *, reference_size: int = 65_536
) -> Path:
    """Write an encoder as a LiteRT (TensorFlow Lite) file, for phones, browsers and small devices.

    The signature `serving_default` takes `features` float32 [N, D] and returns `embedding` float32
    [N, d], N ≥ 1. Signature runners resize the input themselves; otherwise N is 1 until the caller
    resizes it. All else is as for :func:`export_onnx`, the errors included; no extra is needed.

    Parameters
    ----------
    encoder, path, reference_size
        As in :func:`export_onnx`, with a file that ends in ".tflite".

    Examples
    --------
    >>> export_litert(tsne.encoder_, "digits.tflite")
    PosixPath('digits.tflite')
    """
    return _export(encoder, path, ".tflite", reference_size, _to_litert, _litert_interpreter)


def _export(
    encoder: keras.Model,
    path: str | os.PathLike[str],
    suffix: str,
    reference_size: int,
    convert: Callable[[keras.Model, int], bytes],
    load: Callable[[bytes], Run | None],
) -> Path:
    """Convert, compare with Keras, and write."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "encoder should be saved, then loaded and exported under KERAS_BACKEND=tensorflow. "
            f"Received: KERAS_BACKEND={keras.backend.backend()}."
        )
    target = Path(path).expanduser()
    if target.suffix != suffix:
        raise ValueError(f"path should end in {suffix}. Received: {target}.")
    if target.exists():
        raise FileExistsError(f"path should be a new file. Received: {target}, which exists.")
    features = signatures.feature_count(encoder)
    validation.check_integer(reference_size, "reference_size", 2)
    single = _in_float32(networks.smaller(encoder, reference_size))
    try:
        written = convert(single, features)
        run = load(written)
    except OSError:  # of the disk
        raise
    except Exception as error:  # each converter and runtime has errors of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RuntimeError(
            f"encoder should have layers that can be written as {suffix}. "
            f"Received: {encoder.name!r}; {reason}"
        ) from error
    if run is not None:
        _compare(single, signatures.normal_rows(single, _CHECKED_ROWS), run, suffix)
    with files.made(target.parent):
        files.write(target, written, new=True)
    return target


def _to_litert(encoder: keras.Model, features: int) -> bytes:
    """Convert by Keras's own export, to operations that need no further library."""
    inputs = keras.Input((features,), name="features")
    named = keras.Model(inputs, {"embedding": keras.ops.cast(encoder(inputs), "float32")})
    with files.scratch() as scratch:
        file = scratch / "encoder.tflite"
        spec, ops = [signatures.spec(features)], {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
        named.export(file, format="litert", verbose=False, input_signature=spec, target_spec=ops)
        return file.read_bytes()


def _to_onnx(encoder: keras.Model, features: int) -> bytes:
    """Convert the graph, with the weights as constants."""
    # `keras.Model.export(format="onnx")` makes inputs of the model of the constants that a layer
    # holds, such as the mean of a Normalization, and has no place for a handler of Erfc.
    import onnx
    import tf2onnx

    # No public name of TensorFlow does this to one function.
    from tensorflow.python.framework import convert_to_constants

    embed = tf.function(
        signatures.embedding(encoder), input_signature=[signatures.spec(features)], autograph=False
    )
    frozen = convert_to_constants.convert_variables_to_constants_v2(embed.get_concrete_function())
    output = frozen.outputs[0].name
    model, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        name="encoder",
        input_names=["features:0"],
        output_names=[output],
        tensors_to_rename={"features:0": "features", output: "embedding"},
        opset=_OPSET,
        custom_op_handlers={"Erfc": (_erfc, [])},
    )
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _in_float32(encoder: keras.Model) -> keras.Model:
    """Return the encoder, or a float32 copy if it computes in mixed precision."""

    def rewritten(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [rewritten(part) for part in value]
        if not isinstance(value, dict):
            return value
        single = {"config": {"name": "float32"}} if value.get("class_name") == "DTypePolicy" else {}
        return {key: rewritten(part) for key, part in value.items()} | single

    # No runtime here multiplies bfloat16 matrices, and LiteRT no float16 ones.
    layers = encoder._flatten_layers(include_self=False)
    if all(layer.compute_dtype == "float32" for layer in layers):
        return encoder
    copy = type(encoder).from_config(rewritten(encoder.get_config()))
    copy.set_weights(encoder.get_weights())
    return copy


def _erfc(graph: Any, node: Any, _name: str, _args: list[Any]) -> None:
    """Write Erfc, which the exact GELU uses and ONNX lacks, as 1 - Erf."""
    one = graph.make_const(f"{node.name}_one", np.ones((), np.float32)).output[0]
    erf = graph.make_node("Erf", node.input[:1]).output[0]
    told = {"shapes": node.output_shapes, "dtypes": node.output_dtypes, "outputs": node.output}
    graph.remove_node(node.name)
    graph.make_node("Sub", [one, erf], name=node.name, **told)


def _onnx_runtime(written: bytes) -> Run | None:
    onnxruntime = optional.found("onnxruntime")
    if onnxruntime is None:
        return None
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    return lambda X: session.run(["embedding"], {"features": X})[0]


def _litert_interpreter(written: bytes) -> Run:
    Interpreter = (optional.found("ai_edge_litert.interpreter") or tf.lite).Interpreter
    with warnings.catch_warnings():
        # TensorFlow announces that its interpreter moves to ai_edge_litert.
        warnings.simplefilter("ignore", UserWarning)
        runner = Interpreter(model_content=written).get_signature_runner("serving_default")
    return lambda X: runner(features=X)["embedding"]


def _compare(encoder: keras.Model, X: FloatArray, run: Run, suffix: str) -> None:
    """Raise unless the file answers as Keras does, for many rows and for one."""
    Y = np.asarray(encoder(X, training=False), np.float32)
    extent = max(np.ptp(Y, axis=0).max(), np.abs(Y).max())  # float32 has no more digits
    for n in (len(X), 1):
        difference = np.abs(run(X[:n]) - Y[:n]).max()
        if not difference <= _CLOSE * extent:  # NaN neither
            raise RuntimeError(
                f"The {suffix} file should answer as Keras does, within {_CLOSE} of the map's "
                f"extent {extent:.3g}. Received: a difference of {difference:.3g} on {n} rows."
            )
