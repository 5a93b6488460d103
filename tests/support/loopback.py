"""A stand-in for TensorFlow Serving on 127.0.0.1, which can be told to fail.

It answers over REST and gRPC from exported models, and refuses in TensorFlow Serving's words, as
far as `serving.Client` makes requests: the columnar form of REST, all messages of gRPC.
"""

import base64
import functools
import http.server
import json
import re
import threading
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from ptsne_keras.serving._transport import Failure

# A refusal; an answer after `slow` seconds; one cut off inside; one that lacks half the rows.
FAULTS = ("unavailable", "slow", "truncated", "short")
_HTTP = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "UNAVAILABLE": 503}
_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(:predict|/metadata|)")
invalid = functools.partial(Failure, "INVALID_ARGUMENT")


class Loopback:
    """Serves the versions below a base path; use it as a context manager."""

    def __init__(self, base_path, name, *, labels=None, slow=1.0, ports=None, **options):
        folders = [path for path in Path(base_path).glob("*") if path.name.isdecimal()]
        assert folders, f"no version in {base_path}"
        self._versions = {int(path.name): Version(path) for path in folders}
        self.name, self._labels, self._slow = name, labels or {}, slow
        self.requests, self._faults = [], []
        self._lock = threading.Lock()
        self.closed, self._released = threading.Event(), threading.Event()
        asked = {"http": 0, "grpc": 0, **(ports or {})}
        handler = type("Handler", (_Handler,), {"loopback": self})
        self._rest = http.server.ThreadingHTTPServer(("127.0.0.1", asked["http"]), handler)
        threading.Thread(target=self._rest.serve_forever, args=(0.05,)).start()
        self._grpc, grpc_port = _start_grpc(self, asked["grpc"], options)
        ports = {"http": self._rest.server_address[1], "grpc": grpc_port}
        self.urls = {way: f"{way}://127.0.0.1:{port}" for way, port in ports.items()}

    def inject(self, fault, times=1):
        """Let the next predict requests meet a fault."""
        assert fault in FAULTS
        self._faults += [fault] * times

    def clear(self):
        """Forget the requests, and the faults that none of them has met; answer what is slow."""
        self.requests.clear()
        self._faults.clear()
        self._released.set()
        self._released = threading.Event()

    def find(self, name, version, label):
        """Return the version that a request asks for."""
        if label and name == self.name:
            if label not in self._labels:
                raise invalid(f"Unrecognized servable version label: {label}")
            version = self._labels[label]
        if name != self.name or version not in (None, *self._versions):
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise Failure("NOT_FOUND", f"Servable not found for request: {wanted}")
        return self._versions[max(self._versions) if version is None else version]

    def listed(self, name, version, _label):
        """Return the versions whose states are asked for."""
        if name != self.name or version not in (None, *self._versions):
            raise Failure("NOT_FOUND", f"Could not find any versions of model {name}")
        return sorted(self._versions) if version is None else [version]

    def answer(self, version, signature, headers, inputs, outputs=()):
        """Return the outputs by name, and whether to cut the answer off."""
        rows = max((array.shape[0] for array in inputs.values() if array.ndim), default=0)
        with self._lock:
            self.requests.append(SimpleNamespace(rows=rows, headers=headers))
            fault = self._faults.pop(0) if self._faults else None
        if fault == "unavailable":
            raise Failure("UNAVAILABLE", "The model server is unavailable: an injected fault")
        if fault == "slow":
            self._released.wait(self._slow)
        found = version.run(signature, inputs, outputs)
        if fault == "short":
            found = {name: array[: len(array) // 2] for name, array in found.items()}
        return found, fault == "truncated"

    def close(self):
        """Stop both servers; open connections are dropped at their next request."""
        self.closed.set()
        self._released.set()
        self._rest.shutdown()
        self._rest.server_close()
        self._grpc.stop(None).wait()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class Version:
    """A SavedModel that is loaded."""

    def __init__(self, path):
        proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        self.definitions = dict(proto.meta_graphs[0].signature_def)
        self._model = tf.saved_model.load(str(path))

    def run(self, signature, inputs, outputs):
        """Return outputs, all unless some are named."""
        if set(inputs) != set(self.definitions[signature].inputs):
            raise invalid(f"input size does not match signature: {sorted(inputs)}")
        tensors = {name: tf.constant(array) for name, array in inputs.items()}
        try:
            found = self._model.signatures[signature](**tensors)
        except tf.errors.OpError as error:
            # Eager TensorFlow wraps the operation's own message.
            message = error.message.rpartition("<stack traces unavailable>")[2]
            message = message.rpartition(" [Op:")[0] or message
            wrong = isinstance(error, tf.errors.InvalidArgumentError)
            raise Failure("INVALID_ARGUMENT" if wrong else "INTERNAL", message) from error
        return {name: found[name].numpy() for name in outputs or found}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    wbufsize = -1  # header and body leave together: no wait for an acknowledgement between

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.loopback.closed.is_set():
            self.close_connection = True
            return
        cut, code = False, 200
        try:
            parts = _PATH.fullmatch(self.path).groups()
            name, version, label, act = (unquote(part or "") for part in parts)
            asked = (name, int(version) if version else None, label)
            if act == ":predict":
                answer, cut = self._predict(asked, json.loads(body))
            else:
                message = (_metadata if act else _status)(self.loopback, None, asked, None)
                answer = json_format.MessageToDict(message, preserving_proto_field_name=True)
        except Failure as failure:
            code, answer = _HTTP.get(failure.code, 500), {"error": str(failure)}
        text = json.dumps(answer, indent=1).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text[: len(text) // 2] if cut else text)
        self.wfile.flush()
        self.close_connection |= cut

    do_POST = do_GET

    def log_message(self, *arguments):
        pass

    def _predict(self, asked, body):
        signature, served = body["signature_name"], self.loopback.find(*asked)
        if signature not in served.definitions:
            raise invalid(f'Serving signature name: "{signature}" not found in signature def')
        inputs = {}
        for name, info in served.definitions[signature].inputs.items():
            if name not in body["inputs"]:
                raise invalid(f"Missing named input: {name} in 'inputs' object.")
            inputs[name] = _from_json(body["inputs"][name], tf.as_dtype(info.dtype))
        headers = {key.lower(): value for key, value in self.headers.items()}
        outputs, cut = self.loopback.answer(served, signature, headers, inputs)
        # The shortest decimals that are the same float32, and a single output without its name.
        lists = {k: v.astype("U").astype(np.float64).tolist() for k, v in outputs.items()}
        return {"outputs": next(iter(lists.values())) if len(lists) == 1 else lists}, cut


def _from_json(value, dtype):
    if dtype == tf.string:
        return np.array([base64.b64decode(item["b64"]) for item in value], object)
    array = np.array(value, object)
    for number in array.ravel():
        if isinstance(number, int) and abs(number) >= 2**24:
            raise invalid(f"Cannot convert JSON value: {number} to float without loss")
    return array.astype(dtype.as_numpy_dtype)


def _start_grpc(loopback, port, options):
    def answering(act):
        def answer(self, request, context):
            spec = request.model_spec
            version = spec.version.value if spec.HasField("version") else None
            try:
                return act(loopback, request, (spec.name, version, spec.version_label), context)
            except Failure as failure:
                context.abort(getattr(grpc.StatusCode, failure.code), str(failure))

        return answer

    class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
        Predict, GetModelMetadata = answering(_predict), answering(_metadata)

    class Models(model_service_pb2_grpc.ModelServiceServicer):
        GetModelStatus = answering(_status)

    own = [("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(4), options=own, **options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


def _predict(loopback, request, asked, context):
    served, signature = loopback.find(*asked), request.model_spec.signature_name
    if signature not in served.definitions:
        raise Failure("FAILED_PRECONDITION", f'Serving signature key "{signature}" not found.')
    inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
    headers = dict(context.invocation_metadata())
    outputs, cut = loopback.answer(served, signature, headers, inputs, list(request.output_filter))
    response = predict_pb2.PredictResponse()
    for name, array in outputs.items():
        # In TensorFlow Serving's form, which is not make_tensor_proto's.
        proto = response.outputs[name]
        proto.dtype = tf.as_dtype(array.dtype).as_datatype_enum
        for size in array.shape:
            proto.tensor_shape.dim.add(size=size)
        values = array.ravel()
        proto.float_val.extend(values[: len(values) // 2] if cut else values)
    return response


def _metadata(loopback, request, asked, context):
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in loopback.find(*asked).definitions.items():
        signatures.signature_def[name].CopyFrom(definition)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(signatures)
    return response


def _status(loopback, request, asked, context):
    response = get_model_status_pb2.GetModelStatusResponse()
    state = get_model_status_pb2.ModelVersionStatus.State.AVAILABLE
    for number in loopback.listed(*asked):
        response.model_version_status.add(version=number, state=state)
    return response
