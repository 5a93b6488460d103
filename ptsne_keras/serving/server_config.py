"""Configuration of TensorFlow Serving beside the model: versions, batching, monitoring."""

import os
import re
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from ptsne_keras.serving import _transport, signatures
from ptsne_keras.utils import arrays, files, validation

# Rows of the requests to time, and the most bytes in one.
_SIZES = (1, 8, 64, 512, 4096)
_BYTES = 1 << 26
# How long to time a request for, and how often at most.
_SECONDS = 0.2
_MOST_RUNS = 50
# The part of the highest rate that makes larger batches, or more threads, unnecessary.
_ENOUGH = 0.9
# Seconds of work that may wait; beyond it clients are better told to come again.
_QUEUE = 1.0
# Names that mean the same in paths, text protos and YAML.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Lines of models.config as it is written here.
_LABEL = re.compile(r'key: "(\w+)" value: (\d+)')
_VERSION = re.compile(r"^\s*versions: (\d+)$", re.MULTILINE)


class Speed(NamedTuple):
    """Measurements of a model on this machine."""

    features: int
    seconds: dict[int, float]  # median seconds of a request by its rows
    enough: int  # rows in the smallest batch that larger ones hardly improve on
    rates: dict[int, float]  # rows a second by the number of threads, in batches of `enough` rows
    slowest: float  # seconds a row in the largest batch, with the slowest signature


