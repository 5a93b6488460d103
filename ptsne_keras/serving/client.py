"""A client of TensorFlow Serving: rows in, their places on the map out, over REST or gRPC."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from types import TracebackType
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit

import numpy as np

from ptsne_keras.serving import _chunks
from ptsne_keras.serving._client_grpc import Grpc
from ptsne_keras.serving._client_rest import Rest
from ptsne_keras.serving._sender import RETRIED, Sender, Signature
from ptsne_keras.serving._transport import Failure, Rows, Signatures, Transport
from ptsne_keras.typing import FloatArray

_WAYS: dict[str, Callable[..., Transport]] = {
    "http": Rest,
    "https": Rest,
    "grpc": Grpc,
    "grpcs": Grpc,
}

_EMBED = Signature("serving_default", "features", {"embedding": 2})
_NOVELTY = Signature("embed_with_novelty", "features", {"embedding": 2, "novelty": 1})
_EXAMPLES = Signature("embed_examples", "examples", {"embedding": 2})


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
    >>> with Client(server.rest_url, "digits") as client:  # such as http://127.0.0.1:8501
    ...     client.embed(X).shape
    (200, 2)
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
        rows: int = _chunks.ROWS,
        backoff: float = 0.1,
        headers: Mapping[str, str] | None = None,
        credentials: Any = None,
    ) -> None:
        _check(timeout=timeout, deadline=deadline, rows=rows, backoff=backoff)
        parts = _parts(url)
        if credentials is not None and parts.scheme in ("http", "grpc"):
            raise ValueError(
                f"url should begin with https:// or grpcs:// for credentials. Received: {url!r}."
            )
        if any(
            mark in text for pair in (headers or {}).items() for mark in "\r\n" for text in pair
        ):
            raise ValueError(f"headers should be without line breaks. Received: {headers!r}.")
        if version is not None and label is not None:
            raise ValueError(
                f"version or label should be given, not both. Received: {version!r} and {label!r}."
            )
        if version is not None and (isinstance(version, bool) or not isinstance(version, Integral)):
            raise ValueError(f"version should be an integer. Received: {version!r}.")
        choice = {"version": version, "label": label}
        choice = {key: value for key, value in choice.items() if value is not None}
        self._transport = _WAYS[parts.scheme](parts, model, choice, headers or {}, credentials)
        self._choice, self._timeout, self._rows = choice, timeout, rows
        chosen = "".join(f", {kind} {value!r}" for kind, value in choice.items())
        self._sender = Sender(
            self._transport,
            f"{url}, model {model!r}{chosen},",
            timeout=timeout,
            deadline=deadline,
            backoff=backoff,
        )

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
        (Y,) = self._predict(_chunks.features(X, self._rows), _EMBED)
        return Y

    def embed_with_novelty(self, X: Any) -> tuple[FloatArray, FloatArray]:
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
            Also if the model was exported without the signature `embed_with_novelty`.

        Examples
        --------
        >>> Y, novelty = client.embed_with_novelty(X)
        """
        parts = _chunks.features(X, self._rows)
        Y, novelty = self._predict(parts, _NOVELTY)
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
        >>> client.embed_examples([graphs.example(X[0])]).shape
        (1, 2)
        """
        (Y,) = self._predict(_chunks.examples(examples, self._rows), _EXAMPLES)
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
        return self._sender.metadata()

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
            no_label = "label" in self._choice and failure.code == "INVALID_ARGUMENT"
            if no_label or failure.code in (*RETRIED, "NOT_FOUND"):
                return False
            raise self._sender.error("its status", failure, 1) from None
        return "AVAILABLE" in states

    def close(self) -> None:
        """Close the connection; a later call opens another over REST, and fails over gRPC.

        Examples
        --------
        >>> other = Client(server.rest_url, "digits")
        >>> other.close()
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

    def _predict(self, parts: Iterable[Rows], signature: Signature) -> list[FloatArray]:
        answers = [self._sender.send(signature, part) for part in parts]
        if not answers:
            return self._sender.nothing(signature)
        return [np.concatenate(arrays) for arrays in zip(*answers, strict=True)]


def _parts(url: str) -> SplitResult:
    """Take a url apart; what cannot be reached by any attempt is refused here."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in _WAYS and bool(parts.hostname) and parts.username is None
        good = good and parts.port != 0 and not any(mark.isspace() for mark in url)
    except (TypeError, ValueError, AttributeError):  # a port that is none, an address cut short
        good = False
    if not good:
        raise ValueError(
            "url should be http://host:port, https://…, grpc://… or grpcs://…, without a user "
            f"or blanks; for a password, see headers. Received: {url!r}."
        )
    return parts


def _check(rows: int, **seconds: float) -> None:
    if isinstance(rows, bool) or not isinstance(rows, Integral) or rows < 1:
        raise ValueError(f"rows should be an integer of at least 1. Received: {rows!r}.")
    for name, value in seconds.items():
        if not isinstance(value, Real) or not 0 < value < float("inf"):
            raise ValueError(f"{name} should be a number of seconds above 0. Received: {value!r}.")
