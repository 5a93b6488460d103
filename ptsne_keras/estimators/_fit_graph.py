"""What a fit along the neighbour graph needs: the graph, optimizer, compilation, freed rows."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ptsne_keras import affinities, training
from ptsne_keras.affinities.neighbors import Index, Neighbors
from ptsne_keras.affinities.perplexity import several
from ptsne_keras.callbacks.progress import Meter
from ptsne_keras.estimators import _placer
from ptsne_keras.estimators._settings import SEARCH_DIMS, Settings
from ptsne_keras.typing import FloatArray, Perplexity
from ptsne_keras.utils import pca

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


@dataclass(frozen=True)
class Graph:
    """The neighbour graph of the rows, and what finds the neighbours of others."""

    Z: FloatArray
    """[N, m], the principal components that neighbours are sought by"""
    reduced: pca.Projection
    index: Index
    neighbors: Neighbors


def graph(
    X: Any,
    rows: FloatArray,
    reduced: pca.Projection | None,
    perplexity: Perplexity,
    seed: int,
    neighbors: Neighbors | None = None,
) -> Graph:
    """Return the graph of the 3 · perplexity nearest neighbours of each row, or of those given."""
    n, largest = len(rows), max(several(perplexity))
    if neighbors is None and not largest < n - 1:
        raise ValueError(f"perplexity should be below N - 1 = {n - 1}. Received: {perplexity!r}.")
    if reduced is None:
        reduced = pca.principal_components(X, min(SEARCH_DIMS, *X.shape), seed=seed)
        Z = reduced.apply(X)
    else:
        reduced, Z = reduced.first(SEARCH_DIMS), np.ascontiguousarray(rows[:, :SEARCH_DIMS])
    index = _placer.index_of(Z)
    k = min(math.ceil(3 * largest), n - 1)
    return Graph(Z, reduced, index, neighbors or index.search(None, k, skip=np.arange(n)))


def refine(
    Y: FloatArray, graph: Graph, settings: Settings, dof: float, verbose: int
) -> tuple[FloatArray, dict[str, Any]]:
    """Return the freed rows of a map, and the curve of KL(P||Q) over the graph."""
    with warnings.catch_warnings():
        # Where steps follow the graph, they have warned of duplicates.
        warnings.simplefilter("ignore" if settings.sampling == "graph" else "default")
        P = affinities.neighbor_probabilities(graph.neighbors.distances, settings.perplexity)
    curve: dict[str, list[float]] = {"steps": [], "loss": []}
    meter = Meter("Stage 4, freeing the rows", _STEPS * len(Y)) if verbose else None

    def show(steps: int, loss: float) -> None:
        curve["steps"].append(steps)
        curve["loss"].append(float(loss))
        if meter is not None:
            meter.update(steps * len(Y), f"KL {loss:.3f}")

    c = settings.exaggeration
    found = training.refine(
        Y, graph.neighbors, P, dof=dof, exaggeration=c, iterations=_STEPS, callback=show
    )
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
    if steps * epochs < _COMPILED:
        return {"jit_compile": False, "steps_per_execution": 1}  # what is cheapest to trace
    divisor = max(s for s in range(1, _STEPS_PER_CALL + 1) if steps % s == 0)
    return {"jit_compile": True, "steps_per_execution": divisor}
