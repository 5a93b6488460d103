"""What a fit along the neighbourhood graph needs: search, joined epochs, optimizer, compilation."""

import math
from typing import Any

import keras

from ptsne_keras.affinities.neighbors import Neighbors, nearest
from ptsne_keras.typing import FloatArray
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
# The most principal components that the search uses.
_SEARCH_DIMS = 50


def search(X: FloatArray, perplexity: float, seed: int) -> Neighbors:
    """Return the 3 · perplexity nearest neighbours of each row, on principal components."""
    if X.shape[1] > _SEARCH_DIMS < len(X):
        X = pca.principal_components(X, _SEARCH_DIMS, seed=seed).apply(X)
    return nearest(X, min(math.ceil(3 * perplexity), len(X) - 1), seed=seed)


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
    divisor = max(s for s in range(1, _STEPS_PER_CALL + 1) if steps % s == 0)
    compiled = True if steps * epochs >= _COMPILED else "auto"
    return {"jit_compile": compiled, "steps_per_execution": divisor}
