"""The experiment of 2009 with one thing done otherwise, for `benchmarks/paper.py` and in miniature.

    python benchmarks/changes.py [--seeds 0 1 2 …]

runs each change at a fifth of the size, all in one process: a network 784-100-100-400-2, RBMs from
all rows, four fixed batches of 1,000 rows, 30 passes. Changes of the RBMs train their own; all
others start from the same. "minimize:float64:floor:rows" is everything that the MATLAB code does
otherwise. Each result is kept in benchmarks/results/changes. The table has means over seeds and
differences from no change, as mean ± standard error of the pairs; an error is the mean over the
batches of the last two passes, with its range; KL is that of all batches at the end; evaluations
are those of loss and gradient in a pass.
"""

import argparse
import contextlib
import functools
import json
import statistics
from pathlib import Path
from typing import Any
from unittest import mock

import data
import kept
import keras
import minimize
import numpy as np
import study

from ptsne_keras import metrics, networks
from ptsne_keras.data import batches, order
from ptsne_keras.networks.rbm import RBM
from ptsne_keras.training import conjugate_gradient, stages

FOLDER = Path(__file__).parent / "results/changes"
UNITS, ROWS, BATCH, PASSES, LAST = (100, 100, 400), 4000, 1000, 30, 2
TOP = (400, 2000)  # units below the top RBM, here and in paper.py
# By name, as in the cells of paper.py: what is done otherwise.
CHANGES = {
    "none": "no pretraining",
    "float64": "float64: P, network, loss and gradient",
    "minimize": "line searches by the rules of minimize.m",
    "strict": "line searches to 0.05 and 0.1",
    "loose": "line searches to 1e-4 and 0.4, SciPy's defaults",
    "order": "a new order of batches in each pass",
    "floor": "P of at least 2.2e-16",
    "rows": "RBMs: the last 100 rows left out; one order, but for the top RBM",
    "sampled": "RBMs: each on samples of the one below",
    "binary": "pixels of 0 and 1",
}
# Those of "2:default" in paper.py: another network in place of the default one.
OF_DEFAULT = {
    "rbms": "RBMs, then sigmoid 500-500-2000",
    "sigmoid": "sigmoid 500-500-2000",
}
OF_THE_MODEL = ["minimize", "strict", "loose"]
OF_THE_MODEL += ["float64", "floor", "order", "rows", "sampled", "binary"]
OF_THE_MODEL += ["minimize:float64:floor:rows"]
OF_RBMS = ("rows", "sampled", "binary")  # these train RBMs of their own


def applied(names: list[str]) -> contextlib.ExitStack:
    """Return the context of the changes that are in the package's own code."""

    def one_order(X: Any, size: int, *, seed: int) -> Any:
        shuffle: order.Shuffle = True if X.shape[1] in TOP else "once"
        return order.from_array(X, size, shuffle=shuffle, seed=seed).take(len(X) // size - 1)

    def samples(rbm: RBM, V: Any) -> Any:
        return rbm.sample_hidden(rbm._hidden_mean(rbm._activation(V)))

    def until(sufficient_decrease: float, curvature: float) -> Any:
        constants = {"_SUFFICIENT_DECREASE": sufficient_decrease, "_CURVATURE": curvature}
        return mock.patch.multiple(conjugate_gradient, **constants)

    patches = {
        "minimize": mock.patch.object(conjugate_gradient, "descend", minimize.descend),
        "strict": until(0.05, 0.1),
        "loose": until(1e-4, 0.4),
        "rows": mock.patch("ptsne_keras.networks.rbm.order", mock.Mock(from_array=one_order)),
        "sampled": mock.patch.object(RBM, "call", samples),  # which training does not use
    }
    stack = contextlib.ExitStack()
    for change in set(names) & set(patches):
        stack.enter_context(patches[change])
    return stack


def network(names: list[str], d: int, units: tuple[int, ...], seed: int) -> keras.Model:
    """Return an encoder; its precision is that of the loss as well, as Keras's default."""
    if "float64" not in names:
        keras.config.set_floatx("float32")
        return networks.encoder(784, d, hidden_units=units, seed=seed)
    keras.config.set_floatx("float64")  # and not that encoder, whose last layer is in float32
    layers = [keras.layers.Dense(unit, "sigmoid", dtype="float64") for unit in units]
    return keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(d, dtype="float64")])


