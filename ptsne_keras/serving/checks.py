"""A SavedModel as a stock TensorFlow Serving would find it."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from ptsne_keras.serving import _graphs, warmup

# Operations that are TensorFlow's own and yet need what a stock server has not: Python, or a
# compiler for the same kind of device.
_REFUSED = ("PyFunc", "Xla", "TPU", "Tpu", "Collective", "TensorRT", "TRT")
# Rows that are asked for by themselves, and how far their answers may be apart, of the largest: by
# sums in another order, and by a rounding of bfloat16 that falls the other way.
_ROWS = 7
_SAME = 1e-4
_SAME_HALF = 1e-2
# The tag of a server's graph; records that it replays, at most.
_TAG = "serve"
_RECORDS = 1000
# Weights below this are too small to tell a copy by; above this part they are stored twice.
_TELLING_BYTES = 1024
_TWICE = 1.5


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str


class Report(NamedTuple):
    """What `check` found; printed, a table."""

    path: Path
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether a stock server would take the model."""
        return all(finding.ok for finding in self.findings)

    def __str__(self) -> str:
        width = max(len(finding.what) for finding in self.findings)
        lines = [
            f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what:{width}}  {finding.found}"
            for finding in self.findings
        ]
        return "\n".join([str(self.path), *lines])


def check(path: Any) -> Report:
    """Look a SavedModel over as a server would find it, and say all that is found.

    The folder's name and files; that every operation, in the graph and in its functions, is one
    that a stock server has; that nothing is bound to a device; that weights are stored once; each
    signature's tensors; that the warm-up records can be read, name the signatures that are there
    and are answered; that answers are finite and a row's answer does not hang on its batch.

    Parameters
    ----------
    path : path
        A version's folder, such as `saved_models/digits/1`.

    Returns
    -------
    Report
        `ok`, `findings`; as a string, a table.

    Raises
    ------
    FileNotFoundError
        If there is no `saved_model.pb` in `path`.

    Examples
    --------
    >>> print(check(path))  # doctest: +ELLIPSIS
    /...
    """
    folder = Path(path).expanduser()
    file = folder / "saved_model.pb"
    if not file.is_file():
        raise FileNotFoundError(
            "path should be the folder of one version, with a saved_model.pb. Received: "
            f"{folder}, without."
        )
    findings = [_layout(folder)]
    try:
        graph = _meta_graph(file)
    except Exception as error:  # whatever protobuf raises for what is no SavedModel
        return Report(folder, [*findings, Finding("graph", False, f"cannot be read: {error}")])
    findings += [_operations(graph), _devices(graph)]
    if findings[1].ok:  # else loading it may run what was refused
        findings += _loaded(folder, graph)
    return Report(folder, findings)


def _loaded(folder: Path, graph: Any) -> list[Finding]:
    """Look at what only a model that is loaded tells: by its signatures' tensors, as a server."""
    findings = _signatures(graph)
    session = tf.compat.v1.Session(graph=tf.Graph())
    logger = tf.get_logger()
    level = logger.level
    try:
        logger.setLevel("ERROR")  # that this loader is deprecated; it is the one that servers have
        with session.graph.as_default():
            tf.compat.v1.saved_model.load(session, [_TAG], str(folder))
    except Exception as error:  # of many kinds, by what is truncated or missing
        session.close()
        return [*findings, Finding("loads", False, _first_line(error))]
    finally:
        logger.setLevel(level)
    with contextlib.closing(session):
        return [_weights(folder, graph), *findings, *_warm(folder, graph, session)]


def _layout(folder: Path) -> Finding:
    name = folder.absolute().name
    ok = name.isdecimal() and (folder / "variables" / "variables.index").is_file()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Finding("version folder", ok, f"{name}, {size / 1e6:.1f} MB")


