"""Latency and throughput of exported models through TensorFlow's C API, and of their products.

    python benchmarks/serving.py [--batches 1 32 1024] [--repeats 200]

Two encoders, 784 columns → 100 components → 256-256-256 GELU → 2 and the paper's 784-500-500-2000-2
sigmoid, in float32 and bfloat16. Each is loaded by TensorFlow's own C loader
(tests/support/c_loader.py), in a process that imports neither TensorFlow's Python package nor ours.
"products" are the network's matrix products alone, in float32: as a graph through the same loader,
in turn with the model, and by NumPy before TensorFlow is loaded, since the threads of the two
compete for cores. The figures are medians, and the 10th and 90th percentile of the latency. "ratio"
is the time of the products relative to that of the model; 1 would be as fast as the products alone.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
NETWORKS = {
    "784-[100]-256-256-256-2 GELU": ((256, 256, 256), "gelu", 100),
    "784-500-500-2000-2 sigmoid": ((500, 500, 2000), "sigmoid", None),
}
FEATURES = 784


def export(folder: Path, name: str, precision: str) -> list[tuple[int, int]]:
    """Export the encoder and a graph of its products; return the shapes of its kernels."""
    import keras
    import tensorflow as tf

    from ptsne_keras import networks, serving

    hidden_units, activation, components = NETWORKS[name]
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, FEATURES)).astype("float32")
    options: dict[str, Any] = {"scaling": (X.mean(axis=0), X.std()), "seed": 0}
    if components:
        options["components"] = rng.normal(size=(FEATURES, components)).astype("float32")
    options |= {"hidden_units": hidden_units, "activation": activation}
    encoder = networks.encoder(FEATURES, 2, **options)
    reference = X if precision == "bfloat16" else None
    serving.export_saved_model(
        encoder, folder / "model", 1, precision=precision, reference=reference
    )
    dense = [layer for layer in encoder.layers if isinstance(layer, keras.layers.Dense)]
    kernels = [tf.Variable(layer.kernel.numpy()) for layer in dense]
    products = tf.Module()
    products.kernels = kernels

    def run(features: tf.Tensor) -> dict[str, tf.Tensor]:
        for kernel in kernels:
            features = tf.matmul(features, kernel)
        return {"embedding": features}

    spec = tf.TensorSpec((None, FEATURES), tf.float32, name="features")
    signature = tf.function(run).get_concrete_function(spec)
    tf.saved_model.save(products, str(folder / "products"), {"serving_default": signature})
    return [tuple(kernel.shape) for kernel in kernels]


def measure(folder: Path, shapes: list[Any], batches: list[int], repeats: int) -> dict[str, Any]:
    """Time NumPy's products, then the model and its products as a graph in turn."""
    sys.path.insert(0, str(HERE.parent / "tests" / "support"))
    from c_loader import SavedModel

    # First: NumPy loads its random module on demand, and then crashes on TensorFlow's symbols.
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    rows = {n: rng.normal(size=(n, FEATURES)).astype(np.float32) for n in batches}

    def products(X: Any) -> None:
        for kernel in kernels:
            X = X @ kernel

    found = {
        str(n): timed({"numpy": functools.partial(products, X)}, repeats) for n, X in rows.items()
    }
    model, graph = SavedModel(str(folder / "model" / "1")), SavedModel(str(folder / "products"))
    for n in batches:
        batch = {"features": rows[n]}
        calls = {
            "model": lambda b=batch: model.run("serving_default", b),
            "graph": lambda b=batch: graph.run("serving_default", b),
        }
        found[str(n)] |= timed(calls, repeats)
    imported = {"tensorflow", "keras", "ptsne_keras"} & sys.modules.keys()
    assert not imported, f"should not have been imported: {imported}"
    return found


def timed(calls: dict[str, Any], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each call; calls take turns, and the first ten are left out."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 10):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[10:] for name, values in seconds.items()}


def line(title: str, n: str, seconds: dict[str, list[float]]) -> str:
    """Return a line of the table."""
    middle = {key: statistics.median(values) * 1e3 for key, values in seconds.items()}
    low, high = np.quantile(seconds["model"], [0.1, 0.9]) * 1e3
    return (
        f"| {title} | {n} | {middle['model']:.3f} ({low:.3f}-{high:.3f}) "
        f"| {int(n) / middle['model'] * 1e3:,.0f} "
        f"| {middle['graph']:.3f} | {middle['graph'] / middle['model']:.2f} "
        f"| {middle['numpy']:.3f} | {middle['numpy'] / middle['model']:.2f} |"
    )


def main() -> None:
    """Measure each network and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 1024])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder, shapes = Path(options.one[0]), json.loads(options.one[1])
        print(json.dumps(measure(folder, shapes, options.batches, options.repeats)))
        return
    print("| encoder | rows | ms (10-90 %) | rows/s | products, ms | ratio | NumPy's, ms | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for name in NETWORKS:
        for precision in ("float32", "bfloat16"):
            with tempfile.TemporaryDirectory() as scratch:
                shapes = export(Path(scratch), name, precision)
                command = [sys.executable, __file__, "--one", scratch, json.dumps(shapes)]
                command += ["--repeats", str(options.repeats), "--batches"]
                command += [str(n) for n in options.batches]
                out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            for n, seconds in json.loads(out.splitlines()[-1]).items():
                print(line(f"{name}, {precision}", n, seconds), flush=True)


if __name__ == "__main__":
    main()
