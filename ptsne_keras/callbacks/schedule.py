"""Numbers that change with the epoch."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def geometric(first: float, last: float, epochs: int) -> Callable[[int], float]:
    """Make a schedule from `first` to `last` in equal ratios: first (last/first)^(epoch/epochs).

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

    Give `value`, a variable, to `losses.TSNE(exaggeration=…)`, `batches.from_array(perplexity=…)`
    or `batches.from_array(epoch=…)`, and the callback to `fit`, which sets it as each epoch begins.
    It derives from the epoch's number alone, so that a run that goes on from a backup goes on where
    it was.

    Parameters
    ----------
    schedule : callable
        From the epoch's number, 0 at first, to a number. By default the epoch itself.

    Attributes
    ----------
    value : tf.Variable [], float32, or int64 for the epoch itself

    Examples
    --------
    Perplexity annealing, from large neighbourhoods to small ones:

    >>> perplexity = Schedule(geometric(60, 10, epochs=20))
    >>> data = batches.from_array(X, perplexity.value, seed=0)
    >>> model.compile("adam", loss=losses.TSNE())
    >>> history = model.fit(data, epochs=5, callbacks=[perplexity])
    """

    def __init__(self, schedule: Callable[[int], float] | None = None) -> None:
        super().__init__()
        self.schedule = schedule or (lambda epoch: epoch)
        dtype = tf.float32 if schedule else tf.int64
        self.value = tf.Variable(self.schedule(0), trainable=False, dtype=dtype)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the value."""
        self.value.assign(self.schedule(epoch))
