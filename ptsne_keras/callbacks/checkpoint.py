"""Fine-tuning that stops early and goes on later: what is kept, and the callback that keeps it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np


class Unfinished(NamedTuple):
    """What fine-tuning that was stopped goes on from."""

    epochs: int
    """Whole ones that were done, as Keras counts them."""
    seed: int
    """Of the fit."""
    weights: list[Any]
    """Arrays: those of the trainer, as they are while it trains, then the optimizer's."""
    parameters: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never changed
    """Of the estimator, as JSON can hold them."""


class Recorder(keras.callbacks.Callback):
    """Keeps what a stopped training goes on from, and lets one go on."""

    def __init__(self, start: Unfinished | None = None) -> None:
        super().__init__()
        self.start = start
        self.epochs = self.before = 0 if start is None else start.epochs
        self.weights: list[Any] | None = None
        self._steps = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Set the weights and the epoch, if there are any to go on from."""
        if self.start is None:
            return
        self.model.optimizer.build(self.model.trainable_variables)
        variables = _variables(self.model)
        if [tuple(v.shape) for v in variables] != [np.shape(w) for w in self.start.weights]:
            raise ValueError(
                "The weights of the unfinished fit should be those of this network and optimizer; "
                "fit anew."
            )
        for variable, value in zip(variables, self.start.weights, strict=True):
            variable.assign(value)
        self.model._initial_epoch = self.start.epochs  # as keras.callbacks.BackupAndRestore does

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note how much of the epoch is done."""
        self._steps = batch + 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep the weights if training stops here, before its end."""
        self.epochs = epoch + (self._steps >= self.params["steps"])
        if self.model.stop_training and self.epochs < self.params["epochs"]:
            self.weights = [np.asarray(v).copy() for v in _variables(self.model)]


def state(kept: Unfinished | None) -> dict[str, Any]:
    """Give all but the weights as JSON can hold it, for a model's manifest."""
    if kept is None:
        return {}
    names = ("epochs", "seed", "parameters")
    return {"unfinished": {name: getattr(kept, name) for name in names}}


def arrays(kept: Unfinished | None) -> dict[str, Any]:
    """Give the weights under names, for a model's file of arrays."""
    weights: Sequence[Any] = () if kept is None else kept.weights
    return {f"unfinished_{i}": weight for i, weight in enumerate(weights)}


def loaded(state: dict[str, Any], arrays: dict[str, Any]) -> Unfinished | None:
    """Read what :func:`state` and :func:`arrays` gave."""
    if "unfinished" not in state:
        return None
    count = sum(name.startswith("unfinished_") for name in arrays)
    weights = [arrays[f"unfinished_{i}"] for i in range(count)]
    return Unfinished(weights=weights, **state["unfinished"])


def _variables(trainer: keras.Model) -> list[Any]:
    return [*trainer.weights, *trainer.optimizer.variables]
