"""What TensorFlow Serving is told beside the model: versions, batching, monitoring."""

import os
import re
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from ptsne_keras.serving import _chunks, signatures
from ptsne_keras.utils import files

# Rows of a request that are tried.
_SIZES = (1, 8, 64, 512, 4096)
# Of the highest rate of rows that which is reached without need of larger batches.
_ENOUGH = 0.9
_SECONDS = 0.2
_MOST_RUNS = 50
# Work that may wait, in seconds: beyond it clients are better told to come again.
_QUEUE = 1.0
# Of a batch that is tried, at most.
_BYTES = 1 << 26
# Names that mean the same in paths, protos in text form and YAML.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Of models.config as it is written here.
_LABEL = re.compile(r'key: "(\w+)" value: (\d+)')
_VERSION = re.compile(r"^\s*versions: (\d+)$", re.MULTILINE)


class Speed(NamedTuple):
    """What was measured of a model on this machine."""

    features: int
    """D."""
    seconds: dict[int, float]
    """Median seconds of a request by its rows."""
    rates: dict[int, float]
    """Rows a second by the number of threads, in batches of `enough` rows."""
    slowest: float
    """Seconds a row in the largest batch, by the signature that takes longest."""

    @property
    def enough(self) -> int:
        """Rows of a batch from which on larger ones bring little."""
        rates = {rows: rows / seconds for rows, seconds in self.seconds.items()}
        return min(rows for rows, rate in rates.items() if rate >= _ENOUGH * max(rates.values()))


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

    What batching waits for and holds is measured on this machine with the stable version, in some
    seconds; the figures stand in the file. Run it again when a version gets or leaves a label: a
    server that polls models.config, as compose.yaml lets it, follows within a minute. Settings of
    batching and the name it takes at its next start.

    Parameters
    ----------
    directory : path
        The model's base path, with a version that `export_saved_model` wrote.
    name : str, optional
        What clients call the model; by default the folder's name.
    stable : int, optional
        Version with the label "stable"; by default that which has it, at first the highest but the
        canary.
    canary : int, optional
        Version with the label "canary"; none by default. Clients that ask for no label get the
        highest version, and so the canary.
    request_rows : int, optional
        Rows of a client's largest request; by default as many as `Client` sends: 4,096, or 2 MB.
        With batching on, a server refuses requests of more rows than its largest batch.
    allowed_batch_sizes : sequence of int
        For XLA devices, such as TPUs, that compile each size: batches are filled up to these sizes,
        and are no larger than the last.

    Returns
    -------
    list of pathlib.Path
        The four files.

    Raises
    ------
    FileNotFoundError
        If a version is not there.
    ValueError
        If a label should move to a version that a running server has not loaded: it would refuse
        this file and all that follow. If the name has other than letters, digits, ".", "_" and "-",
        or `request_rows` or a size is not an integer of at least 1.

    Examples
    --------
    >>> [file.name for file in configure("saved_models/digits")]
    ['models.config', 'batching.config', 'monitoring.config', 'compose.yaml']
    """
    base = Path(directory).expanduser()
    present = base.iterdir() if base.is_dir() else ()
    versions = sorted(int(path.name) for path in present if path.name.isdecimal())
    before, listed = _standing(base)
    if stable is None:
        kept = before.get("stable")
        stable = kept if kept in versions else max({*versions} - {canary}, default=1)
    for version in (stable, *([] if canary is None else [canary])):
        if isinstance(version, bool) or version not in versions:
            raise FileNotFoundError(
                f"stable and canary should be versions in {base}: {versions}; "
                f"export_saved_model writes them. Received: {version!r}."
            )
    _check_moves(before, listed, stable, canary)
    name = base.resolve().name if name is None else name
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"name should be of letters, digits, . _ and -; give one. Received: {name!r}."
        )
    labels = {"stable": stable} | ({} if canary is None else {"canary": canary})
    # Those that have a label now are served until the next call: requests may be under way, and
    # a server moves a label only to a version that it has loaded.
    served = sorted({*labels.values(), *before.values()} & {*versions})
    speed = measure(base / str(stable))
    texts = {
        "models.config": _models(name, labels, served),
        "batching.config": _batching(
            speed, _request_rows(request_rows, speed), allowed_batch_sizes
        ),
        "monitoring.config": _MONITORING,
        "compose.yaml": _COMPOSE.replace("NAME", name),
    }
    for file, text in texts.items():
        files.write(base / file, text.encode())  # a server may be reading
    return [base / file for file in texts]


def _standing(base: Path) -> tuple[dict[str, int], set[int]]:
    """Labels, and versions, in models.config as it stands."""
    file = base / "models.config"
    text = file.read_text() if file.is_file() else ""
    labels = {label: int(version) for label, version in _LABEL.findall(text)}
    return labels, {int(version) for version in _VERSION.findall(text)}


def _check_moves(before: dict[str, int], listed: set[int], stable: int, canary: int | None) -> None:
    """Refuse a move that a running server would refuse, and all later files with it."""
    for label, version in (("stable", stable), ("canary", canary)):
        if version is not None and label in before and version not in {before[label], *listed}:
            other = (
                "configure with it as the canary first" if label == "stable" else "drop it first"
            )
            raise ValueError(
                f"{label} should move to a version that is served: {sorted(listed)}. A server "
                f"does not take a label to one that it has not loaded; {other}, and wait a "
                f"minute. Received: {version}."
            )


def _request_rows(rows: int | None, speed: Speed) -> int:
    """Rows of the largest request: by default those of `Client`."""
    if rows is None:
        return max(1, min(_chunks.ROWS, _chunks.BYTES // (4 * speed.features)))
    if isinstance(rows, bool) or not isinstance(rows, Integral) or rows < 1:
        raise ValueError(f"request_rows should be an integer of at least 1. Received: {rows!r}.")
    return int(rows)


def measure(path: Path) -> Speed:
    """Measure how long `serving_default` takes by rows, and what several threads bring."""
    model = tf.saved_model.load(str(path))
    signature = model.signatures[signatures.SERVING]
    (spec,) = signature.structured_input_signature[1].values()
    features = int(spec.shape[1])
    sizes = [rows for rows in _SIZES if rows == 1 or 4 * features * rows <= _BYTES]
    rows = {n: tf.zeros((n, features)) for n in sizes}
    seconds = {n: statistics.median(_seconds(signature, rows[n])) for n in sizes}
    slow = model.signatures.get(signatures.NOVELTY, signature)
    slowest = statistics.median(_seconds(slow, rows[sizes[-1]])) / sizes[-1]
    speed = Speed(features, seconds, {}, slowest)
    threads = [n for n in (1, 2, 4, 8, 16) if n <= (os.cpu_count() or 1)]
    rates = {n: _rate(signature, rows[speed.enough], n) for n in threads}
    return speed._replace(rates=rates)


def _seconds(signature: Any, batch: tf.Tensor) -> list[float]:
    found: list[float] = []
    np.asarray(signature(features=batch)["embedding"])  # the first run chooses code
    while len(found) < 5 or (len(found) < _MOST_RUNS and sum(found) < _SECONDS):
        start = time.perf_counter()
        np.asarray(signature(features=batch)["embedding"])
        found.append(time.perf_counter() - start)
    return found


def _rate(signature: Any, batch: tf.Tensor, threads: int) -> float:
    """Rows a second of so many threads that ask at the same time."""
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        runs = [len(f) for f in pool.map(lambda _: _seconds(signature, batch), range(threads))]
        return sum(runs) * int(batch.shape[0]) / (time.perf_counter() - start)


def _models(name: str, labels: dict[str, int], served: list[int]) -> str:
    versions = "".join(f"\n        versions: {version}" for version in served)
    marks = "".join(
        f'\n    version_labels {{ key: "{label}" value: {version} }}'
        for label, version in labels.items()
    )
    return f"""# The versions that are served, and their labels; a new one belongs in here too.
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
    sizes = sorted(set(allowed))
    whole = all(isinstance(n, Integral) and not isinstance(n, bool) and n > 0 for n in sizes)
    if not whole or (sizes and sizes[-1] < request_rows):
        raise ValueError(
            "allowed_batch_sizes should be integers of at least 1, of which the last holds a "
            f"request of request_rows={request_rows} rows. Received: {list(allowed)!r}."
        )
    largest = sizes[-1] if sizes else max(speed.enough, request_rows)
    threads = min(
        n for n, rate in speed.rates.items() if rate >= _ENOUGH * max(speed.rates.values())
    )
    wait = max(1, round(speed.seconds[1] * 1e6))
    queue = max(8, round(_QUEUE * threads / (speed.slowest * largest)))
    table = "\n".join(
        f"#   {rows:5,} rows: {seconds * 1e3:8.3f} ms, {rows / seconds:12,.0f} rows/s"
        for rows, seconds in speed.seconds.items()
    )
    slowest = speed.slowest * 1e6
    rates = ", ".join(f"{n}: {rate:,.0f}" for n, rate in speed.rates.items())
    fixed = "".join(f"allowed_batch_sizes: {size}\n" for size in sizes)
    return f"""# Measured with this model where this file was written, {os.cpu_count()} cores:
{table}
# Rows a second by threads, in batches of {speed.enough:,}: {rates}.
# From {speed.enough:,} rows on, larger batches bring little.
#
# A server refuses requests of more rows than the largest batch.
max_batch_size {{ value: {largest} }}
# A request waits for others no longer than a single row takes.
batch_timeout_micros {{ value: {wait} }}
# About {_QUEUE:.0f} s of work may wait, if all ask for what takes longest, {slowest:.1f} us a row;
# beyond it clients are told to come again: UNAVAILABLE.
max_enqueued_batches {{ value: {queue} }}
# More threads bring less than a tenth.
num_batch_threads {{ value: {threads} }}
{fixed}"""


_MONITORING = """# Prometheus reads http://…:8501/monitoring/prometheus/metrics.
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""

# The image's own command sets the ports, 8500 for gRPC and 8501 for REST.
_COMPOSE = """# docker compose --profile cpu up --detach
# or --profile gpu, with an NVIDIA GPU and its container toolkit.
# Pin the image: TF_SERVING_TAG=x.y.z.
x-serving: &serving
  restart: unless-stopped
  ports: ["8500:8500", "8501:8501"]
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
