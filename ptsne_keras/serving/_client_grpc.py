"""TF Serving's gRPC API as a `Transport`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult

import numpy as np
import tensorflow as tf

from ptsne_keras.serving import _transport
from ptsne_keras.serving._transport import Failure, Rows
from ptsne_keras.typing import FloatArray

# What gRPC says of a connection cut inside an answer.
_CUT = ("deserializing", "RST_STREAM", "Stream removed")
_OPTIONS = [
    # The client has its own retries, with a deadline.
    ("grpc.enable_retries", 0),
    # Direct, as over REST.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    # By default a channel waits a second and then up to two minutes before it connects again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]


class Grpc:
    """PredictionService and ModelService over one channel, which threads may share."""

    def __init__(
        self,
        url: SplitResult,
        model: str,
        choice: Mapping[str, Any],
        headers: Mapping[str, str],
        credentials: Any = None,
    ) -> None:
        try:
            import grpc
            from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
        except ImportError as error:
            raise ImportError(
                f"{url.scheme}:// needs gRPC and TF Serving's messages: pip install "
                "'ptsne_keras[serving]', and pip install --no-deps tensorflow-serving-api (with "
                f"its dependencies it would bring another TensorFlow). Received: {error}."
            ) from error
        if url.scheme == "grpcs":
            credentials = credentials or grpc.ssl_channel_credentials()
            self._channel = grpc.secure_channel(url.netloc, credentials, _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(url.netloc, _OPTIONS)
        self._rpc_error = grpc.RpcError
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._model, self._choice = model, choice
        # HTTP/2 has lower-case names only.
        self._headers = [(key.lower(), value) for key, value in headers.items()]

    def predict(
        self, signature: str, name: str, rows: Rows, outputs: Sequence[str], timeout: float
    ) -> list[FloatArray]:
        """Send rows as one tensor."""
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest(output_filter=outputs)
        request.model_spec.signature_name = signature
        dtype = tf.float32 if isinstance(rows, np.ndarray) else tf.string
        request.inputs[name].CopyFrom(tf.make_tensor_proto(rows, dtype))
        answer = self._ask(self._prediction.Predict, request, timeout).outputs
        for output in outputs:
            if output not in answer:
                raise _transport.no_output(output, list(answer))
        return [_array(answer[output]) for output in outputs]

    def metadata(self, timeout: float) -> dict[str, Any]:
        """Fetch the signature definitions."""
        from google.protobuf import json_format
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        answer = self._ask(self._prediction.GetModelMetadata, request, timeout)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(signatures)
        as_json = json_format.MessageToDict(signatures, preserving_proto_field_name=True)
        return as_json["signature_def"]

    def states(self, timeout: float) -> list[str]:
        """Fetch the states of the model's versions."""
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        answer = self._ask(self._models.GetModelStatus, request, timeout)
        name = get_model_status_pb2.ModelVersionStatus.State.Name
        return [name(status.state) for status in answer.model_version_status]

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


def _failure(code: str, details: str, timeout: float) -> Failure:
    """Say what a gRPC error means."""
    if code == "DEADLINE_EXCEEDED":
        return _transport.too_slow(timeout)
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in details:
        return Failure("PAYLOAD_TOO_LARGE", details)  # no retry will make it fit
    if any(sign in details for sign in _CUT):
        return Failure("DATA_LOSS", details)
    return Failure(code, details)


def _array(proto: Any) -> FloatArray:
    """Read a float32 tensor; `tf.make_ndarray` would fill up one that was cut short."""
    if proto.dtype != tf.float32.as_datatype_enum:
        dtype = tf.as_dtype(proto.dtype).name
        raise Failure("INVALID_ARGUMENT", f"the output should be float32; it is {dtype}")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_content:
        size, values = len(proto.tensor_content) // 4, None
    else:
        size, values = len(proto.float_val), proto.float_val
    if size != math.prod(shape):
        raise Failure("DATA_LOSS", f"an answer cut short: {size} numbers for shape {shape}")
    if values is None:
        return np.frombuffer(proto.tensor_content, "<f4").reshape(shape).astype(np.float32)
    return np.array(values, np.float32).reshape(shape)
