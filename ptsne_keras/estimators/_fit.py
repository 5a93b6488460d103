"""A fit of `ParametricTSNE`: rows checked and drawn, the stages run, all rows placed."""

import contextlib
import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import sklearn

from ptsne_keras.affinities.neighbors import check_neighbors
from ptsne_keras.callbacks.progress import Meter
from ptsne_keras.estimators import _fit_decoder, _fit_stages, _resume
from ptsne_keras.estimators._base import without_retracing_warnings
from ptsne_keras.estimators._encoders import start_of
from ptsne_keras.estimators._settings import resolve
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays, files
from ptsne_keras.utils.labels import class_codes
from ptsne_keras.utils.stopwatch import Stopwatch

_LEAST_ROWS = 4
# Rows placed between two looks at the progress, and the most values of them.
_BLOCK, _NUMBERS = 1 << 18, 1 << 26


def fit(
    tsne: Any,
    X: Any,
    y: Any,
    *,
    resume: bool,
    init: Any,
    neighbors: Any,
    checkpoint: Any,
    embedding_out: Any,
    **options: Any,
) -> None:
    """Fit an estimator to rows [N, D], or go on with its fit."""
    start = _resume.unfinished(tsne) if resume else None
    out = _checked_out(embedding_out, X)
    whole = tsne._checked(X, reset=start is None, least=_LEAST_ROWS)
    n, features = whole.shape
    seed = start.left.seed if start and start.left else tsne._seeds(1)[0]
    chosen = drawn(n, tsne.max_train_rows, seed)
    decoder = _fit_decoder.checked(tsne.decoder, tsne.n_components, features)
    rows = _in_memory(whole, chosen)
    X = tsne._of_metric(rows)
    neighbors, codes = _beside(tsne, y, neighbors, n, chosen)
    given = _resume.fingerprints(neighbors, codes)
    if start:
        _resume.check_same(tsne, X, given, chosen)
    k = None if neighbors is None else neighbors.indices.shape[1]
    settings = resolve(tsne.get_params(), X.shape[0], features, k)
    options |= {"start": start, "neighbors": neighbors, "seed": seed, "verbose": tsne.verbose}
    options |= {"codes": codes, "init": init and start_of(init, settings, features)}
    # X has been checked.
    with sklearn.config_context(assume_finite=True), without_retracing_warnings():
        if checkpoint is not None:
            keep = functools.partial(_resume.keep, tsne, settings, X, given, checkpoint)
            options |= {"keep": keep, "checkpoint": Path(checkpoint).expanduser()}
        found = _fit_stages.fit(X, settings, **options)
        _resume.take(tsne, settings, X, given, found)
        if decoder and tsne._left is None:
            _fit_decoder.fit(tsne, rows, decoder, seed)
        _fit_stages.warn_of_point(tsne.embedding_, settings)
        if chosen is not None or out is not None:
            watch = Stopwatch(tsne.history_["seconds"])
            tsne.embedding_ = _placed(tsne, whole, chosen, out)
            watch.lap("others")
            tsne.history_["seconds"] = watch.seconds


def _beside(tsne: Any, y: Any, neighbors: Any, n: int, chosen: Any) -> tuple[Any, Any]:
    """Return what is given beside n rows: their neighbours, and the classes of those chosen."""
    if neighbors is not None:
        neighbors = check_neighbors(neighbors, n)
        if chosen is not None:
            raise ValueError(
                "max_train_rows should be None with neighbors, which are among all rows. "
                f"Received: {len(chosen)}, below the {n} rows of X."
            )
    codes = class_codes(y, n) if tsne.label_weight else None
    return neighbors, codes if codes is None or chosen is None else codes[chosen]


def drawn(n: int, most: int | None, seed: int) -> npt.NDArray[np.int64] | None:
    """Return the sorted indices of the rows of n to learn from, or None for all."""
    if most is None or n <= most:
        return None
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def _in_memory(X: Any, chosen: Any) -> Any:
    """Return the chosen rows, dense ones as float32."""
    if chosen is not None:
        X = X[chosen]
    return X if scipy.sparse.issparse(X) else np.asarray(X, np.float32)


def _checked_out(out: Any, X: Any) -> Path | None:
    """Return the file that becomes the map of X, or raise unless it can."""
    if out is None:
        return None
    file = Path(out).expanduser()
    if file.suffix != ".npy" or file.is_dir():
        raise ValueError(f"embedding_out should be a file that ends in .npy. Received: {file}.")
    mapped = getattr(X, "filename", None)
    if mapped is not None and file.exists() and file.samefile(mapped):
        raise ValueError(f"embedding_out should not be the file of X. Received: {file}.")
    files.check_writable(file.parent)
    return file


def _placed(tsne: Any, X: Any, chosen: Any, out: Any) -> FloatArray:
    """Return the places [N, d] of all rows: those learned, and others among them."""
    n, known = X.shape[0], tsne.embedding_
    rest = np.ones(n, bool)
    rest[slice(None) if chosen is None else chosen] = False
    meter = Meter("Placing the other rows", n) if tsne.verbose and rest.any() else None
    with _array((n, known.shape[1]), out) as Y:
        Y[~rest] = known
        size = arrays.block_size(X.shape[1], rows=_BLOCK, numbers=_NUMBERS)
        for part in arrays.row_slices(n, size):
            others = np.flatnonzero(rest[part]) + part.start
            if others.size:
                Y[others] = tsne._map(X[others])
            if meter is not None:
                meter.update(part.stop)
        lost = n - int(np.isfinite(Y).all(axis=1).sum())
    if meter is not None:
        meter.close()
    if lost:
        warnings.warn(
            "X should have rows like those that were learned, which have finite places; check "
            f"their units. Received: {lost} rows without one, which are NaN in embedding_.",
            stacklevel=4,
        )
    return Y if out is None else np.load(out, mmap_mode="r")


@contextlib.contextmanager
def _array(shape: tuple[int, ...], out: Any) -> Iterator[FloatArray]:
    """Yield an array to fill, which becomes the .npy file `out` if there is one."""
    if out is None:
        yield np.empty(shape, np.float32)
        return
    with files.replacing(out, make_parents=True) as beside:
        Y = np.lib.format.open_memmap(beside, "w+", np.float32, shape)
        files.allocate(beside)
        yield Y
        Y.flush()
