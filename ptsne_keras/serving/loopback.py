"""A stand-in for TensorFlow Serving on this machine: for tests, notebooks, unfinished clients."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeAlias, get_args

import numpy.typing as npt
import tensorflow as tf

from ptsne_keras.serving._transport import Failure

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

Fault: TypeAlias = Literal["unavailable", "slow", "truncated", "short"]
"""A refusal; an answer after `slow` seconds; one cut off inside; one that lacks half the rows."""

_CODES = {
    tf.errors.INVALID_ARGUMENT: "INVALID_ARGUMENT",
    tf.errors.RESOURCE_EXHAUSTED: "RESOURCE_EXHAUSTED",
    tf.errors.UNIMPLEMENTED: "UNIMPLEMENTED",
}
# As C++ names them in its errors.
_NAMES = {"float32": "float", "float64": "double", "float16": "half"}


class Request(NamedTuple):
    """A predict request that came in: "rest" or "grpc", the signature, the rows it brought."""

    way: str
    signature: str
    rows: int


class Loopback:
    """SavedModels of a base path, answered over REST and gRPC on 127.0.0.1. Never for production.

    It speaks TF Serving's protocols, answers from the exported model, and refuses in TF Serving's
    words; it has no batching, no reloading, no limits and no security. `inject` makes it fail.

    Parameters
    ----------
    base_path : path
        Folder of versions, as `export_saved_model` writes them; all are loaded, on the CPU.
    name : str
        Name under which the model is asked for.
    labels : mapping of str to int, optional
        Labels of versions, such as {"stable": 1}.
    slow : float
        Seconds that the fault "slow" waits.
    rest_port, grpc_port : int
        By default free ones.

    Attributes
    ----------
    rest_url : str
    grpc_url : str or None
        None without grpcio and tensorflow-serving-api.
    requests : list of Request
        All predict requests so far, those that a fault hit too.

    Raises
    ------
    FileNotFoundError
        If the folder has no version.

    Examples
    --------
    >>> with Loopback("saved_models/digits", "digits") as server:
    ...     serving.Client(server.rest_url, "digits").embed(X).shape
    (200, 2)
    """

    def __init__(
        self,
        base_path: str | os.PathLike[str],
        name: str,
        *,
        labels: Mapping[str, int] | None = None,
        slow: float = 1.0,
        rest_port: int = 0,
        grpc_port: int = 0,
    ) -> None:
        from ptsne_keras.serving import loopback_grpc, loopback_rest

        base = Path(base_path).expanduser()
        folders = [path for path in base.glob("*") if path.name.isdecimal()]
        if not folders:
            raise FileNotFoundError(f"base_path should have a version. Received: {base}.")
        self._versions = {int(path.name): ServedVersion(path) for path in folders}
        self.name, self._labels, self._slow = name, dict(labels or {}), slow
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._rest = loopback_rest.start(self, rest_port)
        self.rest_url = f"http://127.0.0.1:{self._rest.server_address[1]}"
        self._grpc, port = loopback_grpc.start(self, grpc_port)
        self.grpc_url = None if self._grpc is None else f"grpc://127.0.0.1:{port}"

    def inject(self, fault: Fault, times: int = 1) -> None:
        """Let the next `times` predict requests, after those injected before, meet a fault.

        Examples
        --------
        >>> server.inject("unavailable", times=2)
        >>> server.clear()
        """
        if fault not in get_args(Fault):
            raise ValueError(f"fault should be one of {get_args(Fault)}. Received: {fault!r}.")
        with self._lock:
            self._faults += [fault] * times

    def clear(self) -> None:
        """Forget the faults that have not met a request yet.

        Examples
        --------
        >>> server.clear()
        """
        with self._lock:
            self._faults.clear()

    def find(self, name: str, version: int | None, label: str) -> tuple[int, "ServedVersion"]:
        """Find the version that a request asks for, or raise a Failure.

        Examples
        --------
        >>> server.find("digits", None, "")[0]
        1
        """
        if label and name == self.name:
            if label not in self._labels:
                raise Failure("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
            version = self._labels[label]
        if name != self.name or (version is not None and version not in self._versions):
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise Failure("NOT_FOUND", f"Servable not found for request: {wanted}")
        number = max(self._versions) if version is None else version
        return number, self._versions[number]

    def versions(self, name: str, version: int | None) -> list[int]:
        """List the versions whose states are asked for, or raise a Failure.

        Examples
        --------
        >>> server.versions("digits", None)
        [1]
        """
        if name != self.name:
            raise Failure("NOT_FOUND", f"Could not find any versions of model {name}")
        if version is not None and version not in self._versions:
            raise Failure("NOT_FOUND", f"Could not find version {version} of model {name}")
        return sorted(self._versions) if version is None else [version]

    def meet(self, request: Request) -> Fault | None:
        """Note a request and suffer its fault; one that the answer is to show is returned.

        Examples
        --------
        >>> server.meet(Request("rest", "serving_default", 7)) is None
        True
        """
        with self._lock:
            self.requests.append(request)
            fault = self._faults.pop(0) if self._faults else None
        if fault == "unavailable":
            raise Failure("UNAVAILABLE", "The model server is unavailable: an injected fault")
        if fault == "slow":
            self._closed.wait(self._slow)
        return fault

    def close(self) -> None:
        """Stop both servers; connections that are open are dropped at their next request.

        Examples
        --------
        >>> other = Loopback("saved_models/digits", "digits")
        >>> other.close()
        """
        self._closed.set()
        self._rest.closed = True
        self._rest.shutdown()
        self._rest.server_close()
        if self._grpc is not None:
            self._grpc.stop(None).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class ServedVersion:
    """A SavedModel that is loaded."""

    def __init__(self, path: Path) -> None:
        from tensorflow.core.protobuf import saved_model_pb2

        proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        self.definitions = dict(proto.meta_graphs[0].signature_def)
        # The process that stands in may need its GPU for something else.
        with tf.device("CPU"):
            self._model = tf.saved_model.load(str(path))

    def run(self, signature: str, inputs: Arrays, outputs: list[str]) -> Arrays:
        """Compute outputs, all unless some are named; a Failure in TF Serving's words."""
        definition = self.definitions[signature]
        if set(inputs) != set(definition.inputs):
            raise Failure(
                "INVALID_ARGUMENT",
                f"input size does not match signature: {len(inputs)}!={len(definition.inputs)} "
                f"len({{{','.join(sorted(inputs))}}}) != "
                f"len({{{','.join(sorted(definition.inputs))}}}).",
            )
        tensors = {name: tf.constant(array) for name, array in inputs.items()}
        for i, (name, info) in enumerate(definition.inputs.items()):
            _check_dtype(i, tf.as_dtype(info.dtype), tensors[name].dtype)
        unknown = [name for name in outputs if name not in definition.outputs]
        if unknown:
            raise Failure(
                "INVALID_ARGUMENT",
                f"output tensor alias not found in signature: {unknown[0]} Outputs expected to be "
                f"in the set {{{','.join(sorted(definition.outputs))}}}.",
            )
        try:
            with tf.device("CPU"):
                answer = self._model.signatures[signature](**tensors)
        except tf.errors.OpError as error:
            # Eager TensorFlow wraps the operation's own message.
            message = error.message.rpartition("<stack traces unavailable>")[2]
            message = message.rpartition(" [Op:")[0] or message
            raise Failure(_CODES.get(error.error_code, "INTERNAL"), message) from error
        return {name: answer[name].numpy() for name in outputs or answer}


def _check_dtype(number: int, wanted: tf.DType, got: tf.DType) -> None:
    if wanted != got:
        names = [_NAMES.get(dtype.name, dtype.name) for dtype in (wanted, got)]
        raise Failure(
            "INVALID_ARGUMENT",
            f"Expects arg[{number}] to be {names[0]} but {names[1]} is provided",
        )
