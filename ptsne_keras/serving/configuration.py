"""What TensorFlow Serving is told beside the model: versions, batching, monitoring."""

import os
import statistics
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from ptsne_keras.serving import graphs, warmup

# Rows of a request that are tried.
_SIZES = (1, 8, 64, 512, 4096)
# Of the highest rate of rows that which is reached without need of larger batches.
_ENOUGH = 0.9
_SECONDS = 0.2
_MOST_RUNS = 50
# Work that may wait, in seconds: beyond it clients are better told to come again.
_QUEUE = 1.0


class Speed(NamedTuple):
    """What was measured of a model on this machine."""

    seconds: dict[int, float]
    """Median seconds of a request by its rows."""
    rates: dict[int, float]
    """Rows a second by the number of threads, in batches of `enough` rows."""

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
    request_rows: int = 4096,
    allowed_batch_sizes: Sequence[int] = (),
) -> list[Path]:
    """Write models.config, batching.config, monitoring.config and compose.yaml beside the versions.

    What batching waits for and holds is measured on this machine with the stable version, in some
    seconds; the figures stand in the file. Run it again when a version is added or a label moves: a
    server that polls models.config, as compose.yaml lets it, then follows without a restart.

    Parameters
    ----------
    directory : path
        The model's base path, with a version that `export_saved_model` wrote.
    name : str, optional
        What clients call the model; by default the folder's name.
    stable : int, optional
        Version with the label "stable"; by default the highest but the canary.
    canary : int, optional
        Version with the label "canary".
    request_rows : int
        Rows of a client's largest request; `Client` sends 4,096. With batching on, a server refuses
        requests of more rows than its largest batch.
    allowed_batch_sizes : sequence of int
        For XLA devices, such as TPUs, that compile each size: batches are filled up to these sizes.

    Returns
    -------
    list of pathlib.Path
        The four files.

    Raises
    ------
    FileNotFoundError
        If a version is not there.
    ValueError
        If `request_rows` or a size is not an integer of at least 1.

    Examples
    --------
    >>> [file.name for file in configure("saved_models/digits")]
    ['models.config', 'batching.config', 'monitoring.config', 'compose.yaml']
    """
    base = Path(directory).expanduser()
    versions = [int(path.name) for path in base.glob("*") if path.name.isdecimal()]
    stable = max({*versions} - {canary}, default=1) if stable is None else stable
    for version in (stable, *([] if canary is None else [canary])):
        if version not in versions:
            raise FileNotFoundError(
                f"stable and canary should be versions in {base}: {sorted(versions)}; "
                f"export_saved_model writes them. Received: {version}."
            )
    sizes = sorted({int(size) for size in allowed_batch_sizes})
    if min([request_rows, *sizes]) < 1:
        raise ValueError(
            "request_rows and allowed_batch_sizes should be integers of at least 1. "
            f"Received: {request_rows!r} and {list(allowed_batch_sizes)!r}."
        )
    name = base.resolve().name if name is None else name
    labels = {"stable": stable} | ({} if canary is None else {"canary": canary})
    texts = {
        "models.config": _models(name, labels),
        "batching.config": _batching(measure(base / str(stable)), request_rows, sizes),
        "monitoring.config": _MONITORING,
        "compose.yaml": _COMPOSE.replace("NAME", name),
    }
    return [_write(base / file, text) for file, text in texts.items()]


def measure(path: Path) -> Speed:
    """Measure how long `serving_default` takes by rows, and what several threads bring.

    Examples
    --------
    >>> measure(path).seconds[1] < 1
    True
    """
    model = tf.saved_model.load(str(path))
    signature = model.signatures[graphs.SERVING]
    requests = [inputs for name, inputs in warmup.read(path) if name == graphs.SERVING]
    row = requests[-1]["features"][:1]
    seconds = {}
    for rows in _SIZES:
        batch = tf.repeat(row, rows, axis=0)
        seconds[rows] = statistics.median(_seconds(signature, batch))
    speed = Speed(seconds, {})
    batch = tf.repeat(row, speed.enough, axis=0)
    threads = [n for n in (1, 2, 4, 8, 16) if n <= (os.cpu_count() or 1)]
    return Speed(seconds, {n: _rate(signature, batch, n) for n in threads})


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


def _models(name: str, labels: dict[str, int]) -> str:
    versions = "".join(f"\n        versions: {version}" for version in sorted({*labels.values()}))
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


def _batching(speed: Speed, request_rows: int, sizes: list[int]) -> str:
    largest = max([speed.enough, request_rows, *sizes])
    sizes = sizes and sorted({*sizes, largest})
    threads = min(
        n for n, rate in speed.rates.items() if rate >= _ENOUGH * max(speed.rates.values())
    )
    wait = max(1, round(speed.seconds[1] * 1e6))
    of_largest = speed.seconds[max(_SIZES)] * largest / max(_SIZES)
    queue = max(8, round(_QUEUE * threads / of_largest))
    table = "\n".join(
        f"#   {rows:5,} rows: {seconds * 1e3:8.3f} ms, {rows / seconds:12,.0f} rows/s"
        for rows, seconds in speed.seconds.items()
    )
    rates = ", ".join(f"{n}: {rate:,.0f}" for n, rate in speed.rates.items())
    allowed = "".join(f"allowed_batch_sizes: {size}\n" for size in sizes)
    return f"""# Measured with this model where this file was written, {os.cpu_count()} cores:
{table}
# Rows a second by threads, in batches of {speed.enough:,}: {rates}.
# From {speed.enough:,} rows on, larger batches bring little.
#
# A server refuses requests of more rows than the largest batch.
max_batch_size {{ value: {largest} }}
# A request waits for others no longer than a single row takes.
batch_timeout_micros {{ value: {wait} }}
# About {_QUEUE:.0f} s of work may wait; beyond it clients are told to come again: UNAVAILABLE.
max_enqueued_batches {{ value: {queue} }}
# More threads bring less than a tenth.
num_batch_threads {{ value: {threads} }}
{allowed}"""


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


def _write(file: Path, text: str) -> Path:
    """Write beside, then rename: a server may be reading."""
    beside = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
    try:
        beside.write_text(text)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
    return file
