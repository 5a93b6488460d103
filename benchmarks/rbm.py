"""How fast RBM pretraining is: FLOP rate of an epoch beside the matrix products alone.

    python benchmarks/rbm.py [--rows 60000] [--batch 100]

The layers of the 2009 network on random rows in [0, 1], CD-1, updates of batches of 100. A batch
needs five products: V W, H Wᵀ, V' W for the chain, Vᵀ p(h|v) and V'ᵀ p(h|v') for the update. Plain
products of the same shapes and the epochs take turns in one run; medians.
"""

import argparse
import functools
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import keras
import numpy as np
import throughput

from ptsne_keras.networks.rbm import RBM

LAYERS = ((784, 500, "bernoulli"), (500, 500, "bernoulli"), (500, 2000, "bernoulli"))
TOP = (2000, 2, "gaussian")


def products(b: int, D: int, H: int) -> list[tuple[int, int, int]]:
    """Shapes of the products that one update needs."""
    return [(b, D, H), (b, H, D), (b, D, H), (D, b, H), (D, b, H)]


class Clock(keras.callbacks.Callback):
    """Seconds of each epoch, and of something else after each."""

    def __init__(self, other: Callable[[], float]) -> None:
        super().__init__()
        self.other = other
        self.epochs: list[float] = []
        self.alone: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop."""
        self.epochs.append(time.perf_counter() - self.start)
        self.alone.append(self.other())


def main() -> None:
    """Measure all layers and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    steps = options.rows // options.batch
    print("| layer | epoch s | GFLOP/s | products alone, GFLOP/s | ratio |\n|---|---|---|---|---|")
    for D, H, hidden in (*LAYERS, TOP):
        X = rng.random((options.rows, D), dtype=np.float32)
        rbm = RBM(H, hidden=hidden, seed=0)
        shapes = products(options.batch, D, H)
        clock = Clock(functools.partial(throughput.matmul_seconds, shapes, 200))
        rbm.fit(
            X, batch_size=options.batch, epochs=options.epochs + 1, verbose=0, callbacks=[clock]
        )
        epochs, alone = clock.epochs[1:], [steps * s for s in clock.alone[1:]]  # the first compiles
        work = throughput.flops(shapes) * steps / 1e9
        epoch, floor = median(epochs), median(alone)
        print(
            f"| {D}-{H} {hidden} | {epoch:.2f} ({min(epochs):.2f}-{max(epochs):.2f}) "
            f"| {work / epoch:.0f} | {work / floor:.0f} | {floor / epoch:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
