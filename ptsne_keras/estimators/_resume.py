"""A fit of `ParametricTSNE`: from its start, or from where it stopped if it may."""

import copy
import functools
import warnings
import zlib
from typing import Any

import numpy as np
import sklearn
from sklearn.utils.validation import check_is_fitted

from ptsne_keras.affinities.neighbors import Neighbors, check_neighbors
from ptsne_keras.callbacks.checkpoint import Unfinished
from ptsne_keras.estimators import _encoders, _fit_decoder, _fit_stages, _persistence
from ptsne_keras.estimators._base import without_retracing_warnings
from ptsne_keras.estimators._encoders import start_of
from ptsne_keras.estimators._settings import Settings, resolve
from ptsne_keras.estimators.scoring import scored_rows
from ptsne_keras.utils.labels import class_codes

# Parameters that do not change what a fit computes, or that JSON cannot hold.
_LEAST_ROWS = 4
_NOT_COMPARED = ("encoder", "decoder", "random_state", "verbose")


def fit(
    tsne: Any,
    X: Any,
    y: Any,
    start: Any,
    init: Any,
    neighbors: Any,
    checkpoint: Any,
    **options: Any,
) -> None:
    """Check rows, and fit to them or go on with a fit."""
    rows = tsne._checked(X, reset=start is None, least=_LEAST_ROWS)
    decoder = _fit_decoder.checked(tsne.decoder, tsne.n_components, rows.shape[1])
    X = tsne._of_metric(rows)
    if neighbors is not None:
        neighbors = check_neighbors(neighbors, X.shape[0])
    if start and start.left:
        check_same_rows(tsne, X, neighbors)
    seed = start.left.seed if start and start.left else tsne._seeds(1)[0]
    k = None if neighbors is None else neighbors.indices.shape[1]
    settings = resolve(tsne.get_params(), X.shape[0], X.shape[1], k)
    options |= {"seed": seed, "verbose": tsne.verbose}
    options["init"] = init and start_of(init, settings, X.shape[1])
    options["codes"] = class_codes(y, X.shape[0]) if tsne.label_weight else None
    # X has been checked.
    with sklearn.config_context(assume_finite=True), without_retracing_warnings():
        if checkpoint is not None:
            options["keep"] = functools.partial(keep, tsne, settings, X, neighbors, checkpoint)
        options |= {"start": start, "neighbors": neighbors}
        take(tsne, settings, X, neighbors, _fit_stages.fit(X, settings, **options))
        if decoder and tsne._left is None:
            _fit_decoder.fit(tsne, rows, decoder, seed)
    _fit_stages.warn_of_point(tsne.embedding_, settings)


def take(tsne: Any, settings: Settings, X: Any, neighbors: Any, found: _fit_stages.Fitted) -> None:
    """Set the attributes of a fit to X, finished or not."""
    tsne._settings, tsne.decoder_ = settings, None
    tsne.network_, tsne.dof_, tsne.history_, left, placed = found
    tsne._left = left and kept(left, tsne, neighbors)
    if placed is None:
        tsne.encoder_, tsne._placer = tsne.network_, None
        tsne.embedding_ = _encoders.mapped(tsne.network_, X)
    else:
        tsne.encoder_, tsne.embedding_, tsne._placer = placed
    tsne.kl_divergence_ = scored_rows(tsne, X).divergence(tsne.embedding_, tsne.dof_)


def keep(
    tsne: Any, settings: Settings, X: Any, neighbors: Any, folder: Any, found: _fit_stages.Fitted
) -> None:
    """Save an unfinished fit to X; training goes on if that fails."""
    unfinished = copy.copy(tsne)
    try:
        take(unfinished, settings, X, neighbors, found)
        unfinished.save(folder)
    except (OSError, ValueError) as error:
        warnings.warn(f"The checkpoint is not up to date: {error}", stacklevel=2)


def unfinished(tsne: Any) -> _fit_stages.Fitted:
    """Return what a stopped fit goes on from, or raise if there is none."""
    check_is_fitted(tsne)
    if tsne._left is None:
        raise ValueError(
            "resume should be False: the fit reached its end, and nothing is left to do. "
            "Received: True."
        )
    now = compared(tsne)
    before = tsne._left.parameters
    changed = sorted(name for name, value in now.items() if before.get(name, value) != value)
    if changed:
        raise ValueError(
            "resume should be used with the parameters that the fit began with. "
            f"Received: another {', '.join(changed)}."
        )
    return _fit_stages.Fitted(tsne.network_, tsne.dof_, tsne.history_, tsne._left)


def compared(tsne: Any) -> dict[str, Any]:
    """Return the parameters that have to be the same when a fit is resumed."""
    return _persistence.parameters(tsne, without=_NOT_COMPARED)


def kept(left: Unfinished, tsne: Any, neighbors: Neighbors | None) -> Unfinished:
    """Return what is left of a fit, with what it has to be resumed with."""
    parameters = compared(tsne) | {"neighbors": fingerprint(neighbors)}
    return left._replace(parameters=parameters)


def fingerprint(neighbors: Neighbors | None) -> int | None:
    """Return a number that tells given neighbours from others."""
    if neighbors is None:
        return None
    return zlib.crc32(neighbors.indices.tobytes() + neighbors.distances.astype("f4").tobytes())


def check_same_rows(tsne: Any, X: Any, neighbors: Neighbors | None = None) -> None:
    """Raise unless the rows are those of the unfinished fit, judged as the model knows them."""
    if tsne._left.parameters.get("neighbors") != fingerprint(neighbors):
        given = "none" if neighbors is None else "others"
        raise ValueError(
            f"neighbors should be those of the unfinished fit, or None as then. Received: {given}."
        )
    same = X.shape[0] == len(tsne.embedding_)
    if same and tsne._placer is not None:
        known = tsne.encoder_.layers[-1].reference()[0]
        found = _encoders.projected(tsne.encoder_, X)
        same = np.allclose(found, known, atol=1e-3 * np.abs(known).max())
    elif same:
        atol = 1e-3 * np.ptp(tsne.embedding_)
        same = np.allclose(_encoders.mapped(tsne.network_, X), tsne.embedding_, atol=atol)
    if not same:
        raise ValueError(
            "X should be the rows of the unfinished fit, in the same order. "
            f"Received: {X.shape[0]} other rows; the fit has {len(tsne.embedding_)}."
        )