def prepared(names: list[str], train: Any, test: Any) -> tuple[Any, Any]:
    """Return the rows with their changes."""
    if "binary" not in names:
        return train, test
    (X, labels), (X_test, labels_test) = train, test
    return (np.float32(X > 0.5), labels), (np.float32(X_test > 0.5), labels_test)


def fixed_batches(X: Any, names: list[str], seed: int, size: int = 5000) -> Any:
    """Return the batches (X, P) of fine-tuning."""
    X = X.astype("float64") if "float64" in names else X
    fixed = batches.from_array(X, 30, size, shuffle="once", seed=seed)
    if "order" in names:
        fixed = fixed.shuffle(int(fixed.cardinality()), seed=seed)
    if "floor" in names:
        fixed = fixed.map(lambda x, P: (x, keras.ops.maximum(P, np.finfo(float).eps)))
    return fixed


def model_rows(names: list[str], seed: int) -> tuple[Any, Any]:
    """Return the rows and labels of the model of the experiment: training and test."""
    (X, labels), test = data.load("mnist")
    chosen = np.random.default_rng(seed).permutation(len(X))[:ROWS]
    return prepared(names, (X[chosen], labels[chosen]), test)


def model_rbms(names: list[str], seed: int) -> list[RBM]:
    """Train the RBMs of the model, on all rows so that each has as many updates as in 2009."""
    train, test = data.load("mnist")
    with applied([change for change in names if change in OF_RBMS]):
        return stages.pretrain(prepared(names, train, test)[0][0], (*UNITS, 2), seed=seed)


def fine_tuned(names: list[str], seed: int, rbms: list[RBM]) -> dict[str, Any]:
    """Fine-tune the model; return its errors after the last batches, and its loss."""
    train, test = model_rows(names, seed)
    encoder = network(names, 2, UNITS, seed)
    encoder.set_weights(stages.unroll(rbms).get_weights())
    fixed = fixed_batches(train[0], names, seed, BATCH)
    errors: list[float] = []
    late = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: errors.append(
            study.one_nn_error(encoder, train, test)[0]
        )
    )
    with applied(names):
        history = stages.finetune(encoder, fixed, optimizer="cg", epochs=PASSES - LAST).history
        stages.finetune(encoder, fixed, optimizer="cg", epochs=LAST, callbacks=[late])
    kl = metrics.mean_kl_divergence(encoder, fixed)
    keras.config.set_floatx("float32")
    return {
        "error %": statistics.mean(errors),
        "range": max(errors) - min(errors),
        "KL": kl,
        "evaluations": statistics.mean(history["evaluations"]),
        "line searches": statistics.mean(history["line_searches"]),
    }


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """One line a change."""
    lines = ["| change | error % | difference | range | KL | difference | evaluations |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, results in found.items():
        cells = ["; ".join(CHANGES[change] for change in name.split(":") if name) or "none"]
        for key in ("error %", "range", "KL"):
            mean = statistics.mean(result[key] for result in results)
            cells.append(f"{mean:.2f}" if key != "KL" else f"{mean:.3f}")
            if key != "range":
                pairs = zip(results, found[""], strict=True)
                apart = [one[key] - other[key] for one, other in pairs]
                error = statistics.stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else 0.0
                cells.append(f"{statistics.mean(apart):+.3f} ± {error:.3f}" if name else "")
        evaluations = statistics.mean(result["evaluations"] for result in results)
        lines.append(f"| {' | '.join(cells)} | {evaluations:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is not there yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=range(6))
    shared = functools.lru_cache(1)(lambda seed: model_rbms([], seed))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("", *OF_THE_MODEL)}
    for seed in parser.parse_args().seeds:
        for name, results in found.items():
            file = FOLDER / f"{name.replace(':', '_') or 'none'}_{seed}.json"
            names = name.split(":")
            if not file.exists():
                rbms = shared(seed) if not set(names) & set(OF_RBMS) else model_rbms(names, seed)
                kept.write(file, json.dumps(fine_tuned(names, seed, rbms)).encode())
            results.append(json.loads(file.read_text()))
        print(table(found), flush=True)


if __name__ == "__main__":
    main()
