"""The REST half of `Loopback`: TF Serving's paths, JSON forms, codes and messages."""

import base64
import binascii
import http.server
import json
import re
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ptsne_keras.serving._transport import Failure

if TYPE_CHECKING:
    from ptsne_keras.serving.loopback import Loopback

_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_PREDICT = re.compile(_MODEL + ":predict")
_STATUS = re.compile(_MODEL + "(/metadata)?")
_HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}
# Integers beyond it are refused for float32.
_LARGEST = 2**24 - 1


class RestServer(http.server.ThreadingHTTPServer):
    """HTTP server that knows its Loopback, and whether it is closed."""

    def __init__(self, loopback: "Loopback", port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.loopback = loopback
        self.closed = False


def start(loopback: "Loopback", port: int) -> RestServer:
    """Answer REST on a port, in threads; 0 is a free one; until `shutdown()`."""
    server = RestServer(loopback, port)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    return server


class _Handler(http.server.BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"  # connections stay open
    wbufsize = -1  # header and body leave together: no wait for an acknowledgement between

    def do_GET(self) -> None:
        self._answer(_STATUS, self._describe)

    def do_POST(self) -> None:
        self._answer(_PREDICT, self._predict)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing on stderr."""

    def _answer(self, path: re.Pattern[str], act: Any) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.closed:
            self.close_connection = True
            return
        cut, match = False, path.fullmatch(self.path)
        try:
            if match is None:
                message = f"Malformed request: {self.command} {self.path}"
                raise Failure("INVALID_ARGUMENT", message)
            name, version, label, *rest = (unquote(group or "") for group in match.groups())
            answer, cut = act(name, int(version) if version else None, label, body, *rest)
            code = 200
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

    def _describe(
        self, name: str, version: int | None, label: str, body: bytes, metadata: str
    ) -> tuple[Any, bool]:
        from google.protobuf import json_format

        loopback = self.server.loopback
        if not metadata:
            states = [
                {
                    "version": str(number),
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
                for number in loopback.versions(name, version)
            ]
            return {"model_version_status": states}, False
        number, served = loopback.find(name, version, label)
        definitions = {
            key: json_format.MessageToDict(value, preserving_proto_field_name=True)
            for key, value in served.definitions.items()
        }
        spec = {"name": name, "signature_name": "", "version": str(number)}
        signature_def = {"signature_def": {"signature_def": definitions}}
        return {"model_spec": spec, "metadata": signature_def}, False

    def _predict(self, name: str, version: int | None, label: str, body: bytes) -> tuple[Any, bool]:
        from ptsne_keras.serving.loopback import Request

        request = _parsed(body)
        signature = request.get("signature_name", "serving_default")
        _, served = self.server.loopback.find(name, version, label)
        if signature not in served.definitions:
            message = f'Serving signature name: "{signature}" not found in signature def'
            raise Failure("INVALID_ARGUMENT", message)
        infos = {
            key: tf.as_dtype(info.dtype)
            for key, info in served.definitions[signature].inputs.items()
        }
        by_row = "instances" in request
        inputs = _from_instances(request, infos) if by_row else _from_inputs(request, infos)
        rows = max((array.shape[0] for array in inputs.values() if array.ndim), default=0)
        fault = self.server.loopback.meet(Request("rest", signature, rows))
        outputs = served.run(signature, inputs, [])
        if fault == "short":
            outputs = {key: array[: len(array) // 2] for key, array in outputs.items()}
        return (_to_rows if by_row else _to_columns)(outputs), fault == "truncated"


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except ValueError as error:
        raise Failure("INVALID_ARGUMENT", f"JSON Parse error: {error}") from error
    if not isinstance(request, dict):
        raise Failure("INVALID_ARGUMENT", f"JSON Value: {body[:100]!r} Is not object")
    if "inputs" not in request and "instances" not in request:
        raise Failure("INVALID_ARGUMENT", "Missing 'inputs' or 'instances' key")
    return request


def _from_instances(request: Any, infos: dict[str, tf.DType]) -> dict[str, npt.NDArray[Any]]:
    """Read the row format: one value, or one object of named values, a row."""
    instances = request["instances"]
    if not isinstance(instances, list):
        message = f"JSON Value: {json.dumps(request)} Excepting 'instances' to be an list/array"
        raise Failure("INVALID_ARGUMENT", message)
    if not instances:
        message = f"JSON Value: {json.dumps(request)} No values in 'instances' array"
        raise Failure("INVALID_ARGUMENT", message)
    columns: dict[str, list[Any]] = {name: [] for name in infos}
    for i, item in enumerate(instances):
        named = item if isinstance(item, dict) and "b64" not in item else {next(iter(infos)): item}
        if set(named) != set(infos):
            message = (
                f"Failed to process element: {i} of 'instances' list. JSON object: "
                f"{json.dumps(item)} keys must be equal to: {','.join(sorted(infos))}"
            )
            raise Failure("INVALID_ARGUMENT", message)
        for name, value in named.items():
            columns[name].append(value)
    return {name: _array(columns[name], dtype) for name, dtype in infos.items()}


def _from_inputs(request: Any, infos: dict[str, tf.DType]) -> dict[str, npt.NDArray[Any]]:
    """Read the columnar format: one value, or an object of named ones."""
    inputs = request["inputs"]
    named = inputs if isinstance(inputs, dict) and "b64" not in inputs else None
    if named is None:
        named = {next(iter(infos)): inputs}
    for name in infos:
        if name not in named:
            message = f"Missing named input: {name} in 'inputs' object."
            raise Failure("INVALID_ARGUMENT", message)
    return {name: _array(named[name], dtype) for name, dtype in infos.items()}


def _array(value: Any, dtype: tf.DType) -> npt.NDArray[Any]:
    """Make an array of nested lists, whose leaves TF Serving would take for `dtype`."""
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    leaves: list[Any] = []
    _fill(value, shape, 0, dtype, leaves)
    array = np.empty(len(leaves), object if dtype == tf.string else dtype.as_numpy_dtype)
    array[:] = leaves
    return array.reshape(shape)


def _fill(value: Any, shape: list[int], level: int, dtype: tf.DType, leaves: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            message = (
                f"JSON Value: {json.dumps(value)} found at incorrect level: {level + 1} in the "
                f"JSON DOM. Expected at level: {len(shape)}"
            )
            raise Failure("INVALID_ARGUMENT", message)
        leaves.append(_leaf(value, dtype))
        return
    if level >= len(shape):
        message = f"Encountered list at unexpected level: {level} expected < {len(shape)}"
        raise Failure("INVALID_ARGUMENT", message)
    if len(value) != shape[level]:
        message = (
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
        raise Failure("INVALID_ARGUMENT", message)
    for item in value:
        _fill(item, shape, level + 1, dtype, leaves)


def _leaf(value: Any, dtype: tf.DType) -> Any:
    if dtype == tf.string:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict) and list(value) == ["b64"]:
            try:
                return base64.b64decode(value["b64"], validate=True)
            except (binascii.Error, TypeError, ValueError) as error:
                raise Failure("INVALID_ARGUMENT", "Unable to base64 decode") from error
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if dtype == tf.float32 and isinstance(value, int) and abs(value) > _LARGEST:
            message = f"Cannot convert JSON value: {value} to float without loss of precision."
            raise Failure("INVALID_ARGUMENT", message)
        return value
    kind = {dict: "Object", str: "String", bool: "True" if value else "False"}
    raise Failure(
        "INVALID_ARGUMENT",
        f"JSON Value: {json.dumps(value)} Type: {kind.get(type(value), 'Null')} is not of expected "
        f"type: {'string' if dtype == tf.string else 'float'}",
    )


def _to_rows(outputs: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    lists = {name: _decimals(array) for name, array in outputs.items()}
    if len(lists) == 1:
        return {"predictions": next(iter(lists.values()))}
    columns = zip(*lists.values(), strict=True)
    return {"predictions": [dict(zip(lists, row, strict=True)) for row in columns]}


def _to_columns(outputs: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    lists = {name: _decimals(array) for name, array in outputs.items()}
    return {"outputs": next(iter(lists.values())) if len(lists) == 1 else lists}


def _decimals(array: npt.NDArray[Any]) -> Any:
    """List float32 numbers as the shortest decimals that are the same, as TF Serving does."""
    return array.astype("U").astype(np.float64).tolist()
