"""A client of TensorFlow Serving: rows in, their places on the map out, over REST or gRPC."""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Integral
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import numpy as np

from ptsne_keras.serving import chunks, transport
from ptsne_keras.serving.client_grpc import Grpc
from ptsne_keras.serving.client_rest import Rest
from ptsne_keras.serving.transport import Failure, Rows, Signatures, Transport
from ptsne_keras.typing import FloatArray

_T = TypeVar("_T")

_WAYS: dict[str, Callable[..., Transport]] = {
    "http": Rest,
    "https": Rest,
    "grpc": Grpc,
    "grpcs": Grpc,
}
# Embedding has no side effects: what may go well the next time is simply sent again.
_RETRIED = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "DATA_LOSS")
_LONGEST_PAUSE = 5.0
_ADVICE = {
    "NOT_FOUND": "The server should have loaded such a model and version; Client.ready() tells.",
    "PAYLOAD_TOO_LARGE": "The client should send less at once: a lower `rows`.",
    "UNAUTHENTICATED": "The client should be made with `headers` that the server accepts.",
    "PERMISSION_DENIED": "The client should be made with `headers` that the server accepts.",
}


class _Signature(NamedTuple):
    """A signature's name, its input's, and the ranks of its outputs."""

    name: str
    input: str
    ranks: Mapping[str, int]


_EMBED = _Signature("serving_default", "features", {"embedding": 2})
_CONFIDENCE = _Signature("embed_with_confidence", "features", {"embedding": 2, "novelty": 1})
_EXAMPLES = _Signature("embed_examples", "examples", {"embedding": 2})


class ServingError(RuntimeError):
    """A request that the server did not answer, or refused.

    Attributes
    ----------
    code : str
        A gRPC code such as "NOT_FOUND", over REST too; "DATA_LOSS" for an answer cut short,
        "PAYLOAD_TOO_LARGE" for a request that is.
    server_message : str
        What the server said, or the connection where it said nothing.
    attempts : int

    Examples
    --------
    >>> try:
    ...     client.embed(X)
    ... except ServingError as error:
    ...     print(error.code, error.attempts)
    UNAVAILABLE 9
    """

    def __init__(self, text: str, code: str, server_message: str, attempts: int) -> None:
        super().__init__(text)
        self.code, self.server_message, self.attempts = code, server_message, attempts