def configure(
    directory: str | os.PathLike[str],
    *,
    name: str | None = None,
    stable: int | None = None,
    canary: int | None = None,
    request_rows: int | None = None,
    allowed_batch_sizes: Sequence[int] = (),
) -> list[Path]:
    """Write models.config, batching.config, monitoring.config and compose.yaml beside the versions.

    The batching settings follow from timing the stable version on this machine, which takes some
    seconds; the measurements are noted in the file. Call it again whenever a label moves: a server
    that polls models.config, as compose.yaml makes it, follows within a minute. The name and the
    batching settings take effect when the server next starts.

    Parameters
    ----------
    directory : path-like
        The model's base path, with a version that `export_saved_model` wrote.
    name : str, default=None
        Name of the model for clients; by default the name of the folder.
    stable : int, default=None
        Version with the label "stable". By default the label stays where it is; at first it is
        given to the highest version other than the canary.
    canary : int, default=None
        Version with the label "canary", if any.
    request_rows : int, default=None
        Rows in the largest request of any client; by default those of `Client`, 4,096 or 2 MB. With
        batching, a server refuses requests with more rows than its largest batch.
    allowed_batch_sizes : sequence of int, default=()
        For XLA devices such as TPUs, which compile each size: batches are padded to these sizes.

    Raises
    ------
    FileNotFoundError
        If a version does not exist.
    ValueError
        If a label would move to a version that a running server has not loaded: the server would
        refuse this file and all later ones. If another argument is not as described.

    Examples
    --------
    >>> [file.name for file in configure("saved_models/digits")]
    ['models.config', 'batching.config', 'monitoring.config', 'compose.yaml']
    """
    base = Path(directory).expanduser()
    name = base.resolve().name if name is None else name
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"name should consist of letters, digits, . _ and -; give one. Received: {name!r}."
        )
    labels, served = _labels(base, stable, canary)
    speed = measure(base / str(labels["stable"]))
    if request_rows is None:
        limits = {"rows": _transport.ROWS, "numbers": _transport.BYTES // 4}
        request_rows = arrays.block_size(speed.features, **limits)
    rows = validation.check_integer(request_rows, "request_rows")
    texts = {
        "models.config": _models(name, labels, served),
        "batching.config": _batching(speed, rows, allowed_batch_sizes),
        "monitoring.config": _MONITORING,
        "compose.yaml": _COMPOSE.replace("NAME", name),
    }
    with files.locked(base):  # the files belong together
        for file, text in texts.items():
            files.write(base / file, text.encode())  # a server may be reading
    return [base / file for file in texts]


def _labels(base: Path, stable: int | None, canary: int | None) -> tuple[dict[str, int], list[int]]:
    """Return the version of each label, and the versions to serve."""
    present = base.iterdir() if base.is_dir() else ()
    versions = sorted(int(path.name) for path in present if path.name.isdecimal())
    file = base / "models.config"
    text = file.read_text() if file.is_file() else ""
    before = {label: int(version) for label, version in _LABEL.findall(text)}
    listed = sorted({int(version) for version in _VERSION.findall(text)})
    if stable is None:
        kept = before.get("stable")
        stable = kept if kept in versions else max({*versions} - {canary}, default=1)
    labels = {"stable": stable} | ({} if canary is None else {"canary": canary})
    for label, version in labels.items():
        if isinstance(version, bool) or version not in versions:
            raise FileNotFoundError(
                f"{label} should be a version in {base}: {versions}; "
                f"export_saved_model writes them. Received: {version!r}."
            )
        if label in before and version not in {before[label], *listed}:
            first = "make it the canary first" if label == "stable" else "drop the canary first"
            raise ValueError(
                f"{label} should move to a version that is served: {listed}. A server refuses to "
                f"move a label to a version it has not loaded; {first}, and wait a minute. "
                f"Received: {version}."
            )
    # Versions that have a label now are served until the next call: requests may be under way.
    return labels, sorted({*labels.values(), *before.values()} & {*versions})


def measure(path: Path) -> Speed:
    """Time requests by their rows, and by the number of threads."""
    model = tf.saved_model.load(str(path))
    signature = model.signatures[signatures.SERVING]
    (spec,) = signature.structured_input_signature[1].values()
    features = int(spec.shape[1])
    sizes = [rows for rows in _SIZES if rows == 1 or 4 * features * rows <= _BYTES]
    batches = {n: tf.zeros((n, features)) for n in sizes}
    seconds = {n: statistics.median(_seconds(signature, batches[n])) for n in sizes}
    slow = model.signatures.get(signatures.NOVELTY, signature)
    slowest = statistics.median(_seconds(slow, batches[sizes[-1]])) / sizes[-1]
    enough = _smallest({n: n / seconds[n] for n in sizes})
    threads = [n for n in (1, 2, 4, 8, 16) if n <= (os.cpu_count() or 1)]
    rates = {n: _rate(signature, batches[enough], n) for n in threads}
    return Speed(features, seconds, enough, rates, slowest)


def _seconds(signature: Any, batch: tf.Tensor) -> list[float]:
    found: list[float] = []
    while len(found) < 6 or (len(found) < _MOST_RUNS and sum(found[1:]) < _SECONDS):
        start = time.perf_counter()
        np.asarray(signature(features=batch)["embedding"])
        found.append(time.perf_counter() - start)
    return found[1:]  # TensorFlow prepares in the first run


def _rate(signature: Any, batch: tf.Tensor, threads: int) -> float:
    """Return the rows a second of several threads together."""
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        runs = [len(f) for f in pool.map(lambda _: _seconds(signature, batch), range(threads))]
        return sum(runs) * int(batch.shape[0]) / (time.perf_counter() - start)


def _smallest(rates: dict[int, float]) -> int:
    """Return the smallest key whose rate is close to the highest."""
    return min(key for key, rate in rates.items() if rate >= _ENOUGH * max(rates.values()))


def _models(name: str, labels: dict[str, int], served: list[int]) -> str:
    versions = "".join(f"\n        versions: {version}" for version in served)
    marks = "".join(f'\n    version_labels {{ key: "{k}" value: {v} }}' for k, v in labels.items())
    return f"""# The versions to serve, and their labels. A new version has to be listed here too.
model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    model_version_policy {{
      specific {{{versions}
      }}
    }}{marks}
  }}
}}
"""


def _batching(speed: Speed, request_rows: int, allowed: Sequence[int]) -> str:
    sizes = sorted({validation.check_integer(n, "Each of allowed_batch_sizes") for n in allowed})
    if sizes and sizes[-1] < request_rows:
        raise ValueError(
            f"The largest of allowed_batch_sizes should hold a request of {request_rows} rows "
            f"(request_rows). Received: {list(allowed)!r}."
        )
    largest = sizes[-1] if sizes else max(speed.enough, request_rows)
    threads = _smallest(speed.rates)
    wait = max(1, round(speed.seconds[1] * 1e6))
    queue = max(8, round(_QUEUE * threads / (speed.slowest * largest)))
    table = "\n".join(
        f"#   {rows:5,} rows: {seconds * 1e3:8.3f} ms, {rows / seconds:12,.0f} rows/s"
        for rows, seconds in speed.seconds.items()
    )
    rates = ", ".join(f"{n}: {rate:,.0f}" for n, rate in speed.rates.items())
    fixed = "".join(f"allowed_batch_sizes: {size}\n" for size in sizes)
    return f"""# Measured with this model where this file was written, {os.cpu_count()} cores:
{table}
# Rows a second by the number of threads, in batches of {speed.enough:,}: {rates}.
# Batches of more than {speed.enough:,} rows are hardly faster.
#
# Requests with more rows than the largest batch are refused.
max_batch_size {{ value: {largest} }}
# A request waits for others no longer than a single row takes.
batch_timeout_micros {{ value: {wait} }}
# About {_QUEUE:.0f} s of work may wait, at {speed.slowest * 1e6:.1f} us a row (slowest signature).
# Beyond that clients are told to come again: UNAVAILABLE.
max_enqueued_batches {{ value: {queue} }}
# More threads are hardly faster.
num_batch_threads {{ value: {threads} }}
{fixed}"""


_MONITORING = """# Prometheus reads http://…:8501/monitoring/prometheus/metrics.
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""

# The image's entry point sets the ports: 8500 for gRPC, 8501 for REST.
_COMPOSE = """# docker compose --profile cpu up --detach
# or --profile gpu, with an NVIDIA GPU and its container toolkit.
# Pin the image: TF_SERVING_TAG=x.y.z.
#
# Only this machine reaches the ports: the server encrypts nothing and asks for no password. To open
# it to others, run a proxy beside it that ends TLS and asks for one, such as Caddy with basic_auth
# and reverse_proxy 127.0.0.1:8501, or h2c://127.0.0.1:8500 for gRPC.
x-serving: &serving
  restart: unless-stopped
  ports: ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
  volumes: [".:/models/NAME:ro"]
  command:
    - --model_config_file=/models/NAME/models.config
    - --model_config_file_poll_wait_seconds=60
    - --allow_version_labels_for_unavailable_models=true
    - --enable_batching=true
    - --batching_parameters_file=/models/NAME/batching.config
    - --monitoring_config_file=/models/NAME/monitoring.config

services:
  serving:
    <<: *serving
    profiles: [cpu]
    image: tensorflow/serving:${TF_SERVING_TAG:-latest}
  serving-gpu:
    <<: *serving
    profiles: [gpu]
    image: tensorflow/serving:${TF_SERVING_TAG:-latest}-gpu
    deploy:
      resources:
        reservations:
          devices: [{driver: nvidia, count: 1, capabilities: [gpu]}]
"""
