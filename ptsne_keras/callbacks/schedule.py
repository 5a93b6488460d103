"""Numbers that change with the epoch."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def geometric(first: float, last: float, epochs: int) -> Callable[[int], float]:
    """Return a schedule from `first` to `last` in equal ratios: first (last/first)^(epoch/epochs).

    Parameters
    ----------
    first, last : float
        Values at epoch 0, and from epoch `epochs` on.
    epochs : int
        Number of epochs that the change takes.

    Examples
    --------
    >>> schedule = geometric(100, 10, epochs=20)
    >>> schedule(0), round(schedule(10), 1), schedule(20), schedule(21)
    (100.0, 31.6, 10.0, 10.0)
    """
    if not epochs > 0:
        raise ValueError(f"epochs should be above 0. Received: {epochs!r}.")
    return lambda epoch: float(first * (last / first) ** min(epoch / epochs, 1.0))


class Schedule(keras.callbacks.Callback):
    """A number that changes with the epoch: an exaggeration, a perplexity, or the epoch itself.

    Pass `value`, a variable, to `losses.TSNE(exaggeration=…)`, `data.from_array(perplexity=…)`
    or `data.from_array(epoch=…)`, and the callback to `fit`, which sets the variable at the start
    of each epoch. The value depends on the number of the epoch alone, so a run resumed from a
    backup continues where it was.

    Parameters
    ----------
    schedule : callable, default=None
        From the number of the epoch, starting at 0, to a number. None is the epoch itself.

    Attributes
    ----------
    value : scalar tf.Variable, float32, or int64 for the epoch itself
        The current value.

    Examples
    --------
    Perplexity annealing, from large neighbourhoods to small ones:

    >>> perplexity = Schedule(geometric(60, 10, epochs=20))
    >>> dataset = data.from_array(X, perplexity.value, seed=0)
    >>> model.compile("adam", loss=losses.TSNE())
    >>> history = model.fit(dataset, epochs=5, callbacks=[perplexity], shuffle=False)
    """

    def __init__(self, schedule: Callable[[int], float] | None = None) -> None:
        super().__init__()
        self.schedule = schedule or (lambda epoch: epoch)
        dtype = tf.float32 if schedule else tf.int64
        self.value = tf.Variable(self.schedule(0), trainable=False, dtype=dtype)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the value."""
        self.value.assign(self.schedule(epoch))
