"""What a training step costs, part by part, as ratios in one run.

    python benchmarks/step.py [--rows 60000] [--features 784] [--batch 2500] [--json step.json]

Prints medians of repeated steps, the variants taking turns, and their ratios:

1. the loss with its gradient, against the elementwise passes over [B, B] that it needs, each run
   alone; plain and under XLA;
2. a step of an encoder on batches whose P is computed as it trains, against the same step on
   batches whose P is there;
3. a step with `NeighborRecall` and `Trustworthiness`, against the step without;
4. a step with nothing compiled, the loss compiled, and the whole step compiled by XLA, in float32
   and mixed_bfloat16.

Rows are drawn from 10 Gaussian clusters: how long a step takes does not depend on them.
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import throughput

from ptsne_keras import affinities, losses, metrics, networks, training
from ptsne_keras.data import batches, order

REPEATS = 9


def clusters(n: int, features: int) -> Any:
    """Draw rows from 10 Gaussian clusters, float32."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10, features)).astype("float32")
    X = rng.standard_normal((n, features), dtype=np.float32) * 0.3
    return X + centres[rng.integers(10, size=n)]


def seconds(variants: dict[str, Callable[[], Any]], repeats: int = REPEATS) -> dict[str, float]:
    """Measure median seconds of each, taking turns, the first turn left out."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            for tensor in tf.nest.flatten(run()):
                np.asarray(tensor)  # wait for it
            times[name].append(time.perf_counter() - start)
    return {name: median(values[1:]) for name, values in times.items()}


def passes(P: tf.Tensor, Y: tf.Tensor) -> dict[str, tuple[int, Callable[[], Any]]]:
    """List the elementwise passes over [B, B] that loss and gradient need at dof = 1, d = 2.

    How many of each kind, and one of it alone. Forward: d differences, d squares and their sum
    give D²; 1 + D², w = 1 / (1 + D²), the diagonal of w left out, Σ w; log1p D², times P, summed;
    log P with its floor, times P, summed; Σ_j P. Gradient: P w, w², one minus the other, and
    products with Y, twice.
    """
    y = Y[:, 0]
    full = P + 0.5
    eye = tf.eye(P.shape[0], dtype=tf.bool)
    Y1 = tf.concat([Y, tf.ones_like(Y[:, :1])], axis=1)
    alone = {
        "difference": (2, lambda: y[:, None] - y[None]),
        "square": (2, lambda: tf.square(full)),
        "add": (3, lambda: full + P),
        "reciprocal": (1, lambda: 1.0 / full),
        "mask": (1, lambda: tf.where(eye, 0.0, full)),
        "log1p": (1, lambda: tf.math.log1p(full)),
        "log": (1, lambda: tf.math.log(full)),
        "floor": (1, lambda: tf.maximum(full, 1e-38)),
        "multiply": (4, lambda: full * P),
        "row sums": (4, lambda: tf.reduce_sum(full, axis=1)),
        "times [B, 3]": (2, lambda: tf.linalg.matmul(full, Y1)),
    }
    # A small result only: copying [B, B] out would be one more pass.
    return {name: (count, tf.function(lambda f=f: f()[:1])) for name, (count, f) in alone.items()}


def loss_ratios(B: int) -> dict[str, Any]:
    """Measure part 1."""
    rng = np.random.default_rng(0)
    Y = tf.constant(rng.normal(size=(B, 2)) * 10, tf.float32)
    P = rng.random((B, B), dtype=np.float32) ** 8
    P = tf.constant((P + P.T) / (2 * P.sum()) * (1 - np.eye(B, dtype="float32")))

    def step() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(Y)
            value = tf.reduce_sum(losses.tsne(P, Y, exaggeration=1.5))
        return value, tape.gradient(value, Y)

    kinds = passes(P, Y)
    variants = {"plain": tf.function(step), "XLA": tf.function(step, jit_compile=True)}
    measured = seconds(variants | {name: run for name, (_, run) in kinds.items()})
    floor = sum(count * measured[name] for name, (count, _) in kinds.items())
    result = {"B": B, "passes": sum(count for count, _ in kinds.values()), "passes s": floor}
    for name in variants:
        result |= {f"{name} s": measured[name], f"{name} / passes": measured[name] / floor}
    return result


def encoder(features: int, policy: str = "float32") -> keras.Model:
    """Build the network of 2009, with ReLUs."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return networks.encoder(features, 2, activation="relu", seed=0)
    finally:
        keras.config.set_dtype_policy(before)


