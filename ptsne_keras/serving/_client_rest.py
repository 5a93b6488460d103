"""TF Serving's REST API as a `Transport`."""

import base64
import http.client
import json
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, quote

import numpy as np

from ptsne_keras.serving import _transport
from ptsne_keras.serving._transport import Failure, Rows
from ptsne_keras.typing import FloatArray

# The gRPC code that TF Serving, or a proxy before it, means by an HTTP code.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "PAYLOAD_TOO_LARGE",
    429: "RESOURCE_EXHAUSTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
# Of an error that is no JSON, such as a proxy's page.
_LONGEST_TEXT = 300


class Rest:
    """REST over connections that stay open, one a thread."""

    def __init__(
        self,
        url: SplitResult,
        model: str,
        choice: Mapping[str, Any],
        headers: Mapping[str, str],
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._path = f"{url.path.rstrip('/')}/v1/models/{quote(model, safe='')}"
        for kind, value in choice.items():
            self._path += f"/{kind}s/{quote(str(value), safe='')}"
        self._url, self._context = url, context
        self._headers = {"Content-Type": "application/json", **headers}
        self._local = threading.local()

    def predict(
        self, signature: str, name: str, rows: Rows, outputs: Sequence[str], timeout: float
    ) -> list[FloatArray]:
        """Send rows in the columnar form, which names the input, once."""
        body = (
            f'{{"signature_name": {json.dumps(signature)}, '
            f'"inputs": {{{json.dumps(name)}: {json_rows(rows)}}}}}'
        )
        answer = _part(self._ask("POST", ":predict", timeout, body.encode()), "outputs")
        # A single output comes without its name.
        named = answer if isinstance(answer, dict) else {outputs[0]: answer}
        for output in outputs:
            if output not in named:
                raise _transport.no_output(output, list(named))
        try:
            return [np.asarray(named[output], np.float32) for output in outputs]
        except (TypeError, ValueError) as error:  # such as rows of different lengths
            raise Failure("DATA_LOSS", f"outputs that are no arrays: {error}") from None

    def metadata(self, timeout: float) -> dict[str, Any]:
        """Fetch the signature definitions."""
        answer = self._ask("GET", "/metadata", timeout)
        return _part(answer, "metadata", "signature_def", "signature_def")

    def states(self, timeout: float) -> list[str]:
        """Fetch the states of the model's versions."""
        statuses = _part(self._ask("GET", "", timeout), "model_version_status")
        return [_part(status, "state") for status in statuses]

    def close(self) -> None:
        """Close this thread's connection; those of other threads end with them."""
        connection = self._local.__dict__.pop("connection", None)
        if connection is not None:
            connection.close()

    def _ask(self, method: str, path: str, timeout: float, body: bytes | None = None) -> Any:
        try:
            status, text = self._exchange(method, self._path + path, timeout, body)
            answer = json.loads(text) if status == 200 else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()  # the rest of this answer would be taken for the next one
            raise _failure(error, timeout) from error
        if status != 200:
            raise Failure(_CODES.get(status, f"HTTP {status}"), _error_text(text))
        return answer

    def _exchange(
        self, method: str, path: str, timeout: float, body: bytes | None
    ) -> tuple[int, bytes]:
        until = time.monotonic() + timeout
        connection = self._connection(timeout)
        connection.request(method, path, body, self._headers)
        socket = connection.sock
        socket.settimeout(_left(until))
        response = connection.getresponse()
        pieces = []
        # Piece by piece: a socket's own limit is one of silence, not of the whole answer.
        while piece := response.read1(2**16):
            pieces.append(piece)
            socket.settimeout(_left(until))
        missing = response.length
        response.close()
        if missing:
            raise http.client.IncompleteRead(b"".join(pieces), missing)
        return response.status, b"".join(pieces)

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            host, port = self._url.hostname or "", self._url.port
            if self._url.scheme == "https":
                connection = http.client.HTTPSConnection(host, port, context=self._context)
            else:
                connection = http.client.HTTPConnection(host, port)
            self._local.connection = connection
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        return connection


def json_rows(rows: Rows) -> str:
    """Write rows as JSON: numbers as the shortest decimals that are the same float32."""
    if isinstance(rows, np.ndarray):
        # Half the bytes that the digits of a float64 would take, in no more time.
        return "[" + ",".join(f"[{','.join(row.astype('U').tolist())}]" for row in rows) + "]"
    return json.dumps([{"b64": base64.b64encode(row).decode()} for row in rows])


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _failure(error: Exception, timeout: float) -> Failure:
    """Say what a broken exchange means."""
    if isinstance(error, TimeoutError):
        return _transport.too_slow(timeout)
    if isinstance(error, OSError):  # refused, reset, or no such host
        return Failure("UNAVAILABLE", str(error))
    return Failure("DATA_LOSS", f"an answer cut short: {error}")


def _part(answer: Any, *keys: str) -> Any:
    """Take a part of an answer that is whole, yet may come from some other server."""
    for key in keys:
        if not isinstance(answer, dict) or key not in answer:
            raise Failure("UNKNOWN", f"an answer without {key!r}, unlike TF Serving's")
        answer = answer[key]
    return answer


def _error_text(text: bytes) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text.decode(errors="replace")[:_LONGEST_TEXT]
