"""What a fit along the neighbour graph needs: the graph, optimizer, compilation, freed rows."""

import contextlib
import math
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ptsne_keras import affinities, training
from ptsne_keras.affinities.neighbors import Index, Neighbors
from ptsne_keras.affinities.perplexity import several
from ptsne_keras.callbacks.progress import Meter
from ptsne_keras.estimators import _placer
from ptsne_keras.estimators._settings import SEARCH_DIMS, Settings
from ptsne_keras.training import descent
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import files, pca

# The weights are averaged over about this part of the steps, the last ones.
_AVERAGED = 1 / 16
# The fewest steps for which XLA's compilation, which takes seconds, pays.
_COMPILED = 1000
# The most steps in one call from Python.
_STEPS_PER_CALL = 64
# Short epochs, which cost more to start and end than to run, are joined as long as the curve keeps
# this many points.
_CURVE = 100
# Steps of the freed rows.
_STEPS = 250
# Seconds of a search whose neighbours a checkpoint keeps, which takes 0.1 s at 60,000 rows.
_LONG_SEARCH = 10.0
# Partners of each labelled row that are drawn from its class.
_PARTNERS = 15


@dataclass(frozen=True)
class Graph:
    """The neighbour graph of the rows, and what finds the neighbours of others."""

    Z: FloatArray
    """[N, m], the principal components that neighbours are sought by"""
    reduced: pca.Projection
    index: Index
    neighbors: Neighbors
    P: FloatArray
    """[N, k], the conditional probabilities over these neighbours"""


def graph(
    X: Any,
    rows: FloatArray,
    reduced: pca.Projection | None,
    settings: Settings,
    seed: int,
    neighbors: Neighbors | None = None,
    codes: Any = None,
    checkpoint: Path | None = None,
) -> Graph:
    """Return the graph of the 3 · perplexity nearest neighbours of each row, or of those given.

    A folder for a `checkpoint` keeps neighbours whose search takes long.
    """
    perplexity = settings.perplexity
    n, largest = len(rows), max(several(perplexity))
    if neighbors is None and not largest < n - 1:
        raise ValueError(f"perplexity should be below N - 1 = {n - 1}. Received: {perplexity!r}.")
    if reduced is None:
        reduced = pca.principal_components(X, min(SEARCH_DIMS, *X.shape), seed=seed)
        Z = reduced.apply(X)
    else:
        reduced, Z = reduced.first(SEARCH_DIMS), np.ascontiguousarray(rows[:, :SEARCH_DIMS])
    index = _placer.index_of(Z)
    found = neighbors or _searched(index, Z, _count(settings, n), checkpoint)
    P = affinities.neighbor_probabilities(found.distances, perplexity)
    whole = Graph(Z, reduced, index, found, P)
    return whole if codes is None else with_labels(whole, codes, settings.label_weight, seed)


def _searched(index: Index, Z: FloatArray, k: int, checkpoint: Path | None) -> Neighbors:
    """Return the neighbours of the rows Z, from a checkpoint if it has those of these rows."""
    everything = np.arange(len(Z))
    if checkpoint is None:
        return index.search(None, k, skip=everything)
    file, key = checkpoint / "neighbors.npz", zlib.crc32(Z.data)
    with contextlib.suppress(Exception), np.load(file, allow_pickle=False) as kept:
        if kept["key"] == key and kept["indices"].shape == (len(Z), k):
            return Neighbors(kept["indices"], kept["distances"])
    start = time.monotonic()
    found = index.search(None, k, skip=everything)
    if time.monotonic() - start >= _LONG_SEARCH:
        with (
            contextlib.suppress(OSError),  # as a full disk, of which the next checkpoint warns
            files.replacing(file, make_parents=True) as beside,
        ):
            np.savez(beside, key=key, indices=found.indices, distances=found.distances)
    return found


def freed(
    Y: FloatArray, index: Index, old: int, settings: Settings, dof: float, verbose: int
) -> FloatArray:
    """Return the map Y of the rows of an index with those from number `old` on freed."""
    n, d = Y.shape
    if d > descent.TREE_DIMS:
        raise ValueError(f"refine_new should be False for a map of {d} dimensions. Received: True.")
    near = index.search(None, _count(settings, n), skip=np.arange(n))
    P = affinities.neighbor_probabilities(near.distances, settings.perplexity)
    return refine(Y, near, P, settings, dof, verbose, free=np.arange(n) >= old)[0]


def _count(settings: Settings, n: int) -> int:
    """Return the number of neighbours of each of n rows that P is over."""
    return min(math.ceil(3 * max(several(settings.perplexity))), n - 1)


