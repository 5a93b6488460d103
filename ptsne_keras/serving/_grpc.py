"""TensorFlow Serving's gRPC API."""

import importlib
import math
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import json_format

from ptsne_keras.serving import _transport
from ptsne_keras.serving._transport import Failure, Rows, Signature, Target
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import optional

# gRPC's words for a connection that was cut inside an answer, and for a wrong certificate.
_CUT = ("deserializing", "RST_STREAM", "Stream removed")
_UNTRUSTED = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification", "Cannot check peer")
_OPTIONS = [
    # `_sender` tries again, until a deadline; see there.
    ("grpc.enable_retries", 0),
    # No proxy, as over REST.
    ("grpc.enable_http_proxy", 0),
    # The limit of an answer is checked before decompression.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # By default a channel waits one second, and later up to two minutes, to connect again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]


class Grpc:
    """The same calls as `Rest`, over one channel, shared by threads."""

    def __init__(self, to: Target) -> None:
        grpc = _required(to.url.scheme)
        limit = ("grpc.max_receive_message_length", min(to.max_answer_bytes, 2**31 - 1))
        options = [*_OPTIONS, limit]
        if to.url.scheme == "grpcs":
            credentials = to.credentials or grpc.ssl_channel_credentials()
            self._channel = grpc.secure_channel(to.url.netloc, credentials, options)
        else:
            self._channel = grpc.insecure_channel(to.url.netloc, options)
        self._rpc_error = grpc.RpcError
        self._prediction = _api("prediction_service_pb2_grpc").PredictionServiceStub(self._channel)
        self._models = _api("model_service_pb2_grpc").ModelServiceStub(self._channel)
        self._model, self._choice = to.model, to.choice
        # HTTP/2 has lower-case names only.
        self._headers = [(key.lower(), value) for key, value in to.headers.items()]

    def predict(self, signature: Signature, rows: Rows, timeout: float) -> dict[str, FloatArray]:
        """Send rows as one tensor."""
        request = _api("predict_pb2").PredictRequest(output_filter=list(signature.ranks))
        request.model_spec.signature_name = signature.name
        dtype = tf.float32 if isinstance(rows, np.ndarray) else tf.string
        request.inputs[signature.input].CopyFrom(tf.make_tensor_proto(rows, dtype))
        answer = self._ask(self._prediction.Predict, request, timeout).outputs
        return {key: _array(answer[key]) for key in signature.ranks if key in answer}

    def metadata(self, timeout: float) -> Any:
        """Fetch the signature definitions, in the form of JSON that REST has."""
        api = _api("get_model_metadata_pb2")
        request = api.GetModelMetadataRequest(metadata_field=["signature_def"])
        return _as_json(self._ask(self._prediction.GetModelMetadata, request, timeout))

    def status(self, timeout: float) -> Any:
        """Fetch the states of the model's versions, in the form of JSON that REST has."""
        request = _api("get_model_status_pb2").GetModelStatusRequest()
        return _as_json(self._ask(self._models.GetModelStatus, request, timeout))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _ask(self, call: Any, request: Any, timeout: float) -> Any:
        request.model_spec.name = self._model
        if "version" in self._choice:
            request.model_spec.version.value = self._choice["version"]
        if "label" in self._choice:
            request.model_spec.version_label = self._choice["label"]
        try:
            return call(request, timeout=timeout, metadata=self._headers)
        except self._rpc_error as error:
            raise _failure(error.code().name, error.details() or "", timeout) from error


def _required(scheme: str) -> Any:
    """Return the module grpc, or raise an error that names all there is to install."""
    modules = ("grpc", "tensorflow_serving.apis")
    try:
        found = [optional.require(m, extra="serving", purpose=f"{scheme}://") for m in modules]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error} Then pip install --no-deps tensorflow-serving-api; with its dependencies it "
            "would install another TensorFlow.",
            name=error.name,
        ) from None
    return found[0]


def _api(name: str) -> Any:
    return importlib.import_module(f"tensorflow_serving.apis.{name}")


@_transport.reading()
def _as_json(message: Any) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _failure(code: str, details: str, timeout: float) -> Failure:
    """Return the failure that a gRPC error stands for."""
    if code == "DEADLINE_EXCEEDED":
        return _transport.too_slow(timeout)
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in details:
        kind = "ANSWER" if "CLIENT" in details else "PAYLOAD"
        return Failure(f"{kind}_TOO_LARGE", details)  # no retry will make it fit
    if code == "UNAVAILABLE" and any(sign in details for sign in _UNTRUSTED):
        return Failure("UNTRUSTED", details)
    if any(sign in details for sign in _CUT):
        return Failure("DATA_LOSS", details)
    return Failure(code, details)


@_transport.reading()
def _array(proto: Any) -> FloatArray:
    """Return a float32 tensor; `tf.make_ndarray` would pad one that was cut short."""
    if proto.dtype != tf.float32.as_datatype_enum:
        dtype = tf.as_dtype(proto.dtype).name
        raise Failure("INVALID_ARGUMENT", f"the output should be float32; it is {dtype}")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    values: Any = proto.float_val
    if proto.tensor_content:
        values = np.frombuffer(proto.tensor_content, "<f4")
    if len(values) != math.prod(shape):
        raise Failure("DATA_LOSS", f"an answer cut short: {len(values)} numbers for shape {shape}")
    return np.array(values, np.float32).reshape(shape)
