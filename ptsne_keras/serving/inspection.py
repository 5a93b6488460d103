"""A SavedModel as a stock TensorFlow Serving would find it."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from ptsne_keras.serving import graphs, warmup

# Operations that are TensorFlow's own and yet need what a stock server has not: Python, or a
# compiler for the same kind of device.
_REFUSED = ("PyFunc", "Xla", "TPU", "Tpu", "Collective", "TensorRT", "TRT")
# Rows that are asked for by themselves, and how far their answers may be apart, of the largest.
_ROWS = 7
_SAME = 1e-2
# Weights below this are too small to tell a copy by; above this part they are stored twice.
_TELLING_BYTES = 1024
_TWICE = 1.5


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str


class Report(NamedTuple):
    """What `check` found; printed, a table.

    Examples
    --------
    >>> check(path).ok
    True
    """

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
        findings += _loaded(folder)
    return Report(folder, findings)


def _loaded(folder: Path) -> list[Finding]:
    """Look at what only a model that is loaded tells."""
    try:
        model = tf.saved_model.load(str(folder))
    except Exception as error:  # of many kinds, by what is truncated
        return [Finding("loads", False, str(error).splitlines()[0])]
    # The model holds the functions' variables: it must not be let go while they are called.
    return [_weights(folder), *_signatures(model), *_warm(folder, model)]


def _layout(folder: Path) -> Finding:
    name = folder.resolve().name
    ok = name.isdecimal() and (folder / "variables" / "variables.index").is_file()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Finding("version folder", ok, f"{name}, {size / 1e6:.1f} MB")


def _meta_graph(file: Path) -> Any:
    """Read the graph that servers take, with the tag "serve"."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    (graph,) = (meta for meta in saved.meta_graphs if "serve" in meta.meta_info_def.tags)
    return graph


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
    devices = {node.device for node in _nodes(graph) if "CPU" not in node.device} - {""}
    return Finding("devices", not devices, ", ".join(sorted(devices)) or "bound to none")


def _weights(folder: Path) -> Finding:
    """Compare what is stored with what of it is different."""
    checkpoint = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    stored, distinct = 0, {}
    for name in checkpoint.get_variable_to_shape_map():
        value = np.asarray(checkpoint.get_tensor(name))
        if value.dtype == object or value.nbytes < _TELLING_BYTES or not value.any():
            continue
        stored += value.nbytes
        distinct[hashlib.sha256(value.tobytes()).digest()] = value.nbytes
    times = stored / max(sum(distinct.values()), 1)
    return Finding("weights", times < _TWICE, f"{stored / 1e6:.2f} MB, stored {times:.2f} times")


def _signatures(model: Any) -> list[Finding]:
    findings = []
    if graphs.SERVING not in model.signatures:
        findings.append(Finding(graphs.SERVING, False, "is not there"))
    for name, signature in model.signatures.items():
        inputs = signature.structured_input_signature[1].values()
        outputs = signature.structured_outputs
        tensors = [f"{tensor.name} {_tensor(tensor)}" for tensor in inputs]
        answers = [f"{key} {_tensor(tensor)}" for key, tensor in outputs.items()]
        every = [*inputs, *outputs.values()]
        ok = all(tensor.shape.rank and tensor.shape[0] is None for tensor in every)
        findings.append(Finding(name, ok, f"{', '.join(tensors)} → {', '.join(answers)}"))
    return findings


def _tensor(tensor: Any) -> str:
    shape = ", ".join("N" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.dtype.name} [{shape}]"


def _warm(folder: Path, model: Any) -> list[Finding]:
    """Replay the warm-up records; compare the answers to the same rows in other batches."""
    if not (folder / warmup.FILE).is_file():
        return [Finding("warm-up", False, f"{warmup.FILE} is not there")]
    try:
        requests = warmup.read(folder)
    except ValueError as error:
        return [Finding("warm-up", False, str(error))]
    names = {name for name, _ in requests}
    missing = sorted(set(model.signatures) - names) + sorted(names - set(model.signatures))
    if missing:
        return [Finding("warm-up", False, f"records and signatures differ: {', '.join(missing)}")]
    try:
        answers = [model.signatures[name](**inputs) for name, inputs in requests]
    except (TypeError, ValueError, tf.errors.OpError) as error:
        return [Finding("warm-up", False, f"is not answered: {str(error).splitlines()[0]}")]
    findings = [Finding("warm-up", True, f"{len(requests)} records, answered")]
    values = [np.asarray(value) for answer in answers for value in answer.values()]
    finite = all(np.isfinite(value).all() for value in values)
    findings.append(Finding("answers", finite, "finite" if finite else "NaN or infinity"))
    apart = max(_apart(model.signatures[name], inputs) for name, inputs in requests)
    ok = apart < _SAME
    found = f"a row's answer differs by {apart:.1e} with the other rows of its batch"
    return [*findings, Finding("batches", ok, found)]


def _apart(signature: Any, inputs: Any) -> float:
    """How much the first rows' answers hang on the rest: servers put clients' rows together."""
    whole = signature(**inputs)
    some = signature(**{key: value[:_ROWS] for key, value in inputs.items()})
    apart = 0.0
    for key, value in some.items():
        expected = np.asarray(whole[key], np.float64)
        extent = np.abs(expected).max(initial=0.0) or 1.0
        difference = np.abs(np.asarray(value, np.float64) - expected[:_ROWS])
        apart = max(apart, float(difference.max(initial=0.0) / extent))
    return apart


def facts(path: Any) -> dict[str, Any]:
    """Read what `assets.extra/ptsne_keras.json` of a version's folder tells, if it is there.

    Examples
    --------
    >>> facts(path)
    {}
    """
    file = Path(path).expanduser() / graphs.FACTS
    return json.loads(file.read_text()) if file.is_file() else {}
