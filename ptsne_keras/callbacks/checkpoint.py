"""What a stopped fit goes on from, and the callbacks that stop it and keep it."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import keras
import numpy as np


class Unfinished(NamedTuple):
    """What a stopped fit goes on from."""

    epochs: int  # the number of whole epochs done, as Keras counts them
    seed: int
    weights: list[Any]  # arrays: the trainer's, as they were during training, then the optimizer's
    parameters: dict[str, Any] = {}  # noqa: RUF012 - the default is never changed

    def state(self) -> dict[str, Any]:
        """Return everything but the weights, as JSON can hold it."""
        return {"epochs": self.epochs, "seed": self.seed, "parameters": self.parameters}

    def arrays(self) -> dict[str, Any]:
        """Return the weights under names."""
        return {f"unfinished_{i}": weight for i, weight in enumerate(self.weights)}

    @classmethod
    def loaded(cls, state: dict[str, Any], arrays: dict[str, Any]) -> Self:
        """Return what `state` and `arrays` described."""
        count = sum(name.startswith("unfinished_") for name in arrays)
        return cls(weights=[arrays[f"unfinished_{i}"] for i in range(count)], **state)


class Recorder(keras.callbacks.Callback):
    """Keeps what a stopped training goes on from, and starts one from what was kept.

    Every so many seconds it calls `keep`, while it has the weights of that moment.
    """

    keep: Callable[[], None] | None = None

    def __init__(self, start: Unfinished | None = None, seconds: float = math.inf) -> None:
        super().__init__()
        self._seconds, self._kept = seconds, time.monotonic()
        self.start = start
        self.epochs = self.before = 0 if start is None else start.epochs
        self.weights: list[Any] | None = None
        self._steps = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Restore the weights and the epoch."""
        if self.start is None:
            return
        if not self.model.optimizer.built:  # the one that scales losses would add to its own
            self.model.optimizer.build(self.model.trainable_variables)
        variables = [*self.model.weights, *self.model.optimizer.variables]
        if [tuple(v.shape) for v in variables] != [np.shape(w) for w in self.start.weights]:
            raise ValueError(
                "The weights of the unfinished fit should fit this network and optimizer; fit "
                "without resume."
            )
        for variable, value in zip(variables, self.start.weights, strict=True):
            variable.assign(value)
        self.model._initial_epoch = self.start.epochs  # as keras.callbacks.BackupAndRestore does

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the steps of the epoch, and keep the weights if it is time."""
        self._steps = batch + 1
        self.keep_after(self._seconds)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep the weights if training stops before its end."""
        self.epochs = epoch + (self._steps >= self.params["steps"])
        if self.model.stop_training and self.epochs < self.params["epochs"]:
            self.weights = self._now()

    def keep_after(self, seconds: float) -> None:
        """Keep the weights if the last ones were kept, or the fit began, so many seconds ago."""
        if self.keep is not None and time.monotonic() - self._kept >= seconds:
            self.weights = self._now()
            self.keep()
            self.weights, self._kept = None, time.monotonic()

    def _now(self) -> list[Any]:
        variables = [*self.model.weights, *self.model.optimizer.variables]
        return [np.asarray(variable).copy() for variable in variables]


# Ctrl-C; the end that a batch system or a shutdown announces; a terminal that goes.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Interruption(keras.callbacks.Callback):
    """Stops training after the current step on Ctrl-C, SIGTERM or SIGHUP; at once on a second one.

    Use it as a context manager around `fit`, and give it to `fit` as a callback. Before training
    begins, the first signal stops at once. Outside the main thread signals keep their meaning, and
    so does one that is ignored, as under nohup.

    Attributes
    ----------
    requested : bool
        Whether there was a signal.

    Examples
    --------
    >>> with Interruption() as interruption:
    ...     tsne = ParametricTSNE(epochs=2).fit(X, callbacks=[interruption])
    >>> interruption.requested
    False
    """

    def __init__(self) -> None:
        super().__init__()
        self.requested = self._training = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Take over the signals, which only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            found = (getattr(signal, name, None) for name in _SIGNALS)  # Windows has no SIGHUP
            for number in filter(None, found):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_train_begin(self, logs: Any = None) -> None:
        """Note that from now on there is something to keep."""
        self._training = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop training if there was a signal."""
        if self.requested:
            self.model.stop_training = True

    def _interrupted(self, *_: object) -> None:
        if self.requested or not self._training:
            raise KeyboardInterrupt
        self.requested = True
        # Not through sys.stderr, which the signal may have interrupted in the middle of a write.
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once\n")