class Client:
    """Places for new rows from a server, in requests of a size that servers take, with retries.

    What may pass is tried again with growing pauses until `deadline`: a server that is unavailable
    or overloaded (gRPC UNAVAILABLE and RESOURCE_EXHAUSTED, HTTP 429, 502, 503 and 504, no
    connection), no answer within `timeout`, an answer cut short. Anything else is raised at once.
    As many rows come back as were sent, or an error.

    Parameters
    ----------
    url : str
        "http://host:8501" or "https://…" for REST, "grpc://host:8500" or "grpcs://…" for gRPC.
        Proxies that the environment names are not used.
    model : str
        Name under which the server has the model.
    version : int, optional
        By default the server's choice, its newest version.
    label : str, optional
        A version's label in the server's configuration, such as "stable"; instead of `version`.
    timeout : float
        Seconds for one request.
    deadline : float
        Seconds for all attempts at one request, the pauses too.
    rows : int
        At most this many rows in a request, and at most 2 MB of features.
    backoff : float
        Seconds, at most, before the second attempt; doubled before each further one, up to 5.
    headers : mapping of str to str, optional
        Sent along, such as {"authorization": "Bearer …"}; over gRPC as metadata.
    credentials : ssl.SSLContext or grpc.ChannelCredentials, optional
        For https or grpcs, where the system's certificates are not enough.

    Raises
    ------
    ValueError
        If an argument is not as above.
    ImportError
        For gRPC, if grpcio or tensorflow-serving-api is not installed.

    Examples
    --------
    >>> with Client("http://127.0.0.1:8501", "digits") as client:
    ...     client.embed(X).shape
    (1797, 2)
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 10.0,
        deadline: float = 60.0,
        rows: int = 4096,
        backoff: float = 0.1,
        headers: Mapping[str, str] | None = None,
        credentials: Any = None,
    ) -> None:
        _check(timeout=timeout, deadline=deadline, rows=rows, backoff=backoff)
        parts = urlsplit(url)
        if parts.scheme not in _WAYS or not parts.hostname:
            raise ValueError(
                "url should be http://host:port, https://…, grpc://… or grpcs://…. "
                f"Received: {url!r}."
            )
        if version is not None and label is not None:
            raise ValueError(
                f"version or label should be given, not both. Received: {version!r} and {label!r}."
            )
        choice = {"version": version, "label": label}
        choice = {key: value for key, value in choice.items() if value is not None}
        self._transport = _WAYS[parts.scheme](parts, model, choice, headers or {}, credentials)
        self._url, self._model, self._choice = url, model, choice
        self._timeout, self._deadline, self._backoff = timeout, deadline, backoff
        self._rows = rows
        # Of its own: clients that were refused together should not all come back together.
        self._random = random.Random()

    def embed(self, X: Any) -> FloatArray:
        """Embed rows: places Y float32 [N, d] on the map.

        Parameters
        ----------
        X : array-like or sparse matrix [N, D]
            Any numbers; they are sent as float32. Memory-mapped and sparse rows are read, and made
            dense, as they are sent. No rows give no places.

        Raises
        ------
        ValueError
            If `X` is not 2-D, not numeric, or has NaN, infinity or numbers beyond float32; before
            anything is sent.
        ServingError

        Examples
        --------
        >>> client.embed(X[:3]).shape
        (3, 2)
        """
        (Y,) = self._predict(chunks.features(X, self._rows), _EMBED)
        return Y

    def embed_with_confidence(self, X: Any) -> tuple[FloatArray, FloatArray]:
        """Embed rows, and tell how far each is from the training rows.

        Parameters
        ----------
        X : array-like or sparse matrix [N, D]
            As for `embed`.

        Returns
        -------
        Y : float32 [N, d]
        novelty : float32 [N]

        Raises
        ------
        ValueError
            As `embed`.
        ServingError
            Also if the model was exported without the signature `embed_with_confidence`.

        Examples
        --------
        >>> Y, novelty = client.embed_with_confidence(X)
        """
        parts = chunks.features(X, self._rows)
        Y, novelty = self._predict(parts, _CONFIDENCE)
        return Y, novelty

    def embed_examples(self, examples: Sequence[bytes]) -> FloatArray:
        """Embed rows given as serialised `tf.train.Example`: places Y float32 [N, d].

        Raises
        ------
        ValueError
            If `examples` are not a sequence of bytes.
        ServingError
            Also if the model was exported without the signature `embed_examples`.

        Examples
        --------
        >>> client.embed_examples([example.SerializeToString()]).shape
        (1, 2)
        """
        (Y,) = self._predict(chunks.examples(examples, self._rows), _EXAMPLES)
        return Y

    def metadata(self) -> Signatures:
        """Fetch the names, dtypes and shapes of what each signature takes and returns.

        Raises
        ------
        ServingError

        Examples
        --------
        >>> client.metadata()["serving_default"]["inputs"]
        {'features': {'dtype': 'float32', 'shape': [None, 64]}}
        """
        return self._retry("its metadata", self._signatures)

    def ready(self) -> bool:
        """Whether the server has the model, of this version or label, loaded; asked once.

        Raises
        ------
        ServingError
            If waiting would not help, as with credentials that the server refuses.

        Examples
        --------
        >>> client.ready()
        True
        """
        try:
            states = self._transport.states(self._timeout)
            if "label" in self._choice:
                self._transport.metadata(self._timeout)  # the status does not look at labels
        except Failure as failure:
            if failure.code in (*_RETRIED, "NOT_FOUND") or "label" in failure.message:
                return False
            raise self._error("its status", failure, 1) from None
        return "AVAILABLE" in states

    def close(self) -> None:
        """Close the connection; a later call opens another over REST, and fails over gRPC.

        Examples
        --------
        >>> client.close()
        """
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _predict(self, parts: Iterable[Rows], signature: _Signature) -> list[FloatArray]:
        answers = [self._send(part, signature) for part in parts]
        if not answers:
            return self._retry(f"signature {signature.name!r}", partial(self._nothing, signature))
        return [np.concatenate(arrays) for arrays in zip(*answers, strict=True)]

    def _send(self, part: Rows, signature: _Signature) -> list[FloatArray]:
        """Send one request, as often as it takes."""

        def once(timeout: float) -> list[FloatArray]:
            names = list(signature.ranks)
            arrays = self._transport.predict(signature.name, signature.input, part, names, timeout)
            for name, array in zip(names, arrays, strict=True):
                _check_output(name, array, signature.ranks[name], len(part))
            return arrays

        return self._retry(
            f"signature {signature.name!r}", once, partial(self._advice, signature, part)
        )

    def _nothing(self, signature: _Signature, timeout: float) -> list[FloatArray]:
        """Give the answer to no rows, which REST cannot ask: its shape is in the metadata."""
        known = self._signatures(timeout)
        if signature.name not in known:
            raise Failure("INVALID_ARGUMENT", f"the signatures {sorted(known)} alone")
        outputs = known[signature.name]["outputs"]
        shapes = [outputs[name]["shape"][1:] for name in signature.ranks]
        return [np.empty((0, *(size or 0 for size in shape)), np.float32) for shape in shapes]

    def _signatures(self, timeout: float) -> Signatures:
        return transport.signatures(self._transport.metadata(timeout))

    def _retry(
        self, what: str, call: Callable[[float], _T], advise: Callable[[Failure], str] | None = None
    ) -> _T:
        """Call until it goes well, the deadline is over, or there is no hope."""
        until = time.monotonic() + self._deadline
        pause, attempt, told = self._backoff, 0, None
        while True:
            attempt += 1
            try:
                return call(max(min(self._timeout, until - time.monotonic()), 1e-3))
            except Failure as failure:
                # That time ran out is no news beside what the server said before.
                told = told if told and failure.code == "DEADLINE_EXCEEDED" else failure
                wait = self._random.uniform(0.5, 1) * pause
                if failure.code not in _RETRIED or time.monotonic() + wait >= until:
                    advice = advise(told) if advise else ""
                    raise self._error(what, told, attempt, advice) from None
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _error(self, what: str, failure: Failure, attempts: int, advice: str = "") -> ServingError:
        chosen = "".join(f", {kind} {value!r}" for kind, value in self._choice.items())
        text = (
            f"{self._url} should answer with model {self._model!r}{chosen}, {what}. Received at "
            f"attempt {attempts}: {failure.code}: {failure.message.rstrip('.')}."
        )
        return ServingError(f"{text} {advice}".strip(), failure.code, failure.message, attempts)

    def _advice(self, signature: _Signature, part: Rows, failure: Failure) -> str:
        """Say what to do, if the failure or the model's metadata tells."""
        if failure.code in _ADVICE:
            return _ADVICE[failure.code]
        if "version label" in failure.message:
            return "The label should be in the server's configuration, on a version that is loaded."
        if failure.code not in ("INVALID_ARGUMENT", "FAILED_PRECONDITION"):
            return ""
        try:
            known = self._signatures(self._timeout)
        except Failure:
            return ""
        if signature.name not in known:
            return f"The model should be exported with that signature; it has {sorted(known)}."
        return _advice_on_input(known[signature.name]["inputs"], signature.input, part)


