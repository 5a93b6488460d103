"""Search neighbours by one library in the environment this runs in; `neighbors.py` calls it.

    python benchmarks/neighbor.py LIBRARY FOLDER K

Reads FOLDER/X.npy; writes FOLDER/out.npz with the neighbours of all rows (a row is its own first
neighbour), seconds and peak memory. Imports nothing of ptsne_keras.
"""

import sys
import time
from typing import Any

import kept
import numpy as np


def faiss(X: Any, k: int, library: str) -> Any:
    """Search by one of faiss's indices."""
    import faiss

    n, d = X.shape
    if library == "faiss exact":
        index = faiss.IndexFlatL2(d)
    elif library == "faiss HNSW":
        index = faiss.IndexHNSWFlat(d, 16)
        index.hnsw.efConstruction, index.hnsw.efSearch = 80, 64
    else:
        flat = faiss.IndexFlatL2(d)
        index = faiss.IndexIVFFlat(flat, d, int(2 * n**0.5))
        index.cp.max_points_per_centroid = 64
        index.nprobe = 24
        index.train(X)
    index.add(X)
    return index.search(X, k + 1)[1]


def pynndescent(X: Any, k: int) -> Any:
    """Search by nearest-neighbour descent."""
    from pynndescent import NNDescent

    return NNDescent(X, n_neighbors=k + 1, random_state=0).neighbor_graph[0]


def hnswlib(X: Any, k: int) -> Any:
    """Search by hnswlib's graph."""
    import hnswlib

    index = hnswlib.Index("l2", X.shape[1])
    index.init_index(len(X), M=16, ef_construction=80)
    index.add_items(X)
    index.set_ef(64)
    return index.knn_query(X, k + 1)[0]


def usearch(X: Any, k: int) -> Any:
    """Search by usearch's graph."""
    from usearch.index import Index

    index = Index(
        ndim=X.shape[1], metric="l2sq", connectivity=16, expansion_add=80, expansion_search=64
    )
    index.add(np.arange(len(X)), X)
    return index.search(X, k + 1).keys


SEARCHES = {"pynndescent": pynndescent, "hnswlib": hnswlib, "usearch": usearch}


def main() -> None:
    """Search, and write what was found."""
    library, folder, k = sys.argv[1], sys.argv[2], int(sys.argv[3])
    X = np.load(f"{folder}/X.npy")
    start = time.perf_counter()
    found = faiss(X, k, library) if library.startswith("faiss") else SEARCHES[library](X, k)
    seconds = time.perf_counter() - start
    np.savez(f"{folder}/out.npz", found=found, seconds=seconds, peak=kept.peak_gigabytes())


if __name__ == "__main__":
    main()
