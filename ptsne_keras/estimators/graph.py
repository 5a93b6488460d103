"""How an encoder is trained along the neighbourhood graph: search, epochs, optimizer, step."""

import math
from typing import Any

import keras
import numpy as np

from ptsne_keras.affinities.neighbors import Neighbors, nearest
from ptsne_keras.data import batches, order
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import pca

# Steps that "auto" epochs come to, about: 1.6 a row within these bounds, and at least so many
# passes over the rows.
_STEPS = (8000, 16_000)
_EPOCHS = 8
# The weights are averaged over the last so much of the steps, about.
_AVERAGED = 1 / 16
# Steps from which on XLA's compilation, of seconds, pays.
_COMPILED = 1000
# Steps in one call from Python, at most.
_STEPS_PER_CALL = 64
# Epochs of so few steps that starting and ending them costs most are joined, as long as a curve of
# so many points is left.
_CURVE = 100
# Principal components that the search takes, at most.
_SEARCH_DIMS = 50


def search(X: FloatArray, perplexity: float, seed: int) -> Neighbors:
    """Find 3 · perplexity neighbours of each row [N, D], on principal components."""
    if X.shape[1] > _SEARCH_DIMS < len(X):
        X = pca.principal_components(X, _SEARCH_DIMS, seed=seed).apply(X)
    return nearest(X, min(math.ceil(3 * perplexity), len(X) - 1), seed=seed)


def count(n: int, batch_size: int) -> int:
    """How many batches of `batches.from_graph` an epoch over n rows has."""
    return order.batch_count(n, batch_size // 2, batches.GRAPH_MULTIPLE)


def epochs(n: int, batch_size: int) -> int:
    """How many passes over n rows make a good map."""
    steps = int(np.clip(1.6 * n, *_STEPS))
    return max(_EPOCHS, -(-steps // count(n, batch_size)))


def joined(batches: int, epochs: int) -> int:
    """How many passes over the rows Keras takes for one epoch: a divisor of `epochs`."""
    most = min(_STEPS_PER_CALL // batches, epochs // _CURVE)
    return max((p for p in range(1, most + 1) if epochs % p == 0), default=1)


def averaged(learning_rate: float, steps: int) -> keras.optimizers.Optimizer:
    """Make an Adam of a steady rate whose weights are averaged over the last sixteenth of steps."""
    momentum = max(0.0, 1 - 1 / (_AVERAGED * steps))
    return keras.optimizers.Adam(learning_rate, use_ema=True, ema_momentum=momentum)


def compilation(steps: int, epochs: int) -> dict[str, Any]:
    """How a training step is compiled, of so many an epoch: options of `stages.finetune`."""
    divisor = max(s for s in range(1, _STEPS_PER_CALL + 1) if steps % s == 0)
    compiled = True if steps * epochs >= _COMPILED else "auto"
    return {"jit_compile": compiled, "steps_per_execution": divisor}
