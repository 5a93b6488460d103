"""Which library finds the neighbours: recall against seconds, on the shapes that matter.

    python benchmarks/neighbors.py [--shapes 60000x784 500000x128] [--json neighbors.json]

Each library runs in an environment of its own under benchmarks/venvs, each search in a process of
its own, k = 45 neighbours of every row of the set itself, all threads. 60,000 × 784 are MNIST's
pixels; 500,000 × 128 are MNIST, distorted and projected (see `scaling.py`). Recall is over 1,000
rows against exact search. Seconds are of building and of searching all rows, the first call
included, since that is what a fit waits for.
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

K = 45
LIBRARIES = {
    "faiss exact": "faiss-cpu==1.15.1",
    "faiss inverted file": "faiss-cpu==1.15.1",
    "faiss HNSW": "faiss-cpu==1.15.1",
    "pynndescent": "pynndescent",
    "hnswlib": "hnswlib",
    "usearch": "usearch",
}
CHILD = """
import resource, sys, time
import numpy as np
name, folder, k = sys.argv[1], sys.argv[2], int(sys.argv[3])
X = np.load(folder + "/X.npy")
n, d = X.shape
start = time.perf_counter()
if name.startswith("faiss"):
    import faiss
    if name == "faiss exact":
        index = faiss.IndexFlatL2(d)
    elif name == "faiss HNSW":
        index = faiss.IndexHNSWFlat(d, 16)
        index.hnsw.efConstruction, index.hnsw.efSearch = 80, 64
    else:
        cells = int(2 * n**0.5)
        flat = faiss.IndexFlatL2(d)
        index = faiss.IndexIVFFlat(flat, d, cells)
        index.cp.max_points_per_centroid = 64
        index.nprobe = 48
        index.train(X)
    index.add(X)
    found = index.search(X, k + 1)[1]
elif name == "pynndescent":
    from pynndescent import NNDescent
    found = NNDescent(X, n_neighbors=k + 1, random_state=0).neighbor_graph[0]
elif name == "hnswlib":
    import hnswlib
    index = hnswlib.Index("l2", d)
    index.init_index(n, M=16, ef_construction=80)
    index.add_items(X)
    index.set_ef(64)
    found = index.knn_query(X, k + 1)[0]
else:
    from usearch.index import Index
    index = Index(ndim=d, metric="l2sq", connectivity=16, expansion_add=80, expansion_search=64)
    index.add(np.arange(n), X)
    found = index.search(X, k + 1).keys
seconds = time.perf_counter() - start
np.savez(folder + "/out.npz", found=found, seconds=seconds,
         peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def rows(shape: str) -> Any:
    """Make the rows of a shape such as 500000x128."""
    n, features = (int(number) for number in shape.split("x"))
    if features == 784:
        return data.load("mnist")[0][0][:n]
    return scaling.rows(n, features)


def measure(library: str, X: Any) -> dict[str, float]:
    """Search with one library in a process of its own."""
    sample = np.random.default_rng(0).choice(len(X), 1000, replace=False)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "X.npy", X)
        package = LIBRARIES[library]
        python = kept.python(package.split("==")[0], [[package, "numpy"]])
        subprocess.run([python, "-c", CHILD, library, folder, str(K)], check=True)
        with np.load(Path(folder) / "out.npz") as out:
            found, seconds, peak = out["found"][sample], float(out["seconds"]), float(out["peak"])
    shares = []
    for i, row in zip(sample, found, strict=True):
        D2 = np.square(X - X[i]).sum(axis=1)
        D2[i] = np.inf
        others = row[row != i][:K]
        shares.append(len(np.intersect1d(np.argpartition(D2, K)[:K], others)) / K)
    return {"recall": float(np.mean(shares)), "seconds": seconds, "peak GB": peak}


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["60000x784", "500000x128"])
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES), choices=list(LIBRARIES))
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    results = []
    print("| rows × columns | library | recall | s | peak GB |\n|---|---|---|---|---|")
    for shape in options.shapes:
        X = rows(shape)
        for library in options.libraries:
            result = measure(library, X)
            results.append({"shape": shape, "library": library, **result})
            print(
                f"| {shape} | {library} | {result['recall']:.4f} | {result['seconds']:.1f} | "
                f"{result['peak GB']:.1f} |",
                flush=True,
            )
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