def with_labels(graph: Graph, codes: Any, weight: float, seed: int) -> Graph:
    """Return the graph with partners of the same class, of codes [N], -1 for rows without one.

    Edges between classes lose the weight, and so much goes to partners drawn from the class.
    """
    indices, P = graph.neighbors.indices, graph.P
    known = codes >= 0
    if not known.any():
        return graph
    differ = known[:, None] & known[indices] & (codes[:, None] != codes[indices])
    kept = P * np.where(differ, 1 - weight, 1)
    total = kept.sum(axis=1, keepdims=True)
    P = np.where(total > 0, kept / np.where(total > 0, total, 1), P)
    # Rows in the order of their classes, so that a class is a range of them.
    rows = np.flatnonzero(known)
    rows = rows[np.argsort(codes[rows], kind="stable")]
    size = np.bincount(codes[rows])
    start, size = (np.cumsum(size) - size)[codes[rows]], size[codes[rows]]
    own = np.arange(len(rows)) - start
    drawn = np.random.default_rng(seed).integers(
        np.maximum(size - 1, 1)[:, None], size=(len(rows), _PARTNERS)
    )
    drawn += drawn >= own[:, None]  # not itself
    partners = np.repeat(indices[:, :1], _PARTNERS, axis=1)
    partners[rows] = rows[start[:, None] + np.minimum(drawn, size[:, None] - 1)]
    w = np.zeros((len(codes), 1), np.float32)
    w[rows, 0] = weight * (size > 1)
    near = Neighbors(
        np.concatenate([indices, partners], axis=1, dtype=np.int32),
        np.pad(graph.neighbors.distances, ((0, 0), (0, _PARTNERS)), mode="edge"),
    )
    shares = np.repeat(w / _PARTNERS, _PARTNERS, axis=1)
    return replace(graph, neighbors=near, P=np.concatenate([(1 - w) * P, shares], axis=1))


def refine(
    Y: FloatArray,
    neighbors: Neighbors,
    P: FloatArray,
    settings: Settings,
    dof: float,
    verbose: int,
    free: Any = None,
) -> tuple[FloatArray, dict[str, Any]]:
    """Return the freed rows of a map, and the curve of KL(P||Q) over the graph."""
    curve: dict[str, list[float]] = {"steps": [], "loss": []}
    meter = Meter("Stage 4, freeing the rows", _STEPS * len(Y)) if verbose else None

    def show(steps: int, loss: float) -> None:
        curve["steps"].append(steps)
        curve["loss"].append(float(loss))
        if meter is not None:
            meter.update(steps * len(Y), f"KL {loss:.3f}")

    options: dict[str, Any] = {"dof": dof, "iterations": _STEPS, "free": free, "callback": show}
    found = training.refine(Y, neighbors, P, exaggeration=settings.exaggeration, **options)
    if meter is not None:
        meter.close()
    return found, curve


def joined(batches: int, epochs: int) -> int:
    """Return how many passes over the rows make one epoch of Keras: a divisor of `epochs`."""
    most = min(_STEPS_PER_CALL // batches, epochs // _CURVE)
    return max((p for p in range(1, most + 1) if epochs % p == 0), default=1)


def optimizer(given: Any, learning_rate: float, steps: int) -> keras.optimizers.Optimizer:
    """Return the given optimizer, or an Adam whose weights are averaged over the last steps."""
    if given != "adam":
        return fresh(given)
    momentum = max(0.0, 1 - 1 / (_AVERAGED * steps))
    return keras.optimizers.Adam(learning_rate, use_ema=True, ema_momentum=momentum)


def fresh(optimizer: Any) -> Any:
    """Return an optimizer like this one, without its state, so that every fit starts alike."""
    if isinstance(optimizer, str):
        return optimizer
    try:
        copied = type(optimizer).from_config(optimizer.get_config())
    except Exception as error:
        raise ValueError(
            "optimizer should be one that Keras can rebuild from its configuration: give numbers "
            f"or a LearningRateSchedule. Received: {optimizer.name!r}; {error}"
        ) from error
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(optimizer, name):  # missing from the configuration
            setattr(copied, name, getattr(optimizer, name))
    return copied


def compilation(steps: int, epochs: int) -> dict[str, Any]:
    """Return the options of `training.finetune` for this many steps per epoch."""
    # What is cheapest to trace. Other backends than TensorFlow would run every operation by itself.
    if steps * epochs < _COMPILED and keras.backend.backend() == "tensorflow":
        return {"jit_compile": False, "steps_per_execution": 1}
    divisor = max(s for s in range(1, _STEPS_PER_CALL + 1) if steps % s == 0)
    return {"jit_compile": True, "steps_per_execution": divisor}
