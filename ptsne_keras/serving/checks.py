"""Inspection of a SavedModel, as a stock TensorFlow Serving would find it."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from ptsne_keras.serving import signatures, warmup

FACTS = Path("assets.extra") / "ptsne_keras.json"
"""Where in a SavedModel's folder the facts are that no server needs."""

# Operations of TensorFlow that a stock server cannot run: they need Python, or a compiler for the
# same kind of device.
_REFUSED = ("PyFunc", "Xla", "TPU", "Tpu", "Collective", "TensorRT", "TRT")
# Rows to ask for by themselves, and how far their answers may differ, relative to the largest:
# because of sums in another order, and of bfloat16 rounded the other way.
_ROWS = 7
_SAME = {"float32": 1e-4, "bfloat16": 1e-2}
# The tag of the graph that servers load, and how many records they replay.
_TAG = "serve"
_RECORDS = 1000
# Arrays below this size are too small to recognise a copy.
_TELLING_BYTES = 1024


class Finding(NamedTuple):
    """The result of one check."""

    what: str
    ok: bool
    found: str


class Report(NamedTuple):
    """The results of `check`; as a string, a table."""

    path: Path
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Return whether a stock server would accept the model."""
        return all(finding.ok for finding in self.findings)

    def __str__(self) -> str:
        width = max(len(finding.what) for finding in self.findings)
        rows = [f"{'ok  ' if ok else 'FAIL'}  {what:{width}}  {x}" for what, ok, x in self.findings]
        return "\n".join([str(self.path), *rows])


def check(path: str | os.PathLike[str]) -> Report:
    """Inspect a SavedModel as a stock server would find it, and report all findings.

    It checks that the folder has a version's name and files; every operation, in the graph and in
    its functions, is one that a stock server has; nothing is bound to a device; the weights are
    stored once; each signature has a batch axis; the warm-up records can be read, cover all
    signatures, and are answered; the answers are finite, and do not depend on the rest of a batch.

    Parameters
    ----------
    path : path-like
        The folder of one version, such as "saved_models/digits/1".

    Returns
    -------
    Report
        It has the attributes `ok` and `findings`, and prints as a table.

    Raises
    ------
    FileNotFoundError
        If there is no `saved_model.pb` in `path`.

    Examples
    --------
    >>> report = check(path)
    >>> report.ok
    True
    >>> print(report)  # doctest: +ELLIPSIS
    /...
    """
    folder = Path(path).expanduser()
    file = folder / "saved_model.pb"
    if not file.is_file():
        raise FileNotFoundError(
            "path should be the folder of one version, with a saved_model.pb. Received: "
            f"{folder}, without."
        )
    try:
        graph = _meta_graph(file)
    except Exception as error:  # whatever protobuf raises for other files
        failed = Finding("graph", False, f"cannot be read: {error}")
        return Report(folder, [_layout(folder), failed])
    findings = [_layout(folder), _operations(graph), _devices(graph)]
    if findings[1].ok:  # otherwise loading it may run what was refused
        findings += _loaded(folder, graph)
    return Report(folder, findings)


def facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read `assets.extra/ptsne_keras.json` of a version's folder; empty if there is none."""
    file = Path(path).expanduser() / FACTS
    return json.loads(file.read_text()) if file.is_file() else {}


def _loaded(folder: Path, graph: Any) -> list[Finding]:
    """Check what only a loaded model shows, by the signatures' tensors, as a server does."""
    findings = _signatures(graph)
    logger = tf.get_logger()
    level = logger.level
    with contextlib.closing(tf.compat.v1.Session(graph=tf.Graph())) as session:
        try:
            logger.setLevel("ERROR")  # it warns that this loader is deprecated, but servers use it
            with session.graph.as_default():
                tf.compat.v1.saved_model.load(session, [_TAG], str(folder))
        except Exception as error:  # many kinds, depending on what is truncated or missing
            return [*findings, Finding("loads", False, _first_line(error))]
        finally:
            logger.setLevel(level)
        return [_weights(folder, graph), *findings, *_warm(folder, graph, session)]


def _layout(folder: Path) -> Finding:
    name = folder.absolute().name
    ok = name.isdecimal() and (folder / "variables" / "variables.index").is_file()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Finding("version folder", ok, f"{name}, {size / 1e6:.1f} MB")


def _meta_graph(file: Path) -> Any:
    """Read the graph that servers load."""
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
    functions = graph.graph_def.library.function
    found = {node.op for node in _nodes(graph)} - {f.signature.name for f in functions}
    # tf.raw_ops has the operations TensorFlow was built with, not those loaded later.
    foreign = {op for op in found if not hasattr(tf.raw_ops, op)}
    foreign |= {op for op in found if any(part in op for part in _REFUSED)}
    must_compile = sorted(f.signature.name for f in functions if f.attr["_XlaMustCompile"].b)
    if foreign or must_compile:
        compiled = [f"{name} (jit_compile=True)" for name in must_compile]
        return Finding("operations", False, ", ".join([*sorted(foreign), *compiled]))
    return Finding("operations", True, f"{len(found)} kinds, all built into TensorFlow")


