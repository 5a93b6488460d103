"""Nearest neighbours by faiss: fast for maps; `metrics.ranks` is exact in float64 for measures."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays
from ptsne_keras.utils.validation import check_rows

# Above this many rows the search is approximate, because exact search takes time ∝ N².
_EXACT_ROWS = 20_000
# The approximate search has √N times this many cells, and searches the cells nearest to a row.
_CELLS = 2.0
_PROBES = 24
# Queries farther away than this many times the farthest row, whose squares would overflow, are
# searched from here.
_FARTHEST = 1e12
# Largest number of values held while distances are recomputed from differences.
_BLOCK = 1 << 24


class Neighbors(NamedTuple):
    """The k nearest neighbours of each row, nearest first.

    Attributes
    ----------
    indices : ndarray of shape (n_samples, k)
        Indices of the neighbours. A row is not its own neighbour.
    distances : ndarray of shape (n_samples, k)
        Euclidean distances to them, not squared.

    Examples
    --------
    >>> from sklearn.neighbors import NearestNeighbors
    >>> distances, indices = NearestNeighbors(n_neighbors=45).fit(X).kneighbors()
    >>> dataset = data.from_graph(X, 15, 50, neighbors=Neighbors(indices, distances))
    """

    indices: npt.NDArray[np.int32]
    distances: FloatArray


def nearest(X: Any, k: int, *, exact: bool | None = None, seed: int | None = None) -> Neighbors:
    """Find the k nearest other rows of each row, in Euclidean distance.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows.
    k : int
        Number of neighbours, below `n_samples`.
    exact : bool, default=None
        Whether to search exactly. False uses an inverted file, which finds about 98 % of the true
        neighbours in time ∝ N^1.5. By default exact up to 20,000 rows.
    seed : int, default=None
        Seed of the k-means clustering of the inverted file.

    Returns
    -------
    Neighbors
        Indices int32 and distances float32, both of shape (n_samples, k). Distances are computed
        from differences, so that duplicates are at exactly 0.

    Raises
    ------
    ValueError
        If the rows are not finite and numeric, or k is out of range.

    Examples
    --------
    >>> found = nearest(X, 90)
    >>> found.indices.shape
    (200, 90)

    References
    ----------
    Johnson, Douze & Jégou (2019), Billion-scale similarity search with GPUs.
    """
    X = check_rows(X)
    return Index(X, exact=exact, seed=seed).search(None, k, skip=np.arange(len(X)))


def check_neighbors(given: Any, n: int) -> Neighbors:
    """Return the neighbours [N, k] of N rows that were found elsewhere, or raise.

    Parameters
    ----------
    given : tuple (indices, distances) or sparse matrix of shape (n_samples, n_samples)
        As `Neighbors`; or a matrix of distances, such as scikit-learn's `kneighbors_graph` in mode
        "distance", of which each row keeps as many entries as the row with the fewest has.
    n : int
        N, the number of rows.
    """
    if scipy.sparse.issparse(given):
        given = _from_graph(given, n)
    indices = np.asarray(given[0])
    distances = check_rows(given[1], name="neighbors.distances")
    if indices.shape != distances.shape or len(indices) != n:
        raise ValueError(
            f"neighbors should be indices and distances [N, k] of the N = {n} rows of X. "
            f"Received: shapes {indices.shape} and {distances.shape}."
        )
    if indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= n:
        raise ValueError(
            f"neighbors.indices should be integers from 0 to N - 1 = {n - 1}. "
            f"Received: {indices.dtype} from {indices.min()} to {indices.max()}."
        )
    own = np.flatnonzero((indices == np.arange(n)[:, None]).any(axis=1))
    if own.size:
        raise ValueError(
            "neighbors should not contain a row as its own neighbour: leave that column out. "
            f"Received: {own.size} such rows, the first at index {own[0]}."
        )
    return Neighbors(indices.astype(np.int32, copy=False), distances)


def _from_graph(graph: Any, n: int) -> Neighbors:
    """Return the nearest entries of each row of a sparse matrix of distances, without itself."""
    graph = graph.tocoo()
    if graph.shape != (n, n):
        raise ValueError(
            f"neighbors should be a graph [N, N] of the N = {n} rows of X. "
            f"Received: shape {graph.shape}."
        )
    rows, columns, values = (A[graph.row != graph.col] for A in (graph.row, graph.col, graph.data))
    counts = np.bincount(rows, minlength=n)
    k = int(counts.min())
    if k < 2:
        raise ValueError(
            "neighbors should have two or more entries in each row. "
            f"Received: {k} in row {np.argmin(counts)}."
        )
    order = np.lexsort((values, rows))
    kept = order[(np.cumsum(counts) - counts)[:, None] + np.arange(k)]  # [N, k]
    return Neighbors(columns[kept], values[kept])


class Index:
    """Rows [N, D] that are searched more than once; the arguments are those of `nearest`."""

    def __init__(
        self, X: FloatArray, *, exact: bool | None = None, seed: int | None = None
    ) -> None:
        # Shifted and scaled so that squares neither overflow nor cancel in float32.
        self._shift = np.median(X, axis=0)
        farthest = max((X.max(axis=0) - self._shift).max(), (self._shift - X.min(axis=0)).max())
        self._scale = float(farthest) or 1.0
        self._rows = _scaled(X, self._shift, self._scale)
        exact = len(X) <= _EXACT_ROWS if exact is None else exact
        self._index = _index(self._rows, exact, seed)

    def search(self, Q: FloatArray | None, k: int, *, skip: Any = None) -> Neighbors:
        """Return the k nearest rows of rows Q [n, D], or of its own; `skip` leaves out one each."""
        n, features = self._rows.shape
        most = n - (skip is not None)
        if not 1 <= k <= most:
            bound = "N" if most == n else "N - 1"
            raise ValueError(f"k should be from 1 to {bound} = {most}. Received: {k!r}.")
        if Q is None:
            Q = self._rows
        else:
            Q = np.clip(_scaled(Q, self._shift, self._scale), -_FARTHEST, _FARTHEST)
        indices, D2 = np.empty((len(Q), k), np.int32), np.empty((len(Q), k), np.float32)
        for part in arrays.row_slices(len(Q), arrays.block_size(k * features, numbers=_BLOCK)):
            found = _search(self._index, Q[part], int(k) + (skip is not None))
            if skip is not None:
                found = arrays.without_self(found, skip[part])
            part_D2 = np.square(self._rows[found] - Q[part, None]).sum(axis=2)  # [b, k]
            order = np.argsort(part_D2, axis=1, kind="stable")
            indices[part] = np.take_along_axis(found, order, axis=1)
            D2[part] = np.take_along_axis(part_D2, order, axis=1)
        return Neighbors(indices, np.sqrt(D2) * np.float32(self._scale))


def _scaled(X: FloatArray, shift: FloatArray, scale: float) -> FloatArray:
    X = X - shift
    X /= scale
    return np.ascontiguousarray(X, dtype=np.float32)


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
    index.cp.min_points_per_centroid = 1  # avoids a warning on standard output
    index.train(X)
    index.add(X)
    index.nprobe = min(_PROBES, cells)
    return index


def _search(index: Any, X: FloatArray, k: int) -> npt.NDArray[np.int64]:
    """Return the nearest rows [b, k], searching all cells where the nearest ones hold too few."""
    import faiss

    found = index.search(X, k)[1]
    short = np.flatnonzero((found < 0).any(axis=1))
    if short.size:
        everywhere: Any = faiss.SearchParametersIVF()
        everywhere.nprobe = index.nlist
        found[short] = index.search(X[short], k, params=everywhere)[1]
    return found
