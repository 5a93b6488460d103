"""TensorFlow Serving's REST API."""

import base64
import contextlib
import http.client
import json
import time
from typing import Any
from urllib.parse import SplitResult, quote

import numpy as np
import urllib3

from ptsne_keras.serving import _transport
from ptsne_keras.serving._transport import Failure, Options, Rows, Signature
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


class Rest:
    """REST over connections that stay open. A call is one request within `timeout`, or fails."""

    def __init__(
        self, url: SplitResult, model: str, choice: Options, headers: Options, credentials: Any
    ) -> None:
        base = f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}"
        self._url = f"{base}/v1/models/{quote(model, safe='')}"
        for kind, value in choice.items():
            self._url += f"/{kind}s/{quote(str(value), safe='')}"
        headers = {"Content-Type": "application/json", **headers}
        options = {"maxsize": _KEPT, "retries": False, "ssl_context": credentials}
        self._pools = urllib3.PoolManager(headers=headers, **options)

    def predict(self, signature: Signature, rows: Rows, timeout: float) -> dict[str, FloatArray]:
        """Send rows in the columnar form, which names the input once."""
        outputs = list(signature.ranks)
        inputs = f'{{"{signature.input}": {json_rows(rows)}}}'
        body = f'{{"signature_name": "{signature.name}", "inputs": {inputs}}}'
        answer = _transport.part(self._ask("POST", ":predict", timeout, body.encode()), "outputs")
        # A single output comes without its name.
        named = answer if isinstance(answer, dict) else {outputs[0]: answer}
        try:
            return {key: np.asarray(named[key], np.float32) for key in outputs if key in named}
        except (TypeError, ValueError) as error:  # such as rows of different lengths
            raise Failure("DATA_LOSS", f"outputs that are no arrays: {error}") from None

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
        until = time.monotonic() + timeout
        try:
            options: dict[str, Any] = {"redirect": False, "preload_content": False}
            limit = urllib3.Timeout(total=timeout)
            response = self._pools.request(method, self._url + path, body, timeout=limit, **options)
            text = bytearray()
            with contextlib.closing(response):
                # In pieces: the timeout of a socket limits each silence, not the whole answer.
                while piece := response.read1(2**16):
                    text += piece
                    if time.monotonic() > until:
                        raise TimeoutError
            if response.status == 200:
                return json.loads(text)
        except (urllib3.exceptions.HTTPError, TimeoutError, ValueError) as error:
            raise _failure(error, timeout) from error
        raise Failure(_CODES.get(response.status, f"HTTP {response.status}"), _error_text(text))


def json_rows(rows: Rows) -> str:
    """Return rows as JSON: numbers as the shortest decimals that are the same float32."""
    if isinstance(rows, np.ndarray):
        # Half the bytes that float64 digits would take, at the same speed.
        return "[" + ",".join(f"[{','.join(row.astype('U').tolist())}]" for row in rows) + "]"
    return json.dumps([{"b64": base64.b64encode(row).decode()} for row in rows])


def _failure(error: Exception, timeout: float) -> Failure:
    """Return the failure that a broken exchange stands for."""
    if isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError) and not isinstance(
        error, urllib3.exceptions.NewConnectionError
    ):
        return _transport.too_slow(timeout)
    cause = error.args[-1] if error.args else error
    cut = isinstance(cause, http.client.HTTPException) and not isinstance(cause, OSError)
    if cut or isinstance(error, ValueError):
        return Failure("DATA_LOSS", f"an answer cut short: {error}")
    return Failure("UNAVAILABLE", str(error))  # refused, reset, or no such host


def _error_text(text: bytearray) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text.decode(errors="replace")[:300]  # such as a proxy's page
