"""Freed rows: `training.refine` beside our loss over a table of places, from the same start.

    python benchmarks/refine.py [--rows 1000 60000 1000000] [--iterations 250]

Rows are those of scaling.py. A network of about 3,000 steps makes the map that both start from.
`refine` takes its iterations; the table, one trained place a row, then gets as much time and four
times as much (once above 100,000 rows), with the pairs and the loss of the network. Told are
seconds and KL(P‖Q) in nats over the neighbour graph, at exaggeration 1, both by openTSNE's
estimate, for a descent at the exaggeration of `ParametricTSNE`.
"""

import argparse
import time
from typing import Any

import keras
import numpy as np
import openTSNE
import scaling
import scipy.sparse

from ptsne_keras import ParametricTSNE, affinities, training
from ptsne_keras.data import batches

EXAGGERATION, PERPLEXITY, BATCH = 1.2, 15, 1024


def divergence(Y: Any, graph: Any, P: Any) -> float:
    """Return KL(P‖Q) over the graph."""
    n = len(Y)
    ends = np.arange(0, P.size + 1, P.shape[1])
    C = scipy.sparse.csr_matrix((P.ravel(), graph.indices.ravel(), ends), (n, n), dtype=float)
    method = {"negative_gradient_method": "fft"} if n > 5000 else {"theta": 0.0}
    affinity = openTSNE.affinity.PrecomputedAffinities(C + C.T)
    standing = openTSNE.TSNEEmbedding(Y.astype(float), affinity, n_jobs=-1, **method)
    # It is known after a step only.
    return float(standing.optimize(1, learning_rate=1e-12).kl_divergence)


def table(Y: Any, graph: Any, seconds: float) -> tuple[Any, float, int]:
    """Train one place a row by our loss for about so many seconds; also return what it took."""
    n, batch = len(Y), min(BATCH, len(Y) // 4)
    places = keras.layers.Embedding(n, Y.shape[1])
    inputs = keras.Input((1,))
    model = keras.Model(inputs, places(keras.ops.cast(inputs[:, 0], "int32")))
    rows = np.arange(n, dtype=np.float32)[:, None]  # exact up to 2**24
    pairs = batches.from_graph(rows, PERPLEXITY, batch, neighbors=graph, jitter=0.0, seed=0)
    steps = int(pairs.cardinality())
    options = {"exaggeration": EXAGGERATION, "jit_compile": True}

    def run(epochs: int) -> float:
        places.set_weights([Y])
        rate = keras.optimizers.schedules.PolynomialDecay(0.5, epochs * steps, 0.025)
        start = time.perf_counter()
        optimizer = keras.optimizers.Adam(rate)
        training.finetune(model, pairs, epochs=epochs, optimizer=optimizer, **options)
        return time.perf_counter() - start

    run(1)  # compiles
    more = max(1, 300 // steps)
    once, several = run(1), run(1 + more)
    epochs = max(1, round((seconds - once) / (several - once) * more))
    took = run(epochs)
    return np.asarray(places.get_weights()[0]), took, epochs * steps


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[1000, 60_000, 1_000_000])
    parser.add_argument("--iterations", type=int, default=250)
    options = parser.parse_args()
    print("| N | | seconds | KL |\n|---|---|---|---|")
    for n in options.rows:
        X = scaling.rows(n)
        epochs = max(1, round(3000 / -(-n // BATCH))) if n > BATCH else 300
        network = ParametricTSNE(placement=False, epochs=epochs, random_state=0).fit(X)
        Y = network.embedding_
        graph = affinities.nearest(X, 3 * PERPLEXITY)
        P = affinities.neighbor_probabilities(graph.distances, PERPLEXITY)
        print(f"| {n:,} | the network's map | | {divergence(Y, graph, P):.3f} |", flush=True)
        start = time.perf_counter()
        freed = training.refine(
            Y, graph, P, exaggeration=EXAGGERATION, iterations=options.iterations
        )
        took = time.perf_counter() - start
        print(
            f"| | refine, {options.iterations} iterations | {took:.1f} | "
            f"{divergence(freed, graph, P):.3f} |",
            flush=True,
        )
        for times in (1,) if n > 100_000 else (1, 4):
            found, seconds, steps = table(Y, graph, times * took)
            print(
                f"| | table, {steps:,} steps | {seconds:.1f} | {divergence(found, graph, P):.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
