"""Nearest-neighbour libraries: recall against seconds, for the data shapes that matter.

    python benchmarks/neighbors.py [--shapes 60000x784 500000x128] [--libraries …]

Each library has its own environment under benchmarks/venvs, and each search its own process with
all threads: the k = 45 neighbours of every row among the rows themselves. 60,000 × 784 are the
pixels of MNIST; 500,000 × 128 are MNIST, distorted and projected (see `scaling.py`). Recall is
measured on 1,000 rows against exact search. Seconds include building the index, searching all rows,
and the first call, because a fit waits for all three. Results go to benchmarks/results.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import data
import kept
import numpy as np
import scaling

HERE = Path(__file__).parent
RESULTS = HERE / "results"
K = 45
LIBRARIES = {
    "faiss exact": "faiss-cpu==1.15.1",
    "faiss inverted file": "faiss-cpu==1.15.1",
    "faiss HNSW": "faiss-cpu==1.15.1",
    "pynndescent": "pynndescent==0.7.0",
    "hnswlib": "hnswlib==0.8.0",
    "usearch": "usearch==2.26.6",
}


def rows(shape: str) -> Any:
    """Make the rows of a shape such as 500000x128."""
    n, features = (int(number) for number in shape.split("x"))
    if features == 784:
        return data.load("mnist")[0][0][:n]
    return scaling.rows(n, features)


def true_neighbors(X: Any, sample: Any) -> list[Any]:
    """Find the K nearest of a sample of rows, by brute force."""
    found = []
    for i in sample:
        D2 = np.square(X - X[i]).sum(axis=1)
        D2[i] = np.inf
        found.append(np.argpartition(D2, K)[:K])
    return found


def measure(library: str, X: Any, sample: Any, true: list[Any]) -> dict[str, float]:
    """Search with one library in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "X.npy", X)
        package = LIBRARIES[library]
        python = kept.python(package.split("==")[0], [[package, "numpy"]])
        subprocess.run([python, str(HERE / "neighbor.py"), library, folder, str(K)], check=True)
        with np.load(Path(folder) / "out.npz") as out:
            found, seconds, peak = out["found"][sample], float(out["seconds"]), float(out["peak"])
    shares = [
        len(np.intersect1d(row, others[others != i][:K])) / K
        for i, row, others in zip(sample, true, found, strict=True)
    ]
    return {"recall": float(np.mean(shares)), "seconds": seconds, "peak GB": peak}


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["60000x784", "500000x128"])
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES), choices=list(LIBRARIES))
    options = parser.parse_args()
    results = []
    print("| rows × columns | library | recall | s | peak GB |\n|---|---|---|---|---|")
    for shape in options.shapes:
        X = rows(shape)
        sample = np.random.default_rng(0).choice(len(X), min(len(X), 1000), replace=False)
        true = true_neighbors(X, sample)
        for library in options.libraries:
            result = measure(library, X, sample, true)
            results.append({"shape": shape, "library": library, **result})
            name = " ".join([library, LIBRARIES[library].split("==")[1]])
            print(
                f"| {shape} | {name} | {result['recall']:.4f} | {result['seconds']:.1f} | "
                f"{result['peak GB']:.1f} |",
                flush=True,
            )
            kept.write(RESULTS / "neighbors.json", json.dumps(results, indent=1).encode())


if __name__ == "__main__":
    main()