def _advice_on_input(inputs: Mapping[str, Any], name: str, part: Rows) -> str:
    if list(inputs) != [name]:
        return f"The signature should take {name!r} alone; it takes {sorted(inputs)}."
    dtype, shape = inputs[name]["dtype"], inputs[name]["shape"]
    sent = "float32" if isinstance(part, np.ndarray) else "string"
    if dtype != sent:
        return f"The signature should take {name!r} as {sent}; it takes {dtype}."
    if isinstance(part, np.ndarray) and len(shape) == 2 and shape[1] not in (None, part.shape[1]):
        return f"X should have {shape[1]} columns, as the model's training rows; it has {part.shape[1]}."
    return ""


def _check_output(name: str, array: FloatArray, rank: int, count: int) -> None:
    if array.shape[:1] != (count,):
        raise Failure("DATA_LOSS", f"{name!r} of shape {array.shape} for {count} rows")
    if array.ndim != rank:
        raise Failure("INVALID_ARGUMENT", f"{name!r} of shape {array.shape}, not {rank}-D")


def _check(rows: int, **seconds: float) -> None:
    if isinstance(rows, bool) or not isinstance(rows, Integral) or rows < 1:
        raise ValueError(f"rows should be an integer of at least 1. Received: {rows!r}.")
    for name, value in seconds.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} should be a number of seconds above 0. Received: {value!r}.")