def _meta_graph(file: Path) -> Any:
    """Read the graph that servers take, with the one tag "serve"."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for graph in saved.meta_graphs:
        if set(graph.meta_info_def.tags) == {_TAG}:
            return graph
    tags = [sorted(meta.meta_info_def.tags) for meta in saved.meta_graphs]
    raise ValueError(f"no graph with the one tag {_TAG!r}, but {tags}")


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.graph_def.node
    for function in graph.graph_def.library.function:
        yield from function.node_def


def _operations(graph: Any) -> Finding:
    own = {function.signature.name for function in graph.graph_def.library.function}
    found = {node.op for node in _nodes(graph)} - own
    # tf.raw_ops lists what TensorFlow itself was built with, not what was loaded into it later.
    foreign = {op for op in found if not hasattr(tf.raw_ops, op)}
    foreign |= {op for op in found if any(part in op for part in _REFUSED)}
    must_compile = sorted(
        function.signature.name
        for function in graph.graph_def.library.function
        if function.attr["_XlaMustCompile"].b
    )
    if foreign or must_compile:
        compiled = [f"{name} (jit_compile=True)" for name in must_compile]
        return Finding("operations", False, ", ".join([*sorted(foreign), *compiled]))
    return Finding("operations", True, f"{len(found)} kinds, all of them TensorFlow's own")


def _devices(graph: Any) -> Finding:
    # Files are read and written on the host: such nodes name a CPU, which every server has.
    devices = {node.device for node in _nodes(graph)}
    devices = {device for device in devices if device and not device.endswith(("CPU:0", "CPU:*"))}
    return Finding("devices", not devices, ", ".join(sorted(devices)) or "bound to none")


def _weights(folder: Path, graph: Any) -> Finding:
    """Compare what is stored, in variables and as constants, with what of it is different."""
    checkpoint = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    stored, distinct = 0, {}
    for name in checkpoint.get_variable_to_shape_map():
        value = np.asarray(checkpoint.get_tensor(name))
        if value.dtype == object or value.nbytes < _TELLING_BYTES or not value.any():
            continue
        stored += value.nbytes
        distinct[hashlib.sha256(value.tobytes()).digest()] = value.nbytes
    constants = [
        node.attr["value"].tensor.ByteSize() for node in _nodes(graph) if node.op == "Const"
    ]
    stored += sum(size for size in constants if size >= _TELLING_BYTES)
    times = stored / max(sum(distinct.values()), _TELLING_BYTES)
    return Finding("weights", times < _TWICE, f"{stored / 1e6:.2f} MB, stored {times:.2f} times")


def _signatures(graph: Any) -> list[Finding]:
    findings = []
    if _graphs.SERVING not in graph.signature_def:
        findings.append(Finding(_graphs.SERVING, False, "is not there"))
    for name, signature in _served(graph).items():
        inputs, outputs = dict(signature.inputs), dict(signature.outputs)
        shapes = [info.tensor_shape for info in (*inputs.values(), *outputs.values())]
        ok = all(not s.unknown_rank and s.dim and s.dim[0].size == -1 for s in shapes)
        tensors = [
            ", ".join(f"{key} {_tensor(info)}" for key, info in sorted(side.items()))
            for side in (inputs, outputs)
        ]
        findings.append(Finding(name, ok, " → ".join(tensors)))
    return findings


def _served(graph: Any) -> dict[str, Any]:
    """Signatures but those of TensorFlow's own, such as for initialising."""
    signatures = dict(graph.signature_def)
    return {name: signatures[name] for name in sorted(signatures) if not name.startswith("__")}


def _tensor(info: Any) -> str:
    shape = ", ".join("N" if dim.size == -1 else str(dim.size) for dim in info.tensor_shape.dim)
    return f"{tf.dtypes.as_dtype(info.dtype).name} [{shape}]"


def _warm(folder: Path, graph: Any, session: Any) -> list[Finding]:
    """Replay the warm-up records; compare the answers to the same rows in other batches."""
    if not (folder / warmup.FILE).is_file():
        return [Finding("warm-up", False, f"{warmup.FILE} is not there")]
    try:
        requests = warmup.read(folder)
    except ValueError as error:
        return [Finding("warm-up", False, str(error))]
    signatures = _served(graph)
    names = {name for name, _ in requests}
    missing = sorted(set(signatures) ^ names)
    if missing:
        return [Finding("warm-up", False, f"records and signatures differ: {', '.join(missing)}")]
    if len(requests) > _RECORDS:
        found = f"{len(requests):,} records; servers take {_RECORDS:,}"
        return [Finding("warm-up", False, found)]
    try:
        answers = [_ask(session, signatures[name], inputs) for name, inputs in requests]
    except (KeyError, TypeError, ValueError, tf.errors.OpError) as error:
        return [Finding("warm-up", False, f"is not answered: {_first_line(error)}")]
    finite = all(np.isfinite(value).all() for answer in answers for value in answer.values())
    return [
        Finding("warm-up", True, f"{len(requests)} records, answered"),
        Finding("answers", finite, "finite" if finite else "NaN or infinity"),
        _alone(folder, session, signatures, requests, answers),
    ]


def _ask(session: Any, signature: Any, inputs: Any) -> dict[str, Any]:
    """Answer a request by the tensors that the signature names, as a server does."""
    feeds = {signature.inputs[key].name: np.asarray(value) for key, value in inputs.items()}
    return session.run({key: info.name for key, info in signature.outputs.items()}, feeds)


def _alone(
    folder: Path, session: Any, signatures: Any, requests: Any, answers: list[dict[str, Any]]
) -> Finding:
    """Ask whether a row's answer hangs on the rest: servers put clients' rows together."""
    apart, compared = 0.0, 0
    for (name, inputs), whole in zip(requests, answers, strict=True):
        rows = len(next(iter(inputs.values())))
        compared = max(compared, rows)
        for count in (min(_ROWS, rows), rows):  # all of them again: the same answer
            part = {key: value[:count] for key, value in inputs.items()}
            some = _ask(session, signatures[name], part)
            apart = max(apart, *(_apart(some[key], whole[key][:count]) for key in some))
    ok = apart < (_SAME_HALF if facts(folder).get("precision") == "bfloat16" else _SAME)
    if compared <= _ROWS:
        return Finding("batches", False, f"no record has more than {_ROWS} rows: nothing compared")
    found = f"a row's answer differs by {apart:.1e} with the other rows of its batch"
    return Finding("batches", ok, found)


def _apart(A: Any, B: Any) -> float:
    """Largest difference, as a part of the largest number."""
    extent = np.abs(np.asarray(B, np.float64)).max(initial=0.0) or 1.0
    difference = np.abs(np.asarray(A, np.float64) - np.asarray(B, np.float64))
    return float(difference.max(initial=0.0) / extent)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def facts(path: Any) -> dict[str, Any]:
    """Read what `assets.extra/ptsne_keras.json` of a version's folder tells, if it is there."""
    file = Path(path).expanduser() / _graphs.FACTS
    return json.loads(file.read_text()) if file.is_file() else {}