def _devices(graph: Any) -> Finding:
    # Nodes that read and write files name a CPU, which every server has.
    devices = {node.device for node in _nodes(graph)} - {""}
    devices = {device for device in devices if not device.endswith(("CPU:0", "CPU:*"))}
    return Finding("devices", not devices, ", ".join(sorted(devices)) or "bound to none")


def _weights(folder: Path, graph: Any) -> Finding:
    """Compare the bytes stored, in variables and constants, with those that are distinct."""
    checkpoint = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    stored, distinct = 0, {}
    for name in checkpoint.get_variable_to_shape_map():
        value = np.asarray(checkpoint.get_tensor(name))
        if value.dtype == object or value.nbytes < _TELLING_BYTES or not value.any():
            continue
        stored += value.nbytes
        distinct[hashlib.sha256(value.tobytes()).digest()] = value.nbytes
    constants = [node.attr["value"].tensor for node in _nodes(graph) if node.op == "Const"]
    stored += sum(n for n in (proto.ByteSize() for proto in constants) if n >= _TELLING_BYTES)
    times = stored / max(sum(distinct.values()), _TELLING_BYTES)
    return Finding("weights", times < 1.5, f"{stored / 1e6:.2f} MB, stored {times:.2f} times")


def _signatures(graph: Any) -> list[Finding]:
    findings = []
    if signatures.SERVING not in graph.signature_def:
        findings.append(Finding(signatures.SERVING, False, "is missing"))
    for name, signature in _served(graph).items():
        sides = [sorted(side.items()) for side in (signature.inputs, signature.outputs)]
        shapes = [info.tensor_shape for side in sides for _, info in side]
        ok = all(not s.unknown_rank and s.dim and s.dim[0].size == -1 for s in shapes)
        tensors = [", ".join(f"{key} {_tensor(info)}" for key, info in side) for side in sides]
        findings.append(Finding(name, ok, " → ".join(tensors)))
    return findings


def _served(graph: Any) -> dict[str, Any]:
    """Return the signatures without TensorFlow's own, such as the one that initialises."""
    found = dict(graph.signature_def)
    return {name: found[name] for name in sorted(found) if not name.startswith("__")}


def _tensor(info: Any) -> str:
    shape = ", ".join("N" if dim.size == -1 else str(dim.size) for dim in info.tensor_shape.dim)
    return f"{tf.dtypes.as_dtype(info.dtype).name} [{shape}]"


def _warm(folder: Path, graph: Any, session: Any) -> list[Finding]:
    """Replay the warm-up records, and compare the answers with those in other batches."""
    served = _served(graph)
    try:
        requests = warmup.read(folder)
        differ = sorted(set(served) ^ {name for name, _ in requests})
        if differ:
            raise ValueError(f"records and signatures differ: {', '.join(differ)}")
        if len(requests) > _RECORDS:
            raise ValueError(f"{len(requests):,} records; servers replay {_RECORDS:,}")
        answers = [_ask(session, served[name], inputs) for name, inputs in requests]
    except (KeyError, TypeError, ValueError, tf.errors.OpError) as error:
        return [Finding("warm-up", False, _first_line(error))]
    finite = all(np.isfinite(value).all() for answer in answers for value in answer.values())
    same = _SAME[facts(folder).get("precision", "float32")]
    return [
        Finding("warm-up", True, f"{len(requests)} records, answered"),
        Finding("answers", finite, "finite" if finite else "NaN or infinity"),
        _alone(same, session, served, requests, answers),
    ]


def _ask(session: Any, signature: Any, inputs: Any) -> dict[str, Any]:
    """Answer a request by the tensors that the signature names, as a server does."""
    feeds = {signature.inputs[key].name: np.asarray(value) for key, value in inputs.items()}
    return session.run({key: info.name for key, info in signature.outputs.items()}, feeds)


def _alone(
    same: float, session: Any, served: Any, requests: Any, answers: list[dict[str, Any]]
) -> Finding:
    """Check that answers do not depend on the rest of the batch: servers merge requests."""
    apart, compared = 0.0, 0
    for (name, inputs), whole in zip(requests, answers, strict=True):
        rows = len(next(iter(inputs.values())))
        compared = max(compared, rows)
        for count in (min(_ROWS, rows), rows):  # all of them once more: the same answer
            part = {key: value[:count] for key, value in inputs.items()}
            some = _ask(session, served[name], part)
            apart = max(apart, *(_apart(some[key], whole[key][:count]) for key in some))
    if compared <= _ROWS:
        return Finding("batches", False, f"no record has more than {_ROWS} rows: nothing compared")
    found = f"answers differ by {apart:.1e} with the other rows of the batch"
    return Finding("batches", apart < same, found)


def _apart(A: Any, B: Any) -> float:
    """Return the largest difference, relative to the largest number."""
    A, B = np.asarray(A, np.float64), np.asarray(B, np.float64)
    return float(np.abs(A - B).max(initial=0.0) / (np.abs(B).max(initial=0.0) or 1.0))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
