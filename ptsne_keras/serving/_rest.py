"""TensorFlow Serving's REST API."""

import base64
import contextlib
import http.client
import io
import json
import queue
import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import quote

import numpy as np
import urllib3

from ptsne_keras.serving import _transport
from ptsne_keras.serving._transport import Failure, Rows, Signature, Target
from ptsne_keras.typing import FloatArray

# The gRPC codes that TensorFlow Serving, or a proxy before it, expresses as HTTP codes.
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
# Connections that are kept open for threads; more are opened as needed.
_KEPT = 16


class _Until(io.RawIOBase):
    """Reads a socket within its timeout in all; the socket itself limits each silence only."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw, self._sock = raw, sock
        self._until = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """Headers and body within the timeout of the request."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Until(self.fp.detach(), sock))


class _Connecting:
    """Connects within its timeout, also where the system takes longer to look up the host."""

    timeout: Any

    def _new_conn(self) -> Any:
        connect: Any = super()._new_conn  # type: ignore[misc]
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def put() -> None:
            try:
                results.put(connect())
            except Exception as error:
                results.put(error)

        threading.Thread(target=put, daemon=True).start()
        try:
            result = results.get(timeout=self.timeout)
        except queue.Empty:
            raise urllib3.exceptions.ConnectTimeoutError(self, "no connection in time") from None
        if isinstance(result, Exception):
            raise result
        return result


class _Pools(urllib3.PoolManager):
    """Pools of connections that give such responses."""

    def _new_pool(self, *args: Any, **options: Any) -> Any:
        pool = super()._new_pool(*args, **options)
        bases, body = (_Connecting, pool.ConnectionCls), {"response_class": _Response}
        pool.ConnectionCls = type("Connection", bases, body)
        return pool


class Rest:
    """REST over connections that stay open. A call is one request within `timeout`, or fails."""

    def __init__(self, to: Target) -> None:
        base = f"{to.url.scheme}://{to.url.netloc}{to.url.path.rstrip('/')}"
        self._url = f"{base}/v1/models/{quote(to.model, safe='')}"
        for kind, value in to.choice.items():
            self._url += f"/{kind}s/{quote(str(value), safe='')}"
        headers = {"Content-Type": "application/json", **to.headers}
        options = {"maxsize": _KEPT, "retries": False, "ssl_context": to.credentials}
        self._pools = _Pools(headers=headers, **options)
        self._max_bytes = to.max_answer_bytes

    def predict(self, signature: Signature, rows: Rows, timeout: float) -> dict[str, FloatArray]:
        """Send rows in the columnar form, which names the input once."""
        outputs = list(signature.ranks)
        inputs = f'{{"{signature.input}": {json_rows(rows)}}}'
        body = f'{{"signature_name": "{signature.name}", "inputs": {inputs}}}'
        answer = self._ask("POST", ":predict", timeout, body.encode())
        with _transport.reading():
            found = answer["outputs"]
            # A single output comes without its name.
            named = found if isinstance(found, dict) else {outputs[0]: found}
            return {key: _array(named[key]) for key in outputs if key in named}

    def metadata(self, timeout: float) -> Any:
        """Fetch the signature definitions."""
        return self._ask("GET", "/metadata", timeout)

    def status(self, timeout: float) -> Any:
        """Fetch the states of the model's versions."""
        return self._ask("GET", "", timeout)

    def close(self) -> None:
        """Close all connections."""
        self._pools.clear()

    def _ask(self, method: str, path: str, timeout: float, body: bytes | None = None) -> Any:
        try:
            options: dict[str, Any] = {"redirect": False, "preload_content": False}
            limit = urllib3.Timeout(total=timeout)
            response = self._pools.request(method, self._url + path, body, timeout=limit, **options)
            text = bytearray()
            with contextlib.closing(response):
                while piece := response.read1(2**16):
                    text += piece
                    if len(text) > self._max_bytes:
                        what = f"an answer of more than {self._max_bytes:,} bytes"
                        raise Failure("ANSWER_TOO_LARGE", what)
        except (urllib3.exceptions.HTTPError, TimeoutError) as error:
            raise _failure(error, timeout) from error
        if response.status == 200:
            with _transport.reading():
                return json.loads(text)
        raise Failure(_CODES.get(response.status, f"HTTP {response.status}"), _error_text(text))


def json_rows(rows: Rows) -> str:
    """Return rows as JSON: numbers as the shortest decimals that are the same float32."""
    if isinstance(rows, np.ndarray):
        # Half the bytes that float64 digits would take, at the same speed.
        return "[" + ",".join(f"[{','.join(row.astype('U').tolist())}]" for row in rows) + "]"
    return json.dumps([{"b64": base64.b64encode(row).decode()} for row in rows])


def _array(value: Any) -> FloatArray:
    array = np.asarray(value)
    if array.dtype.kind not in "fi":
        raise TypeError("not numbers")
    with np.errstate(over="ignore"):  # infinity is refused later
        return array.astype(np.float32)


def _failure(error: Exception, timeout: float) -> Failure:
    """Return the failure that a broken exchange stands for."""
    if isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError) and not isinstance(
        error, urllib3.exceptions.NewConnectionError
    ):
        return _transport.too_slow(timeout)
    cause = error.args[-1] if error.args else error
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
        return Failure("UNTRUSTED", str(error))
    if isinstance(cause, http.client.HTTPException) and not isinstance(cause, OSError):
        return Failure("DATA_LOSS", f"an answer cut short: {error}")
    return Failure("UNAVAILABLE", str(error))  # refused, reset, or no such host


def _error_text(text: bytearray) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return text.decode(errors="replace") or "no text"  # such as a proxy's page
