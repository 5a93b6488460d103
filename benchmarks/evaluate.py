"""Seconds and memory of `evaluation.evaluate` on MNIST's 60,000 + 10,000 rows of 784 columns.

    python benchmarks/evaluate.py [--data fashion] [--epochs 2] [--sample 0]

The map comes from a short fit, since only the evaluation is timed. `--sample 0` finds the
neighbours of all rows.
"""

import argparse
import resource
import threading
import time
from pathlib import Path

import data

from ptsne_keras import ParametricTSNE, evaluation


class Peak:
    """The peak memory of this process inside a `with` block."""

    def __enter__(self) -> "Peak":
        self.start = self.most = resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, resident())


def resident() -> int:
    """Return the memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    """Fit, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="mnist", choices=data.NAMES)
    parser.add_argument("--epochs", type=int, default=2, help="of the fit (default: 2)")
    parser.add_argument("--sample", type=int, default=10_000, help="0 for all (default: 10000)")
    options = parser.parse_args()
    (X, labels), (X_test, labels_test) = data.load(options.data)
    tsne = ParametricTSNE(epochs=options.epochs, random_state=0).fit(X)
    start, work = time.perf_counter(), time.process_time()
    with Peak() as peak:
        results = evaluation.evaluate(
            tsne,
            X,
            X_test,
            labels=labels,
            labels_test=labels_test,
            sample_size=options.sample or None,
        )
    print(evaluation.table(results))
    seconds, work = time.perf_counter() - start, time.process_time() - work
    print(f"\n{seconds:.0f} s, {work:.0f} s of processor time")
    rows = (X.nbytes + X_test.nbytes) / 1e9
    print(
        f"{peak.most / 1e9:.2f} GB at most, {peak.start / 1e9:.2f} before; "
        f"{rows:.2f} of which are the rows"
    )


if __name__ == "__main__":
    main()
