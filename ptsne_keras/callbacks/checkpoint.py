"""What a stopped fit goes on from, and the callbacks that stop it and keep it."""

import os
import signal
import threading
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
    """Keeps what a stopped training goes on from, and starts one from what was kept."""

    def __init__(self, start: Unfinished | None = None) -> None:
        super().__init__()
        self.start = start
        self.epochs = self.before = 0 if start is None else start.epochs
        self.weights: list[Any] | None = None
        self._steps = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Restore the weights and the epoch."""
        if self.start is None:
            return
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
        """Count the steps of the epoch."""
        self._steps = batch + 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep the weights if training stops before its end."""
        self.epochs = epoch + (self._steps >= self.params["steps"])
        if self.model.stop_training and self.epochs < self.params["epochs"]:
            variables = [*self.model.weights, *self.model.optimizer.variables]
            self.weights = [np.asarray(variable).copy() for variable in variables]


class Interruption(keras.callbacks.Callback):
    """Stops training after the current step on Ctrl-C; a second Ctrl-C stops at once.

    Use it as a context manager around `fit`, and give it to `fit` as a callback. Before training
    begins, the first Ctrl-C stops at once. Outside the main thread Ctrl-C keeps its meaning.

    Attributes
    ----------
    requested : bool
        Whether Ctrl-C was pressed.

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
        self._before: Any = None

    def __enter__(self) -> Self:
        """Take over the signal, which only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signal back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def on_train_begin(self, logs: Any = None) -> None:
        """Note that from now on there is something to keep."""
        self._training = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop training if Ctrl-C was pressed."""
        if self.requested:
            self.model.stop_training = True

    def _interrupted(self, *_: object) -> None:
        if self.requested or not self._training:
            raise KeyboardInterrupt
        self.requested = True
        # Not through sys.stderr, which the signal may have interrupted in the middle of a write.
        os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once\n")
