"""Does pretraining still matter? Arms of equal operations, for `benchmarks/paper.py --study`.

Sigmoid or ReLU units, started from RBMs or at random, trained by conjugate gradients or by Adam, on
20,000 rows of MNIST in four fixed batches of 5,000 and otherwise as in 2009. The operations are
those of the matrix products, equal to within a pass: an arm without RBMs gets theirs for
fine-tuning. The RBMs are the same binary ones for both kinds of unit. Adam's rate, 0.02 for sigmoid
and 0.003 for ReLU units, falls to 0 along a cosine; both are from trials on validation rows
(docs/experiments.md).
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data
import keras
import matplotlib.pyplot as plt
import numpy as np
import rbm
import throughput

from ptsne_keras import metrics, networks
from ptsne_keras.data import batches
from ptsne_keras.training import stages

UNITS = (500, 500, 2000)
ROWS, BATCH, SEED = 20_000, 5_000, 0
EVALUATIONS = 560  # beside the RBMs, which take 0.28 of all: some 22 passes by CG
RATES = {"sigmoid": 0.02, "relu": 0.003}
NAMES = {"rbm": "RBMs", "none": "random", "cg": "CG", "adam": "Adam", "relu": "ReLU"}
ARMS = [
    ":".join(("study", *arm)) for arm in itertools.product(RATES, ("rbm", "none"), ("cg", "adam"))
]


def one_nn_error(encoder: Any, train: Any, test: Any) -> tuple[float, Any]:
    """1-NN error of the test rows in percent, and their map."""
    Y_train, Y_test = (encoder.predict(X, batch_size=4096, verbose=0) for X in (train[0], test[0]))
    return 100 * (1 - metrics.knn_accuracy(Y_train, train[1], Y_test, test[1], 1)), Y_test


class Curve(keras.callbacks.Callback):
    """Error at a dozen of the epochs beside the operations so far; stops where those are spent."""

    def __init__(
        self, error: Callable[[], float], *, before: float, an_evaluation: float, until: float
    ) -> None:
        super().__init__()
        self.error, self.an_evaluation, self.until = error, an_evaluation, until
        self.done = before
        self.apart = (until - before) / 12
        self.curve = [(before, error())]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Count; measure if it is time to."""
        self.done += (logs or {}).get("evaluations", ROWS // BATCH) * self.an_evaluation
        last = self.done >= self.until
        if last or self.done >= self.curve[-1][0] + self.apart:
            self.curve.append((self.done, self.error()))
        self.model.stop_training = last


def arm(name: str, pretrained: Any) -> dict[str, Any]:
    """Run one arm; `pretrained(X)` gives the stack of RBMs."""
    _, activation, start, optimizer = name.split(":")
    (X, labels), (X_test, labels_test) = data.load("mnist")
    chosen = np.random.default_rng(SEED).permutation(len(X))[:ROWS]
    X, labels = X[chosen], labels[chosen]
    encoder = networks.encoder(784, 2, hidden_units=UNITS, activation=activation, seed=SEED)
    widths = list(itertools.pairwise((784, *UNITS, 2)))
    epochs = [30] * len(UNITS) + [50]
    sweep = ROWS // 100
    below = sum(
        throughput.flops(rbm.products(100, D, H)) * sweep * e
        for (D, H), e in zip(widths, epochs, strict=True)
    )
    if start == "rbm":
        encoder.set_weights(stages.unroll(pretrained(X)).get_weights())
    an_evaluation = throughput.flops(throughput.matmul_shapes(encoder, BATCH))
    until = below + EVALUATIONS * an_evaluation
    before = below if start == "rbm" else 0

    def error() -> float:
        return one_nn_error(encoder, (X, labels), (X_test, labels_test))[0]

    passes = -(-int((until - before) / an_evaluation) // (ROWS // BATCH))
    curve = Curve(error, before=before, an_evaluation=an_evaluation, until=until)
    fixed = batches.from_array(X, 30, BATCH, shuffle="once", seed=SEED)
    clock = time.perf_counter()
    stages.finetune(
        encoder,
        fixed,
        optimizer="cg" if optimizer == "cg" else None,
        learning_rate=RATES[activation],
        epochs=passes,
        callbacks=[curve],
        verbose=2,
    )
    seconds = time.perf_counter() - clock
    Y_test = encoder.predict(X_test, batch_size=4096, verbose=0)
    return {
        "1-NN error %": curve.curve[-1][1],
        "T(12)": metrics.trustworthiness(X_test, Y_test, 12),
        "KL": metrics.mean_kl_divergence(encoder, fixed),
        "PFLOP": curve.done / 1e15,
        "fine-tuning s": seconds,
        "curve": curve.curve,
    }


def table(arms: dict[str, dict[str, Any]]) -> str:
    """One line an arm."""
    lines = ["| units | start | trained by | 1-NN error % | T(12) | KL | TFLOP | fine-tuning, s |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, found in arms.items():
        labels = " | ".join(NAMES.get(part, part) for part in name.split(":")[1:])
        lines.append(
            f"| {labels} | {found['1-NN error %']:.2f} | {found['T(12)']:.3f} | {found['KL']:.3f} "
            f"| {1000 * found['PFLOP']:.0f} | {found['fine-tuning s']:.0f} |"
        )
    return "\n".join(lines)


def figure(arms: dict[str, dict[str, Any]], file: Path) -> None:
    """1-NN error of the test rows against training operations, a curve an arm."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
    ticks = (10, 15, 20, 30, 40, 60, 80)
    colours = {"rbm": "tab:blue", "none": "tab:orange"}
    for axis, activation in zip(axes, RATES, strict=True):
        for name, found in arms.items():
            _, units, start, optimizer = name.split(":")
            if units == activation:
                x, y = np.transpose(found["curve"])
                label = f"{NAMES[start]}, {NAMES[optimizer]}"
                style = "-" if optimizer == "cg" else "--"
                axis.plot(x / 1e12, y, style, color=colours[start], label=label)
        title = f"{NAMES.get(activation, activation)} units"
        axis.set(title=title, xlabel="training operations, TFLOP", yscale="log")
        axis.set_yticks(ticks, [f"{tick}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("1-NN error of test rows, %")
    axes[1].legend(
        frameon=False, title="start, trained by", loc="center left", bbox_to_anchor=(1, 0.5)
    )
    figure.savefig(file, dpi=100)
    plt.close(figure)
