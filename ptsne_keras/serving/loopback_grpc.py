"""The gRPC half of `Loopback`: PredictionService and ModelService by their official messages."""

from collections.abc import Callable
from concurrent import futures
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from ptsne_keras.serving._transport import Failure

if TYPE_CHECKING:
    from ptsne_keras.serving.loopback import Loopback


def start(loopback: "Loopback", port: int) -> tuple[Any, int]:
    """Answer gRPC on a port, 0 for a free one: the server and its port; (None, 0) without gRPC."""
    try:
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
    except ImportError:
        return None, 0
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    prediction, models = _services(loopback)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


def _services(loopback: "Loopback") -> tuple[Any, Any]:
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request: Any, context: Any) -> Any:
            return _answer(_predict, loopback, request, context)

        def GetModelMetadata(self, request: Any, context: Any) -> Any:
            return _answer(_metadata, loopback, request, context)

    class Models(model_service_pb2_grpc.ModelServiceServicer):
        def GetModelStatus(self, request: Any, context: Any) -> Any:
            return _answer(_status, loopback, request, context)

    return Prediction(), Models()


def _answer(act: Callable[..., Any], loopback: "Loopback", request: Any, context: Any) -> Any:
    import grpc

    spec = request.model_spec
    version = spec.version.value if spec.HasField("version") else None
    try:
        return act(loopback, request, version)
    except Failure as failure:
        context.abort(getattr(grpc.StatusCode, failure.code), str(failure))


def _predict(loopback: "Loopback", request: Any, version: int | None) -> Any:
    from tensorflow_serving.apis import predict_pb2

    from ptsne_keras.serving.loopback import Request

    spec = request.model_spec
    number, served = loopback.find(spec.name, version, spec.version_label)
    signature = spec.signature_name or "serving_default"
    if signature not in served.definitions:
        raise Failure("FAILED_PRECONDITION", f'Serving signature key "{signature}" not found.')
    inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
    rows = max((array.shape[0] for array in inputs.values() if array.ndim), default=0)
    fault = loopback.meet(Request("grpc", signature, rows))
    outputs = served.run(signature, inputs, list(request.output_filter))
    response = predict_pb2.PredictResponse()
    response.model_spec.name, response.model_spec.signature_name = spec.name, signature
    response.model_spec.version.value = number
    for name, array in outputs.items():
        array = array[: len(array) // 2] if fault == "short" else array
        proto = response.outputs[name]
        # In TF Serving's form, which is not make_tensor_proto's.
        proto.dtype = tf.as_dtype(array.dtype).as_datatype_enum
        for size in array.shape:
            proto.tensor_shape.dim.add(size=size)
        values = array.ravel()
        proto.float_val.extend(values[: len(values) // 2] if fault == "truncated" else values)
    return response


def _metadata(loopback: "Loopback", request: Any, version: int | None) -> Any:
    from tensorflow_serving.apis import get_model_metadata_pb2

    spec = request.model_spec
    number, served = loopback.find(spec.name, version, spec.version_label)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in served.definitions.items():
        signatures.signature_def[name].CopyFrom(definition)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = spec.name
    response.model_spec.version.value = number
    response.metadata["signature_def"].Pack(signatures)
    return response


def _status(loopback: "Loopback", request: Any, version: int | None) -> Any:
    from tensorflow_serving.apis import get_model_status_pb2

    response = get_model_status_pb2.GetModelStatusResponse()
    state = get_model_status_pb2.ModelVersionStatus.State.AVAILABLE
    for number in loopback.versions(request.model_spec.name, version):
        response.model_version_status.add(version=number, state=state)
    return response