def fit_seconds(
    runs: dict[str, tuple[keras.Model, tf.data.Dataset]], steps: int, rounds: int = 9
) -> dict[str, float]:
    """Measure median seconds a step of each, taking turns, the first turn left out."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, (model, data) in runs.items():
            start = time.perf_counter()
            model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False)
            times[name].append((time.perf_counter() - start) / steps)
    return {name: median(values[1:]) for name, values in times.items()}


def compiled(model: keras.Model, jit_loss: bool = True, **options: Any) -> keras.Model:
    """Make a trainer of the model."""
    trainer = training.Trainer(model, jit_loss=jit_loss)
    trainer.compile(keras.optimizers.Adam(1e-3), **options)
    return trainer


def pipeline_ratios(X: Any, B: int) -> dict[str, float]:
    """Measure parts 2 and 3."""
    features = X.shape[1]
    live = batches.from_array(X, 30, B, seed=0)
    x, P = next(iter(live))
    ready = order.prefetched(tf.data.Dataset.from_tensors((x, P)).repeat())
    both = [metrics.NeighborRecall(), metrics.Trustworthiness()]
    model = encoder(features)
    result = fit_seconds(
        {
            "step, P there, s": (compiled(model), ready),
            "step, P computed, s": (compiled(model), live.repeat()),
            "step with metrics, s": (compiled(model, metrics=both), ready),
        },
        steps=int(live.cardinality()),
    )

    @tf.function
    def measure() -> Any:
        for metric in both:
            metric.update_state(P, x[:, :2])
        return both[0].result()

    alone = seconds(
        {
            "P alone, s": tf.function(lambda: affinities.joint_probabilities(x, 30)[:1]),
            "metrics alone, s": measure,
        }
    )
    shapes = throughput.matmul_shapes(model, B)
    result |= alone | {"matrix products alone, s": throughput.matmul_seconds(shapes)}
    base = result["step, P there, s"]
    return result | {
        "step, P computed / P there": result["step, P computed, s"] / base,
        "step with metrics / without": result["step with metrics, s"] / base,
        "metrics alone / step": result["metrics alone, s"] / base,
        "step / matrix products": base / result["matrix products alone, s"],
    }


def compilation_ratios(X: Any, B: int) -> dict[str, float]:
    """Measure part 4, against the plain float32 step."""
    x = tf.constant(X[:B])
    data = tf.data.Dataset.from_tensors((x, affinities.joint_probabilities(x, 30))).repeat()
    data = order.prefetched(data)
    runs = {}
    for policy in ("float32", "mixed_bfloat16"):
        for name, options in {
            "plain": {"jit_compile": False, "jit_loss": False},
            "loss compiled": {"jit_compile": False, "jit_loss": True},
            "all compiled": {"jit_compile": True},
        }.items():
            trainer = compiled(encoder(x.shape[1], policy), **options)
            runs[f"{policy}, {name}"] = (trainer, data)
    times = fit_seconds(runs, 8)
    base = times["float32, plain"]
    return {f"{name}, s": value for name, value in times.items()} | {
        f"{name} / float32, plain": value / base for name, value in times.items()
    }


def main() -> None:
    """Run and print all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--features", type=int, default=784)
    parser.add_argument("--batch", type=int, default=2500)
    parser.add_argument("--json", help="write all figures to this file")
    options = parser.parse_args()
    X = clusters(options.rows, options.features)
    results: dict[str, Any] = {f"loss, B = {B}": loss_ratios(B) for B in (1024, 2500, 5000)}
    results["pipeline"] = pipeline_ratios(X, options.batch)
    results["compilation"] = compilation_ratios(X, options.batch)
    for title, figures in results.items():
        print(title)
        for name, value in figures.items():
            print(f"  {name:45} {value:.4g}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
