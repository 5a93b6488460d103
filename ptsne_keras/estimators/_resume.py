"""What a stopped fit of `ParametricTSNE` goes on from, and whether it may."""

import copy
import warnings
import zlib
from typing import Any, TypeAlias

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ptsne_keras.affinities.neighbors import Neighbors
from ptsne_keras.estimators import _encoders, _fit_stages, _persistence
from ptsne_keras.estimators._settings import Settings
from ptsne_keras.estimators.scoring import scored_rows

# Parameters that do not change what a fit computes, or that JSON cannot hold.
_NOT_COMPARED = ("encoder", "decoder", "n_jobs", "random_state", "verbose")


Given: TypeAlias = dict[str, int | None]
"""Fingerprints of what a fit is given beside its rows."""


def take(tsne: Any, settings: Settings, X: Any, given: Given, found: _fit_stages.Fitted) -> None:
    """Set the attributes of a fit to X, finished or not."""
    tsne._settings, tsne.decoder_ = settings, None
    tsne.network_, tsne.dof_, tsne.history_, left, placed = found
    tsne._left = left and left._replace(parameters=compared(tsne) | given)
    if placed is None:
        tsne.encoder_, tsne._placer = tsne.network_, None
        tsne.embedding_ = _encoders.mapped(tsne.network_, X)
    else:
        tsne.encoder_, tsne.embedding_, tsne._placer = placed
    tsne.kl_divergence_ = scored_rows(tsne, X).divergence(tsne.embedding_, tsne.dof_)


def keep(
    tsne: Any, settings: Settings, X: Any, given: Given, folder: Any, found: _fit_stages.Fitted
) -> None:
    """Save an unfinished fit to X; training goes on if that fails."""
    unfinished = copy.copy(tsne)
    try:
        take(unfinished, settings, X, given, found)
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


def fingerprints(neighbors: Neighbors | None, codes: Any) -> Given:
    """Return numbers that tell given neighbours, and given classes, from others."""
    found: Given = {"neighbors": None, "y": None}
    if neighbors is not None:
        distances = neighbors.distances.astype("f4")
        found["neighbors"] = zlib.crc32(neighbors.indices.tobytes() + distances.tobytes())
    if codes is not None:
        found["y"] = zlib.crc32(codes.astype("i8").tobytes())
    return found


def check_same(tsne: Any, X: Any, given: Given, chosen: Any) -> None:
    """Raise unless the rows, and what is given with them, are those of the unfinished fit.

    X are those to learn from, `chosen` their indices among more, or None.
    """
    for name, value in given.items():
        if tsne._left.parameters.get(name, value) != value:
            raise ValueError(
                f"{name} should be those of the unfinished fit, or None as then. "
                f"Received: {'none' if value is None else 'others'}."
            )
    if tsne._placer is not None:
        known = tsne.encoder_.layers[-1].reference()[0]
        found, size = _encoders.projected(tsne.encoder_, X), np.abs(known).max()
    else:
        known = tsne.embedding_
        if chosen is not None and chosen[-1] < len(known):
            known = known[chosen]
        found, size = _encoders.mapped(tsne.network_, X), np.ptp(known)
    same = found.shape == known.shape and np.allclose(found, known, atol=1e-3 * size)
    if not same:
        raise ValueError(
            "X should be the rows of the unfinished fit, in the same order. "
            f"Received: {X.shape[0]} other rows to learn from; the fit has {len(known)}."
        )
