"""How many reference rows an export needs: quality of new rows, size and latency by their number.

    python benchmarks/reference.py [--datasets mnist fashion] [--rows 2000 5000 …] [--seed 0]

Fits 50,000 rows of the training set and places 10,000 **validation** rows split off it, since the
default of `reference_size` is chosen by this table. Each model is exported, and its signatures are
timed in this process by TensorFlow at batches of 1, 32 and 1,024 rows: medians of 15 calls. The
floor is the matrix products alone: those of the network, and rows × reference. AUC is that of
novelty, between the validation rows and 10,000 rows of the other data set.
"""

import argparse
import functools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import data
import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from ptsne_keras import ParametricTSNE, metrics, networks, serving

BATCHES = (1, 32, 1024)
STRANGERS = {"mnist": "fashion", "fashion": "mnist"}


def milliseconds(call: Any, calls: int = 15) -> float:
    """Return the median time of a call."""
    call()
    found = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        found.append(1e3 * (time.perf_counter() - start))
    return statistics.median(found)


def quality(tsne: Any, Y_new: Any, X: Any, labels: Any, X_new: Any, labels_new: Any) -> str:
    """Return measures of new rows."""
    Y = tsne.embedding_
    first = slice(3000)
    return (
        f"{metrics.knn_accuracy(Y, labels, Y_new, labels_new, 1):.3f} | "
        f"{metrics.knn_accuracy(Y, labels, Y_new, labels_new, 5):.3f} | "
        f"{metrics.trustworthiness(X_new[first], Y_new[first], 5):.3f} | "
        f"{metrics.neighborhood_recall(X, Y, X_new[first], Y_new[first], 10):.3f}"
    )


def answers(signature: Any, X: Any, key: str) -> Any:
    """Return what a signature answers, by parts."""
    parts = [X[i : i + 1000] for i in range(0, len(X), 1000)]
    return np.concatenate([signature(features=tf.constant(part))[key].numpy() for part in parts])


def products(encoder: Any, rows: Any) -> Any:
    """Return a function of the matrix products alone."""
    weights = [tf.constant(w) for w in networks.network(encoder).get_weights() if w.ndim == 2]
    weights = [w for w in weights if w.shape[0] > 1]
    z = tf.constant(encoder.layers[-1].reference()[0])

    @tf.function
    def multiply(x: Any) -> Any:
        h = x
        for w in weights:
            h = tf.matmul(h, w)
        return tf.reduce_sum(h), tf.reduce_sum(tf.matmul(x[:, : z.shape[1]], z, transpose_b=True))

    return functools.partial(multiply, rows)


def latencies(encoder: Any, signature: Any, X_new: Any) -> list[float]:
    """Return milliseconds by the size of the batch."""
    found = []
    for batch in BATCHES:
        x = tf.constant(X_new[:batch])
        answer = functools.partial(signature, features=x) if signature else products(encoder, x)
        found.append(
            milliseconds(lambda answer=answer: tf.nest.map_structure(np.asarray, answer()))
        )
    return found


def main() -> None:
    """Print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=list(STRANGERS), choices=STRANGERS)
    parser.add_argument("--rows", nargs="+", type=int, default=[2000, 5000, 10_000, 20_000, 50_000])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.datasets:
        (X, labels), _ = data.load(name)
        order = np.random.default_rng(123).permutation(len(X))
        held, kept = order[:10_000], order[10_000:]
        X_new, labels_new, X, labels = X[held], labels[held], X[kept], labels[kept]
        strangers = data.load(STRANGERS[name])[0][0][:10_000]
        tsne = ParametricTSNE(random_state=options.seed).fit(X)
        print(f"\n| {name} | 1-NN | 5-NN | T(5) | recall | AUC | MB | ms: 1 | 32 | 1,024 | floor |")
        print("|---|" + "---|" * 10)
        Y_new = tsne.transform(X_new, placement=False)
        told = quality(tsne, Y_new, X, labels, X_new, labels_new)
        print(f"| the network alone | {told} |" + " |" * 6, flush=True)
        for rows in options.rows:
            encoder = networks.smaller(tsne.encoder_, rows)
            with tempfile.TemporaryDirectory() as folder:
                path = serving.export_saved_model(encoder, folder, reference_size=rows)
                size = sum(f.stat().st_size for f in Path(path).rglob("*") if f.is_file()) / 1e6
                signatures = tf.saved_model.load(str(path)).signatures
                serve, fast = signatures["serving_default"], signatures["embed_fast"]
                Y_new = answers(serve, X_new, "embedding")
                told = quality(tsne, Y_new, X, labels, X_new, labels_new)
                judge = signatures["embed_with_novelty"]
                novelty = [answers(judge, rows, "novelty") for rows in (X_new, strangers)]
                foreign = np.repeat([0, 1], [len(v) for v in novelty])
                auc = roc_auc_score(foreign, np.concatenate(novelty))
                times = latencies(encoder, serve, X_new)
                floor = latencies(encoder, None, X_new)
                quick = latencies(encoder, fast, X_new)
            shown = " | ".join(f"{t:.1f}" for t in times)
            limits = ", ".join(f"{t:.1f}" for t in floor)
            print(
                f"| {rows:,} | {told} | {auc:.3f} | {size:.1f} | {shown} | {limits} |", flush=True
            )
        print("`embed_fast`: " + ", ".join(f"{t:.2f}" for t in quick) + " ms")


if __name__ == "__main__":
    main()
