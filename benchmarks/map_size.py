"""A map of many rows, read from disk: memory and time of `MapRegressor` as N grows.

    python benchmarks/map_size.py [--rows 50000 500000] [--features 128] [--epochs 4]

Each cell is a process of its own; rows are a memory-mapped .npy, clusters in 128 dimensions, and
their places are made of them by a random function and noise. Memory is anonymous memory at most,
beyond what the process held before it read the rows (pages of the mapped file, which the system may
drop at any time, are not counted). The new rows are 10,000 of the file with noise added.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import kept
import numpy as np

OBJECTIVES = ("placement", "squares")
BATCH = 1024
_CLUSTERS = 50


def write(folder: Path, n: int, features: int) -> None:
    """Write n rows and their places in blocks, so that this process holds few of them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(_CLUSTERS, features)) * 2
    directions = rng.normal(size=(_CLUSTERS, 8, features))
    places = rng.normal(size=(_CLUSTERS, 2)) * 40
    turns = rng.normal(size=(_CLUSTERS, 8, 2)) * 2
    X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (n, features))
    Y = np.lib.format.open_memmap(folder / "Y.npy", "w+", np.float32, (n, 2))
    for start in range(0, n, 10_000):
        part = slice(start, min(start + 10_000, n))
        cluster = rng.integers(_CLUSTERS, size=part.stop - start)
        inner = rng.normal(size=(len(cluster), 8))
        X[part] = centres[cluster] + np.einsum("nk,nkf->nf", inner, directions[cluster])
        X[part] += 0.3 * rng.normal(size=(len(cluster), features))
        Y[part] = places[cluster] + np.einsum("nk,nkd->nd", np.tanh(inner), turns[cluster])
        Y[part] += 0.3 * rng.normal(size=(len(cluster), 2))


def one(objective: str, folder: Path, epochs: int) -> dict[str, float]:
    """Fit once; measure."""
    from ptsne_keras import MapRegressor

    options: dict[str, Any] = {"objective": objective, "batch_size": BATCH, "random_state": 0}
    X = np.load(folder / "X.npy", mmap_mode="r")
    rng = np.random.default_rng(0)
    warm = rng.normal(size=(2000, X.shape[1])).astype(np.float32)
    warmed = MapRegressor(epochs=1, **options).fit(warm, warm[:, :2])
    warmed.transform(warm)  # what TensorFlow takes by itself
    new = X[:: len(X) // 10_000][:10_000]
    new = new + 0.3 * rng.normal(size=new.shape).astype(np.float32)
    with kept.Memory() as memory:
        start = time.perf_counter()
        regressor = MapRegressor(epochs=epochs, **options).fit(X, np.load(folder / "Y.npy"))
        fitted = time.perf_counter()
        regressor.transform(new)
        placed = time.perf_counter()
    return {
        "MB": memory.most / 1e6,
        "fit s": fitted - start,
        "10,000 rows s": placed - fitted,
        "r held out": min(regressor.correlation_["held_out"]),
    }


def main() -> None:
    """Measure all cells and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 500_000])
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4, help="of squares")
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES, choices=OBJECTIVES)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one[0], Path(options.one[1]), options.epochs)))
        return
    print("| objective | rows | MB beyond TensorFlow's | fit, s | 10,000 rows, s | r held out |")
    print("|---|---|---|---|---|---|")
    for n in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), n, options.features)
            for objective in options.objectives:
                command = [sys.executable, __file__, "--one", objective, folder]
                command += ["--epochs", str(options.epochs)]
                out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                cell = json.loads(out.splitlines()[-1])
                print(
                    f"| {objective} | {n:,} | {cell['MB']:.0f} | {cell['fit s']:.0f} "
                    f"| {cell['10,000 rows s']:.1f} | {cell['r held out']:.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
