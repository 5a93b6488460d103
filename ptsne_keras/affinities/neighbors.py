"""k nearest neighbours of rows, by faiss: exact for small sets, approximate for large ones."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import validation

# Above this many rows the search is approximate: exact search takes time ∝ N².
_EXACT_ROWS = 100_000
# Of the approximate search: √N times this many cells, each row compared with the rows of the
# nearest so many.
_CELLS = 2.0
_PROBES = 24
# Numbers held at a time while distances are computed again from differences.
_BLOCK = 1 << 24


class Neighbors(NamedTuple):
    """The k nearest neighbours of N rows, nearest first; a row is not its own neighbour.

    Examples
    --------
    >>> from sklearn.neighbors import NearestNeighbors
    >>> distances, indices = NearestNeighbors(n_neighbors=45).fit(X).kneighbors()
    >>> data = batches.from_graph(X, 15, 50, neighbors=Neighbors(indices, distances))
    """

    indices: npt.NDArray[np.int32]
    """[N, k]"""
    distances: FloatArray
    """[N, k], float32; Euclidean, not squared"""


def nearest(X: Any, k: int, *, exact: bool | None = None, seed: int | None = None) -> Neighbors:
    """Find the k nearest other rows of every row, in Euclidean distance.

    Parameters
    ----------
    X : array [N, D]
        Rows.
    k : int
        From 1 to N - 1.
    exact : bool, optional
        False: by an inverted file, some 0.98 of the true neighbours in time ∝ N^1.5. By default
        exact up to 100,000 rows.
    seed : int, optional
        Of the inverted file's k-means.

    Returns
    -------
    Neighbors
        `indices` [N, k] and `distances` [N, k], from differences, so that duplicates are at 0.

    Raises
    ------
    ValueError
        If X is not finite numeric rows, or k is out of range.

    Examples
    --------
    >>> found = nearest(X, 90)
    >>> found.indices.shape
    (200, 90)

    References
    ----------
    Johnson, Douze & Jégou (2019), Billion-scale similarity search with GPUs; Sivic & Zisserman
    (2003) for the inverted file.
    """
    X, scale = _prepared(validation.check_rows(X))
    n = len(X)
    if not 1 <= k < n:
        raise ValueError(f"k should be from 1 to N - 1 = {n - 1}. Received: {k!r}.")
    index = _index(X, n <= _EXACT_ROWS if exact is None else exact, seed)
    indices = np.empty((n, k), np.int32)
    distances = np.empty((n, k), np.float32)
    step = max(1, _BLOCK // (k * X.shape[1]))
    for start in range(0, n, step):
        part = np.arange(start, min(start + step, n))
        found = _without_self(_search(index, X[part], k + 1), part)
        D2 = np.square(X[found] - X[part, None]).sum(axis=2)  # [b, k]
        order = np.argsort(D2, axis=1, kind="stable")
        indices[part] = np.take_along_axis(found, order, axis=1)
        distances[part] = np.take_along_axis(D2, order, axis=1)
    return Neighbors(indices, np.sqrt(distances) * np.float32(scale))


def _prepared(X: FloatArray) -> tuple[FloatArray, float]:
    """Rows moved and scaled so that float32 squares neither overflow nor cancel; and the scale."""
    X = X - np.median(X, axis=0)
    scale = float(max(X.max(), -X.min())) or 1.0
    X /= scale
    return np.ascontiguousarray(X, dtype=np.float32), scale


def _index(X: FloatArray, exact: bool, seed: int | None) -> Any:
    import faiss

    flat = faiss.IndexFlatL2(X.shape[1])
    if exact:
        flat.add(X)
        return flat
    cells = max(1, int(_CELLS * np.sqrt(len(X))))
    index = faiss.IndexIVFFlat(flat, X.shape[1], cells, faiss.METRIC_L2)
    index.cp.seed = int(np.random.default_rng(seed).integers(1, 2**31 - 1))
    index.cp.max_points_per_centroid = 64  # k-means on a sample: cells need not be optimal
    index.cp.min_points_per_centroid = 1  # else a warning on standard output
    index.train(X)
    index.add(X)
    index.nprobe = min(_PROBES, cells)
    return index


def _search(index: Any, X: FloatArray, k: int) -> npt.NDArray[np.int64]:
    """Find the nearest rows, [b, k]; in all cells, for a row whose few cells hold too few."""
    found = index.search(X, k)[1]
    short = np.flatnonzero((found < 0).any(axis=1))
    if short.size:
        probes, index.nprobe = index.nprobe, index.nlist
        found[short] = index.search(X[short], k)[1]
        index.nprobe = probes
    return found


def _without_self(found: npt.NDArray[np.int64], part: Any) -> npt.NDArray[np.int64]:
    """Drop each row's own index, or the farthest where duplicates have crowded it out."""
    own = found == part[:, None]
    own[~own.any(axis=1), -1] = True
    return found[~own].reshape(len(found), -1)
