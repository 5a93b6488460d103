"""Progress of a stage: a bar, and the seconds of each epoch."""

import sys
import time
from typing import Any

import keras


class StageBar(keras.callbacks.Callback):
    """A progress bar over all epochs of a stage, which may be several calls of `fit`.

    Parameters
    ----------
    title : str
        Printed above the bar.
    epochs : int
        Of the whole stage.
    values : sequence of str
        Names in the epoch's logs to show beside the bar.

    Examples
    --------
    >>> bar = StageBar("Fine-tuning", 50)
    Fine-tuning
    >>> history = stages.finetune(encoder, dataset, epochs=50, callbacks=[bar])
    """

    def __init__(self, title: str, epochs: int, values: tuple[str, ...] = ("loss",)) -> None:
        super().__init__()
        # In a log each update is a line's worth of text: few are enough there.
        interval = 0.2 if sys.stdout.isatty() else 30.0
        print(title, flush=True)
        self.bar = keras.utils.Progbar(
            epochs, unit_name="epoch", interval=interval, stateful_metrics=values
        )
        self.values = values
        self.done = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Move on by one epoch."""
        self.done += 1
        logs = logs or {}
        self.bar.update(self.done, [(name, logs[name]) for name in self.values if name in logs])


class EpochSeconds(keras.callbacks.Callback):
    """Adds the seconds of each epoch to the history.

    Examples
    --------
    >>> history = stages.finetune(encoder, dataset, epochs=2)  # has it
    >>> len(history.history["seconds"])
    2
    """

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note the seconds."""
        if logs is not None:
            logs["seconds"] = time.perf_counter() - self.start
