"""A client of TensorFlow Serving: sends rows over REST or gRPC and returns their embedding."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit

import numpy as np

from ptsne_keras.serving import _transport
from ptsne_keras.serving._grpc import Grpc
from ptsne_keras.serving._rest import Rest
from ptsne_keras.serving._sender import RETRIED, Sender
from ptsne_keras.serving._transport import Failure, Rows, Signature, Signatures, Target
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import validation

_SCHEMES = ("http", "https", "grpc", "grpcs")
_EMBED = Signature("serving_default", "features", {"embedding": 2})
_NOVELTY = Signature("embed_with_novelty", "features", {"embedding": 2, "novelty": 1})
_EXAMPLES = Signature("embed_examples", "examples", {"embedding": 2})


class Client:
    """Embed rows with a model on TensorFlow Serving, in requests of a size it accepts.

    Requests that may succeed next time (the server is unavailable or overloaded, does not answer
    within `timeout`, or its answer is cut short) are sent again, with growing pauses, until
    `deadline`. A call returns as many rows as it was given, or raises a ServingError.

    Parameters
    ----------
    url : str
        "http://host:8501" or "https://…" for REST, "grpc://host:8500" or "grpcs://…" for gRPC.
        Proxies named in the environment are not used.
    model : str
        Name of the model on the server.
    version : int, default=None
        Version of the model; by default the server's newest.
    label : str, default=None
        Label of a version in the server's configuration, such as "stable", instead of `version`.
    timeout : float, default=10.0
        Seconds for one attempt at a request.
    deadline : float, default=60.0
        Seconds for all attempts at a request and the pauses between them.
    rows : int, default=4096
        The most rows in a request; a request has at most 2 MB of features as well.
    backoff : float, default=0.1
        The longest pause before the second attempt, in seconds; it doubles with each further
        attempt, up to 5 s.
    max_answer_bytes : int, default=268435456
        The most bytes in an answer, unpacked; longer ones are refused.
    headers : mapping of str to str, default=None
        Headers such as {"authorization": "Bearer …"}; over gRPC they are sent as metadata.
    credentials : ssl.SSLContext or grpc.ChannelCredentials, default=None
        For https or grpcs, if the system's certificates are not enough.

    Raises
    ------
    ValueError
        If an argument is not as described.
    ImportError
        For gRPC, if grpcio or tensorflow-serving-api is not installed.

    Examples
    --------
    >>> with Client(url, "digits") as client:  # such as http://127.0.0.1:8501
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
        rows: int = _transport.ROWS,
        backoff: float = 0.1,
        max_answer_bytes: int = 256 * 2**20,
        headers: Mapping[str, str] | None = None,
        credentials: Any = None,
    ) -> None:
        self._rows = validation.check_integer(rows, "rows")
        limit = validation.check_integer(max_answer_bytes, "max_answer_bytes")
        seconds = {"timeout": timeout, "deadline": deadline, "backoff": backoff}
        for name, value in seconds.items():
            if not isinstance(value, Real) or not 0 < value < float("inf"):
                raise ValueError(f"{name} should be a number of seconds > 0. Received: {value!r}.")
        if version is not None and label is not None:
            raise ValueError(
                f"version or label should be given, not both. Received: {version!r} and {label!r}."
            )
        choice: dict[str, Any] = {} if label is None else {"label": label}
        if version is not None:
            choice = {"version": validation.check_integer(version, "version", 0)}
        parts, headers = _parts(url), dict(headers or {})
        if credentials is not None and parts.scheme in ("http", "grpc"):
            raise ValueError(
                f"url should begin with https:// or grpcs:// for credentials. Received: {url!r}."
            )
        if any("\r" in text or "\n" in text for pair in headers.items() for text in pair):
            raise ValueError(f"headers should not contain line breaks. Received: {headers!r}.")
        transport = Rest if parts.scheme.startswith("http") else Grpc
        self._transport = transport(Target(parts, model, choice, headers, credentials, limit))
        self._choice, self._timeout = choice, timeout
        chosen = "".join(f", {kind} {value!r}" for kind, value in choice.items())
        self._sender = Sender(self._transport, f"{url}, model {model!r}{chosen},", **seconds)

    def embed(self, X: Any) -> FloatArray:
        """Embed rows.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows of any numeric dtype, sent as float32. Memory-mapped and sparse rows are read, and
            made dense, one request at a time. There may be no rows at all.

        Returns
        -------
        Y : ndarray of shape (n_samples, n_components)
            The embedding, in float32.

        Raises
        ------
        ValueError
            If `X` is not 2-D or not numeric, or contains NaN, infinity or numbers beyond float32;
            nothing is sent in that case.
        ServingError
            If the server refuses a request, or does not answer it before the deadline.

        Examples
        --------
        >>> client.embed(X[:3]).shape
        (3, 2)
        """
        return self._predict(_transport.features(X, self._rows), _EMBED)[0]

    def embed_with_novelty(self, X: Any) -> tuple[FloatArray, FloatArray]:
        """Embed rows, and return how far each is from the training rows.

        Rows and errors are those of `embed`; the model should have been exported with a
        `reference`.

        Returns
        -------
        Y : ndarray of shape (n_samples, n_components)
            The embedding, in float32.
        novelty : ndarray of shape (n_samples,)
            Novelty in [0, 1]: 0 is a training row, 1 is farther away than any training row.

        Examples
        --------
        >>> Y, novelty = client.embed_with_novelty(X)
        """
        Y, novelty = self._predict(_transport.features(X, self._rows), _NOVELTY)
        return Y, novelty

    def embed_examples(self, examples: Sequence[bytes]) -> FloatArray:
        """Embed rows given as serialised `tf.train.Example`.

        Parameters
        ----------
        examples : sequence of bytes
            Examples with the feature "features", a float list of D numbers.

        Examples
        --------
        >>> from ptsne_keras.serving import signatures
        >>> client.embed_examples([signatures.example(X[0])]).shape
        (1, 2)
        """
        return self._predict(_transport.examples(examples, self._rows), _EXAMPLES)[0]

    def metadata(self) -> Signatures:
        """Fetch the names, dtypes and shapes of what each signature takes and returns.

        Returns
        -------
        dict
            Signature → "inputs" or "outputs" → name → {"dtype": str, "shape": list}.

        Examples
        --------
        >>> client.metadata()["serving_default"]["inputs"]
        {'features': {'dtype': 'float32', 'shape': [None, 64]}}
        """
        return self._sender.metadata()

    def ready(self) -> bool:
        """Return whether the server has loaded the model in this version or label; asks once.

        It raises a ServingError where waiting would not help, such as for refused credentials.

        Examples
        --------
        >>> client.ready()
        True
        """
        try:
            status = self._transport.status(self._timeout)
            with _transport.reading():  # a version without a state is UNKNOWN
                states = [version.get("state") for version in status["model_version_status"]]
            if "label" in self._choice:
                self._transport.metadata(self._timeout)  # the status ignores labels
        except Failure as failure:
            no_label = "label" in self._choice and failure.code == "INVALID_ARGUMENT"
            if no_label or failure.code in (*RETRIED, "NOT_FOUND"):
                return False
            raise self._sender.error("its status", failure, 1) from None
        return "AVAILABLE" in states

    def close(self) -> None:
        """Close the connection; later calls open another over REST, and fail over gRPC.

        Examples
        --------
        >>> other = Client(url, "digits")
        >>> other.close()
        """
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _predict(self, chunks: Iterable[Rows], signature: Signature) -> list[FloatArray]:
        answers = [self._sender.send(signature, chunk) for chunk in chunks]
        if not answers:
            return self._sender.empty(signature)
        if len(widths := {tuple(array.shape[1:] for array in answer) for answer in answers}) > 1:
            told = f"outputs of several widths, {sorted(widths)}: another version was loaded"
            raise self._sender.error("all requests alike", Failure("ABORTED", told), 1)
        return [np.concatenate(arrays) for arrays in zip(*answers, strict=True)]


def _parts(url: str) -> SplitResult:
    """Split a url, or raise if no attempt could reach it."""
    with contextlib.suppress(TypeError, ValueError, AttributeError):  # such as a port out of range
        parts = urlsplit(url)
        known = parts.scheme in _SCHEMES and parts.hostname and parts.username is None
        if known and parts.port != 0 and not any(mark.isspace() for mark in url):
            return parts
    raise ValueError(
        "url should be http://host:port, https://…, grpc://… or grpcs://…, without a user or "
        f"blanks; a password belongs in headers. Received: {url!r}."
    )
