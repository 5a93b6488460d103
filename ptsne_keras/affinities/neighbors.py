"""Nearest neighbours by faiss: fast for maps; `metrics.ranks` is exact in float64 for measures."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse
from threadpoolctl import threadpool_limits

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays, optional
from ptsne_keras.utils.validation import check_rows

# Above this many rows the search is approximate, because exact search takes time ∝ N².
_EXACT_ROWS = 20_000
# The approximate search has √N times this many cells, and searches the cells nearest to a row.
_CELLS = 2.0
_PROBES = 24
# Queries farther away than this many times the farthest row, whose squares would overflow, are
# searched from here.
_FARTHEST = 1e12
# Largest number of distances, or of differences that they are computed from, held at a time.
_BLOCK = 1 << 22
# Queries searched at a time: cell by cell if so many fall to each cell, and if k is at most this
# part of a cell, so that the nearest cell alone tells which rows of others are worth keeping.
_QUERIES, _OF_A_CELL, _PART = 1 << 16, 100, 1 / 16
# Squared distances below this part of a query's own to the centre of its cell are not told apart
# by differences of squares; others are right up to the factor.
_BLURRED, _ROUNDED = 1e-4, 1.001
_HALF = np.uint64(32)


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
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
        raise ValueError(
            "neighbors should be a tuple (indices, distances) or a sparse matrix of distances. "
            f"Received: {type(given).__name__}{getattr(given, 'shape', '')}."
        )
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
    return _sorted(indices.astype(np.int32, copy=False), distances)


def _sorted(indices: npt.NDArray[np.int32], distances: FloatArray) -> Neighbors:
    """Return neighbours [N, k] with the nearest first, or raise if they cannot be neighbours."""
    if indices.shape[1] < 2:
        raise ValueError("neighbors should be two or more of each row. Received: 1.")
    if distances.min() < 0:
        raise ValueError(
            f"neighbors.distances should be at least 0. Received: {distances.min():.3g}."
        )
    twice = np.flatnonzero((np.diff(np.sort(indices, axis=1), axis=1) == 0).any(axis=1))
    if twice.size:
        raise ValueError(
            "neighbors should contain a neighbour once. "
            f"Received: one twice in {twice.size} rows, the first at index {twice[0]}."
        )
    if (np.diff(distances, axis=1) < 0).any():
        order = np.argsort(distances, axis=1, kind="stable")
        indices = np.take_along_axis(indices, order, axis=1)
        distances = np.take_along_axis(distances, order, axis=1)
    return Neighbors(indices, distances)


def _from_graph(graph: Any, n: int) -> Neighbors:
    """Return the nearest entries of each row of a sparse matrix of distances, without itself."""
    graph = graph.tocoo()
    if graph.shape != (n, n):
        raise ValueError(
            f"neighbors should be a graph [N, N] of the N = {n} rows of X. "
            f"Received: shape {graph.shape}."
        )
    rows, columns, values = (A[graph.row != graph.col] for A in (graph.row, graph.col, graph.data))
    if values.size and (values == 1).all():
        raise ValueError(
            'neighbors should be a graph of distances, such as of mode="distance". '
            "Received: a graph of ones."
        )
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
        optional.check_process()
        # Shifted and scaled so that squares neither overflow nor cancel in float32.
        self._shift = np.median(X, axis=0)
        farthest = max((X.max(axis=0) - self._shift).max(), (self._shift - X.min(axis=0)).max())
        self._scale = float(farthest) or 1.0
        self._rows = _scaled(X, self._shift, self._scale)
        exact = len(X) <= _EXACT_ROWS if exact is None else exact
        self._index = _index(self._rows, exact, seed)

    def search(self, Q: FloatArray | None, k: int, *, skip: Any = None) -> Neighbors:
        """Return the k nearest rows of rows Q [n, D], or of its own; `skip` leaves out one each."""
        n = len(self._rows)
        most = n - (skip is not None)
        if not 1 <= k <= most:
            bound = "N" if most == n else "N - 1"
            raise ValueError(f"k should be from 1 to {bound} = {most}. Received: {k!r}.")
        if Q is None:
            Q = self._rows
        else:
            Q = np.clip(_scaled(Q, self._shift, self._scale), -_FARTHEST, _FARTHEST)
        indices, D2 = np.empty((len(Q), k), np.int32), np.empty((len(Q), k), np.float32)

        def fill(part: slice) -> None:
            own = None if skip is None else skip[part]
            indices[part], D2[part] = self._nearest(Q[part], int(k), own)

        blocks = math.ceil(len(Q) / _QUERIES) or 1
        parts = list(arrays.row_slices(len(Q), math.ceil(len(Q) / blocks) or 1))
        if blocks > 1 and _pays_by_cell(self._index, _QUERIES // 2, k + 1):
            import faiss

            # So that not only the matrix products, half of the work, use as many threads as faiss,
            # which, as they, uses one in each.
            threads, alone = faiss.omp_get_max_threads(), faiss.omp_set_num_threads
            pool = ThreadPoolExecutor(threads, initializer=alone, initargs=(1,))
            with threadpool_limits(1, "blas"), pool:
                list(pool.map(fill, parts))
        else:
            for part in parts:
                fill(part)
        return Neighbors(indices, np.sqrt(D2) * np.float32(self._scale))

    def _nearest(self, Q: FloatArray, k: int, skip: Any) -> tuple[Any, FloatArray]:
        """Return the nearest rows [n, k] of scaled queries, and exact squared distances."""
        found = _search(self._index, Q, k + (skip is not None))
        if skip is not None:
            found = arrays.without_self(found, skip)
        indices, D2 = np.empty((len(Q), k), np.int32), np.empty((len(Q), k), np.float32)
        size = arrays.block_size(found.shape[1] * Q.shape[1], numbers=_BLOCK)
        for part in arrays.row_slices(len(Q), size):
            difference = self._rows[found[part]]
            difference -= Q[part, None]
            part_D2 = np.square(difference, out=difference).sum(axis=2)  # [b, k]
            order = np.argsort(part_D2, axis=1, kind="stable")[:, :k]
            indices[part] = np.take_along_axis(found[part], order, axis=1)
            D2[part] = np.take_along_axis(part_D2, order, axis=1)
        return indices, D2


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
    """Return the nearest rows [b, k or more]; of all cells, where the nearest hold too few."""
    if _pays_by_cell(index, len(X), k):
        found = _by_cell(index, X, k + 1)  # the spare row decides near ties by exact distances
        rest = np.flatnonzero(found[:, -1] < 0)
        if rest.size:
            found[rest] = _search_each(index, X[rest], k + 1)
        return found
    return _search_each(index, X, k)


def _search_each(index: Any, X: FloatArray, k: int) -> npt.NDArray[np.int64]:
    """Return the nearest rows [b, k] by faiss, one query after the other."""
    import faiss

    found = index.search(X, k)[1]
    short = np.flatnonzero((found < 0).any(axis=1))
    if short.size:
        everywhere: Any = faiss.SearchParametersIVF()
        everywhere.nprobe = index.nlist
        found[short] = index.search(X[short], k, params=everywhere)[1]
    return found


def _pays_by_cell(index: Any, n: int, k: int) -> bool:
    """Whether n queries are searched faster cell by cell."""
    if not hasattr(index, "nlist"):
        return False
    return n * index.nprobe >= _OF_A_CELL * index.nlist and k <= _PART * index.ntotal / index.nlist


def _by_cell(index: Any, X: FloatArray, k: int) -> npt.NDArray[np.int64]:
    """Return the nearest rows [b, k], or -1, by one matrix product a cell with all its queries.

    The nearest cell bounds the distance of the k-th neighbour; of the other cells only the rows
    within it are kept, and sorted once at the end.
    """
    n = len(X)
    cells = index.quantizer.search(X, index.nprobe)[1]
    X = np.hstack([X, np.ones((n, 1), X.dtype)])
    # Memory for the distances of one cell and what is within, mapped once.
    space = np.empty(max(_BLOCK, index.ntotal), np.float32)
    marks = np.empty(len(space), bool)
    bound = np.full(n, -np.inf, np.float32)
    for cell, queries in _grouped(cells[:, :1], index):
        D2, own2, _ = _cell_distances(index, cell, X.take(queries, axis=0), space)
        if D2.shape[1] >= k:
            D2.partition(k - 1, axis=1)
            farthest = _ROUNDED * (D2[:, k - 1] + own2)
            bound[queries] = np.where(farthest > _BLURRED * own2, farthest, -np.inf)
    keys, rows = [], []
    for cell, queries in _grouped(cells, index):
        D2, own2, ids = _cell_distances(index, cell, X.take(queries, axis=0), space)
        mark = marks[: D2.size]
        np.less_equal(D2, (bound[queries] - own2)[:, None], out=mark.reshape(D2.shape))
        within = np.flatnonzero(mark)
        query = within // D2.shape[1]
        distance2 = np.maximum(D2.ravel()[within] + own2[query], 0)
        # One key to sort by: the query and, as the bits of a float above zero, the distance.
        keys.append((queries.astype(np.uint64) << _HALF)[query] | distance2.view(np.uint32))
        rows.append(ids.astype(np.int32)[within - query * D2.shape[1]])
    key, row = np.concatenate(keys), np.concatenate(rows)
    order = np.argsort(key)
    count = np.bincount((key >> _HALF).view(np.int64), minlength=n)
    first = np.cumsum(count) - count
    found = np.full((n, k), -1, np.int64)
    whole = np.flatnonzero(count >= k)
    found[whole] = row[order[first[whole, None] + np.arange(k)]]
    return found


def _grouped(cells: npt.NDArray[np.int64], index: Any) -> Iterator[tuple[int, Any]]:
    """Yield each cell and queries that search it, of the cells [n, probes] of the queries."""
    flat = cells.ravel()
    order = np.argsort(flat, kind="stable") // cells.shape[1]
    ends = np.cumsum(np.bincount(flat))
    for cell in np.flatnonzero(np.diff(ends, prepend=0)):
        queries = order[ends[cell - 1] if cell else 0 : ends[cell]]
        size = arrays.block_size(index.invlists.list_size(int(cell)), numbers=_BLOCK)
        for part in arrays.row_slices(len(queries), size):
            yield int(cell), queries[part]


def _cell_distances(
    index: Any, cell: int, Q: FloatArray, space: FloatArray
) -> tuple[FloatArray, FloatArray, Any]:
    """Return ‖r‖² - 2 qᵀr [b, m] for the rows of a cell, ‖q‖² [b] and ids, all around its centre.

    There squares cancel least. The last column of the queries is 1: one product does all. The first
    are in `space`, and the queries are shifted.
    """
    from faiss.contrib.inspect_tools import get_invlist

    ids, codes = get_invlist(index.invlists, cell)
    centre = index.quantizer.reconstruct(cell)
    around = Q[:, :-1]
    around -= centre
    R = codes.view(np.float32).reshape(len(ids), index.d) - centre
    R2 = np.einsum("md,md->m", R, R)
    R *= -2
    D2 = space[: len(Q) * len(R)].reshape(len(Q), len(R))
    np.matmul(Q, np.column_stack([R, R2]).T, out=D2)
    return D2, np.einsum("bd,bd->b", around, around), ids
