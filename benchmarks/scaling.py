"""Cost of a fit as N grows: seconds per million rows seen, neighbour search, peak memory.

    python benchmarks/scaling.py [--rows 10000 100000 1000000] [--steps 2000]

Rows of 128 features are made from MNIST: all its pictures are moved by up to two pixels, scaled
by up to a tenth, given noise, and projected by a fixed random matrix, again with another shift
and scale until there are enough. Each N is fitted in a process of its own; training takes about
the same number of steps at every N, so that its cost a row seen can be compared. Kept are
benchmarks/results/scaling.json and scaling.png.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import data
import kept
import numpy as np
import scipy.ndimage

RESULTS = Path(__file__).parent / "results"
_BLOCK = 60_000


def rows(n: int, features: int = 128, seed: int = 0) -> Any:
    """Make n rows: distorted MNIST pictures under a random projection, float32."""
    rng = np.random.default_rng(seed)
    images = data.load("mnist")[0][0].reshape(-1, 28, 28)
    matrix = rng.normal(size=(784, features)).astype(np.float32) / math.sqrt(features)
    X = np.empty((n, features), np.float32)
    for start in range(0, n, _BLOCK):
        count = min(_BLOCK, n - start)
        shift, zoom = rng.integers(-2, 3, size=2), rng.uniform(0.9, 1.1, size=2)
        moved = scipy.ndimage.affine_transform(
            images[:count],
            np.diag([1.0, *zoom]),
            offset=[0, *(13.5 * (1 - zoom) - shift)],
            order=1,
        )
        noise = rng.normal(scale=0.05, size=moved.shape).astype(np.float32)
        X[start : start + count] = (moved + noise * (moved > 0)).reshape(count, 784) @ matrix
    return X


def measure(file: str, steps: int) -> dict[str, float]:
    """Fit the rows of a file for about so many steps, in this process."""
    from ptsne_keras import ParametricTSNE

    X = np.load(file)
    n = len(X)
    ParametricTSNE(placement=False, epochs=1).fit(
        X[:100]
    )  # so that what is imported and compiled is there
    before = kept.peak_gigabytes()
    epochs = max(1, round(steps / -(-n // 512)))
    tsne = ParametricTSNE(placement=False, epochs=epochs, random_state=0).fit(X)
    seconds = tsne.history_["seconds"]
    seen = 2 * n * epochs
    return {
        "rows": n,
        "rows GB": X.nbytes / 1e9,
        "project s": seconds["project"],
        "neighbors s": seconds["neighbors"],
        "finetune s": seconds["finetune"],
        "s per million rows seen": seconds["finetune"] / seen * 1e6,
        "peak GB": kept.peak_gigabytes(),
        "peak GB before the fit": before,
    }


def draw(results: list[dict[str, float]], path: Path) -> None:
    """Plot seconds and memory against N."""
    import matplotlib.pyplot as plt

    n = [r["rows"] for r in results]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.loglog(n, [r["neighbors s"] for r in results], "o-", label="neighbour search, s")
    left.loglog(n, [r["s per million rows seen"] for r in results], "s-", label="s / 10⁶ rows seen")
    left.set_xlabel("N")
    left.legend()
    right.semilogx(n, [r["peak GB"] for r in results], "o-", label="peak memory, GB")
    right.semilogx(n, [r["rows GB"] for r in results], "s-", label="the rows themselves, GB")
    right.set_xlabel("N")
    right.legend()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    """Run each N in a process of its own; print, keep and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.steps)))
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    results = []
    for n in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/X.npy"
            np.save(file, rows(n))
            command = [sys.executable, __file__, "--one", file, "--steps", str(options.steps)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(results[-1]), flush=True)
    (RESULTS / "scaling.json").write_text(json.dumps(results, indent=1))
    draw(results, RESULTS / "scaling.png")


if __name__ == "__main__":
    main()
