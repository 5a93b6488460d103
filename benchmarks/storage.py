"""How an index of reference rows may be stored and searched: bytes, seconds and recall.

    python benchmarks/storage.py [--rows 1000000 10000000] [--keep FOLDER]

The reference is the 50 principal components of the rows of `scaling.py`, in an inverted file with
as many cells as the package makes; queries are rows of its pictures under other distortions. Recall
is the part of the true 15 nearest rows that is found for the first 1,000 of 131,072 queries, and
rows a second are the median of three searches with their range. The first two lines are one index:
the package searches it cell by cell where that pays, faiss query by query, of which 16,384 are
enough to know its pace.
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kept
import numpy as np
import scaling
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from ptsne_keras.affinities import neighbors

RESULTS = Path(__file__).parent / "results"
_COMPONENTS, _K, _QUERIES, _EACH, _LOOKED_UP, _CANDIDATES = 50, 15, 1 << 17, 1 << 14, 1000, 4
# faiss's names; of the codes of product quantisation, four times k are ranked by their rows.
STORAGE = {"float16": "SQfp16", "8 bits": "SQ8", "50 codes of 4 bits": "PQ50x4fs,RFlat"}


def searches(Z: Any, seed: int = 0) -> Any:
    """Yield a name, a search of queries for indices, their number, bytes a row, and seconds."""
    import faiss

    start = time.perf_counter()
    index = neighbors.Index(Z, exact=False, seed=seed)
    built, flat = time.perf_counter() - start, 4 * _COMPONENTS
    yield "float32, cell by cell", lambda Q: index.search(Q, _K).indices, _QUERIES, flat, built

    def each(Q: Any) -> Any:
        return index._index.search(neighbors._scaled(Q, index._shift, index._scale), _K)[1]

    yield "float32", each, _EACH, flat, built
    for name, code in STORAGE.items():
        start = time.perf_counter()
        other = faiss.index_factory(_COMPONENTS, f"IVF{index._index.nlist},{code}")
        inverted = faiss.extract_index_ivf(other)
        inverted.cp.max_points_per_centroid, inverted.cp.min_points_per_centroid = 64, 1
        other.train(Z)
        other.add(Z)
        inverted.nprobe = neighbors._PROBES
        size = inverted.code_size
        if "RFlat" in code:
            other.k_factor, size = _CANDIDATES, size + flat
        yield name, functools.partial(_found, other), _EACH, size, time.perf_counter() - start


def _found(index: Any, Q: Any) -> Any:
    return index.search(Q, _K)[1]


def measured(search: Callable[[Any], Any], Q: Any, true: Any) -> dict[str, Any]:
    """Return recall and rows a second of a search."""
    found, rates = search(Q[:_LOOKED_UP]), []
    for _ in range(3):
        start = time.perf_counter()
        found = search(Q)
        rates.append(len(Q) / (time.perf_counter() - start))
    common = [len(np.intersect1d(*pair)) for pair in zip(true, found[: len(true)], strict=True)]
    return {"recall": float(np.mean(common)) / _K, "rows/s": statistics.median(rates)} | {
        "range": [min(rates), max(rates)]
    }


def components(n: int, folder: Path) -> tuple[Any, Any]:
    """Return the components of n rows, and those of the queries."""
    file = folder / f"rows_{n}.npy"
    if not file.exists():
        out = np.lib.format.open_memmap(file, "w+", np.float32, (n, 128))
        scaling.rows(n, out=out).flush()
    X = np.load(file, mmap_mode="r")
    pca = PCA(_COMPONENTS, random_state=0).fit(X[:: max(1, n // 50_000)])
    Z = np.empty((n, _COMPONENTS), np.float32)
    for start in range(0, n, _QUERIES):
        Z[start : start + _QUERIES] = pca.transform(X[start : start + _QUERIES])
    return Z, np.float32(pca.transform(scaling.rows(_QUERIES, seed=1)))


def main() -> None:
    """Measure each way of storage, for each number of rows, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[10**6, 10**7])
    parser.add_argument("--keep", type=Path, help="a folder for the rows")
    options = parser.parse_args()
    results = []
    print("| rows | stored as | bytes a row | built in s | recall(15) | rows/s |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for n in options.rows:
            Z, Q = components(n, options.keep or Path(scratch))
            exact = NearestNeighbors(n_neighbors=_K, algorithm="brute").fit(Z)
            true = exact.kneighbors(Q[:_LOOKED_UP], return_distance=False)
            for name, search, queries, size, built in searches(Z):
                found = measured(search, Q[:queries], true)
                results.append({"rows": n, "stored as": name, "bytes": size, **found})
                low, high = found["range"]
                print(
                    f"| {n:,} | {name} | {size:.0f} | {built:.0f} | {found['recall']:.3f} "
                    f"| {found['rows/s']:,.0f} ({low:,.0f}-{high:,.0f}) |",
                    flush=True,
                )
                kept.write(RESULTS / "storage.json", json.dumps(results, indent=1).encode())


if __name__ == "__main__":
    main()
