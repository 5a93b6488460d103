"""Requests that are sent until they are answered, and errors that say what to do.

One loop serves both transports. gRPC's own retry policy makes 5 attempts at most, whatever it is
told, which are over in two seconds, and has no timeout for a single attempt; urllib3's Retry counts
attempts and knows no deadline.
"""

import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ptsne_keras.serving import _transport
from ptsne_keras.serving._grpc import Grpc
from ptsne_keras.serving._rest import Rest
from ptsne_keras.serving._transport import Failure, Rows, Signature, Signatures, printable
from ptsne_keras.typing import FloatArray

_T = TypeVar("_T")

# Embedding has no side effects, so a request that may succeed next time is simply sent again.
RETRIED = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "DATA_LOSS")
_LONGEST_PAUSE = 5.0
_HEADERS = "The client should be made with `headers` that the server accepts."
_ADVICE = {
    "NOT_FOUND": "The server should have loaded that model and version; see Client.ready().",
    "PAYLOAD_TOO_LARGE": "The client should send less at once: a lower `rows`.",
    "ANSWER_TOO_LARGE": "The client should ask for less at once, by a lower `rows`, or be made "
    "with a higher `max_answer_bytes`.",
    "UNAUTHENTICATED": _HEADERS,
    "PERMISSION_DENIED": _HEADERS,
    "UNTRUSTED": "The url should have the host that the server's certificate is for, and "
    "`credentials` should trust who issued it.",
}


class ServingError(RuntimeError):
    """A request that the server refused or did not answer.

    Attributes
    ----------
    code : str
        A gRPC code such as "NOT_FOUND", over REST as well; "DATA_LOSS" if the answer was cut
        short, "PAYLOAD_TOO_LARGE" or "ANSWER_TOO_LARGE", "UNTRUSTED" for a wrong certificate.
    server_message : str
        The server's message, or the connection's if the server sent none: one line of at most 800
        printable characters.
    attempts : int
        How often the request was sent.

    Examples
    --------
    >>> try:
    ...     client.embed(X[:, :5])
    ... except ServingError as error:
    ...     print(error.code, error.attempts)
    INVALID_ARGUMENT 1
    """

    def __init__(self, text: str, code: str, server_message: str, attempts: int) -> None:
        super().__init__(text)
        self.code, self.server_message, self.attempts = code, server_message, attempts


class Sender:
    """Sends requests over a transport until the deadline."""

    def __init__(
        self, way: Rest | Grpc, where: str, *, timeout: float, deadline: float, backoff: float
    ) -> None:
        self._way, self._where = way, where
        self._timeout, self._deadline, self._backoff = timeout, deadline, backoff
        # Its own: clients that were refused together should not all come back together.
        self._random = random.Random()

    def send(self, signature: Signature, part: Rows) -> list[FloatArray]:
        """Send rows in one request; return the outputs, with as many rows each."""

        def once(timeout: float) -> list[FloatArray]:
            return _checked(signature, self._way.predict(signature, part, timeout), part)

        advise = partial(self._advice, signature, part)
        return self._retry(f"signature {signature.name!r}", once, advise)

    def empty(self, signature: Signature) -> list[FloatArray]:
        """Return the outputs for no rows, which REST cannot send, by the model's metadata."""

        def once(timeout: float) -> list[FloatArray]:
            known = self._signatures(timeout)
            if signature.name not in known:
                raise Failure("INVALID_ARGUMENT", f"only the signatures {sorted(known)}")
            with _transport.reading():
                told = known[signature.name]["outputs"]
                shapes = {k: [n or 0 for n in told[k]["shape"][1:]] for k in signature.ranks}
                found = {k: np.empty((0, *shape), np.float32) for k, shape in shapes.items()}
            return _checked(signature, found, ())

        return self._retry(f"signature {signature.name!r}", once)

    def metadata(self) -> Signatures:
        """Fetch what the signatures take and return."""
        return self._retry("its metadata", self._signatures)

    def error(self, what: str, failure: Failure, attempts: int, advice: str = "") -> ServingError:
        """Return the error that a user sees."""
        text = (
            f"{self._where} should answer for {what}. Received at attempt {attempts}: "
            f"{failure.code}: {failure.message.rstrip('.')}."
        )
        return ServingError(f"{text} {advice}".strip(), failure.code, failure.message, attempts)

    def _retry(
        self,
        what: str,
        call: Callable[[float], _T],
        advise: Callable[[Failure, float], str] | None = None,
    ) -> _T:
        """Call with a timeout until it succeeds, the deadline is over, or there is no hope."""
        until = time.monotonic() + self._deadline

        def left() -> float:
            return max(min(self._timeout, until - time.monotonic()), 1e-3)

        pause, attempt, told = self._backoff, 0, None
        while True:
            attempt += 1
            try:
                return call(left())
            except Failure as failure:
                # Running out of time adds nothing to what the server said before.
                told = told if told and failure.code == "DEADLINE_EXCEEDED" else failure
                wait = self._random.uniform(0.5, 1) * pause
                if failure.code not in RETRIED or time.monotonic() + wait >= until:
                    advice = printable(advise(told, left()), 300) if advise else ""
                    raise self.error(what, told, attempt, advice) from None
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _signatures(self, timeout: float) -> Signatures:
        return _transport.signatures(self._way.metadata(timeout))

    def _advice(self, signature: Signature, part: Rows, failure: Failure, timeout: float) -> str:
        """Return what to do, as far as the failure or the model's metadata shows it."""
        if failure.code in _ADVICE:
            return _ADVICE[failure.code]
        if "version label" in failure.message:
            return "The label should be in the server's configuration, on a version that is loaded."
        if failure.code not in ("INVALID_ARGUMENT", "FAILED_PRECONDITION"):
            return ""
        try:
            known = self._signatures(timeout)
        except Failure:
            return ""
        if signature.name not in known:
            return f"The model should be exported with that signature; it has {sorted(known)}."
        return _advice_on_input(known[signature.name]["inputs"], signature.input, part)


def _checked(signature: Signature, found: Mapping[str, FloatArray], part: Rows) -> list[FloatArray]:
    """Return the outputs in order, each with one finite entry for each row."""
    for name, rank in signature.ranks.items():
        if name not in found:
            raise Failure("INVALID_ARGUMENT", f"no output {name!r} in the answer")
        shape = found[name].shape
        if shape[:1] != (len(part),) or len(shape) != rank or (len(part) and 0 in shape):
            code = "INVALID_ARGUMENT" if shape[:1] == (len(part),) else "DATA_LOSS"
            what = f"{name!r} of shape {shape}, not {rank}-D for {len(part)} rows"
            raise Failure(code, what)
        # Only the server knows whether the rows of examples are finite.
        if isinstance(part, np.ndarray) and not np.isfinite(found[name]).all():
            raise Failure("INTERNAL", f"{name!r} with NaN or infinity for finite rows")
    return [found[name] for name in signature.ranks]


def _advice_on_input(inputs: Mapping[str, Any], name: str, part: Rows) -> str:
    if list(inputs) != [name]:
        return f"The signature should take {name!r} alone; it takes {sorted(inputs)}."
    dtype, width = inputs[name]["dtype"], inputs[name]["shape"][1:]
    sent, columns = ("float32", part.shape[1]) if isinstance(part, np.ndarray) else ("string", None)
    if dtype != sent:
        return f"The signature should take {name!r} as {sent}; it takes {dtype}."
    if columns and width not in ([None], [columns]):
        return f"X should have {width[0]} columns, like the training rows; it has {columns}."
    return ""
