"""Training by nonlinear conjugate gradients: SciPy's optimiser as the training step of `fit`."""

import contextlib
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import scipy.optimize
import tensorflow as tf

from ptsne_keras.training.trainer import Trainer
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import validation

Objective = Callable[[FloatArray, Any, Any], tuple[float, FloatArray]]
# A line search ends where the loss has fallen by this fraction of what the initial slope predicts
# and the slope has shrunk to that fraction: the constants of Rasmussen's minimize.m (1999), which
# the paper's MATLAB code calls. SciPy's defaults are 1e-4 and 0.4.
_SUFFICIENT_DECREASE, _CURVATURE = 0.01, 0.5
# Evaluations that a line search may take on average, as in minimize.m.
_MAX_EVALUATIONS = 20


@keras.saving.register_keras_serializable(package="ptsne_keras")
class ConjugateGradientTrainer(Trainer):
    """Trains an encoder as `Trainer` does, by conjugate gradients in place of an optimizer.

    A training step runs a few line searches of `scipy.optimize.minimize` (Polak–Ribière) on one
    batch, from the negative gradient on. This suits large batches that stay the same from epoch to
    epoch, and needs the TensorFlow backend and one device.

    The logs have `loss`, the mean of the batches' losses before their line searches;
    `line_searches` that found a better point; `evaluations` of loss and gradient; and `dof`, if it
    is learned. Training stops with a warning after an epoch without any better point.

    Parameters
    ----------
    encoder : keras.Model
        Model from rows to map coordinates [B, d].
    line_searches : int, default=3
        Line searches per batch.
    **options
        Passed to `Trainer`; a step of `dof_warmup` is a batch.

    Raises
    ------
    ValueError
        If `line_searches` is not a positive integer; in training, if weights have constraints or
        layers compute in half precision.
    RuntimeError
        If the backend is not TensorFlow, or under a `tf.distribute` strategy.

    Examples
    --------
    >>> trainer = ConjugateGradientTrainer(networks.encoder(X.shape[1], 2))
    >>> trainer.compile()
    >>> fixed = data.from_array(X, 30, shuffle="once", seed=0)
    >>> history = trainer.fit(fixed, epochs=2, shuffle=False, verbose=0)

    References
    ----------
    van der Maaten (2009), section 3.3.
    """

    def __init__(self, encoder: keras.Model, *, line_searches: int = 3, **options: Any) -> None:
        check_backend()
        super().__init__(encoder, **options)
        self.line_searches = validation.check_integer(line_searches, "line_searches")
        self._descents: list[Descent] = []

    def compile(self, optimizer: Any = "sgd", loss: Any = None, **options: Any) -> None:
        """Configure the loss and the metrics; the optimizer is not used."""
        super().compile(optimizer, loss, **options | {"jit_compile": False})

    def fit(self, *arguments: Any, callbacks: Any = None, **options: Any) -> Any:
        """Train as `keras.Model.fit` does."""
        return super().fit(*arguments, callbacks=[_StopAtMinimum(), *(callbacks or [])], **options)

    def make_train_function(self, force: bool = False) -> Callable[[Iterator[Any]], dict[str, Any]]:
        """Return the training step as plain Python, as SciPy needs it."""
        self._searcher = functools.cache(self._make_searcher)
        self.train_function = lambda iterator: self.train_step(next(iterator))
        return self.train_function

    def train_step(self, data: Any) -> dict[str, Any]:
        """Run the line searches on one batch and return the logs of the epoch so far."""
        x, P, _ = keras.utils.unpack_x_y_sample_weight(data)
        learned = self._dof == "learn"
        step = int(self._step) if learned else 0
        # Like the loss, the metrics describe the weights that the batch has met.
        logs = self.compute_metrics(x, P, self(x, training=False))
        self._descents.append(self._searcher(self.is_warming_up)(x, P))
        logs |= {
            "loss": float(np.mean([descent.loss for descent in self._descents])),
            "line_searches": sum(descent.line_searches for descent in self._descents),
            "evaluations": sum(descent.evaluations for descent in self._descents),
        }
        if learned:
            self._step.assign(step + 1)  # count the batch, not its evaluations
            logs["dof"] = self.dof
        return logs

    def _make_searcher(self, hold_dof: bool) -> Callable[[Any, Any], "Descent"]:
        """Return a function that runs the line searches over all weights, or all but log α."""
        _check_model(self)
        held = self._log_dof if hold_dof else None
        variables = [v for v in self.trainable_variables if v is not held]
        evaluate = objective(self, variables)
        return lambda x, P: descend(evaluate, variables, x, P, self.line_searches)

    @property
    def is_warming_up(self) -> bool:
        """Return whether the degrees of freedom are still held fixed."""
        return self._dof == "learn" and int(self._step) < self._dof_warmup

    def reset_metrics(self) -> None:
        """Begin an epoch."""
        super().reset_metrics()
        self._descents.clear()

    def get_config(self) -> dict[str, Any]:
        """Return the configuration from which `from_config` makes an equal trainer."""
        return {**super().get_config(), "line_searches": self.line_searches}


class _StopAtMinimum(keras.callbacks.Callback):
    """Stops training after an epoch in which no line search found a better point."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.complete = not self.model.is_warming_up  # otherwise there is still α to change

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.complete and not logs["line_searches"]:
            warnings.warn(
                "No line search found a better point in a whole epoch: the weights are at a "
                f"minimum, as far as float32 can tell. Training ends after epoch {epoch + 1}.",
                stacklevel=2,
            )
            self.model.stop_training = True


def objective(model: keras.Model, variables: Sequence[Any]) -> Objective:
    """Return a function from flattened weights and a batch to the model's loss and its gradient."""
    sizes = [math.prod(variable.shape) for variable in variables]
    values = [variable.value for variable in variables]

    @tf.function(reduce_retracing=True, autograph=False)
    def evaluate(w: tf.Tensor, x: Any, P: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        for variable, part in zip(variables, tf.split(w, sizes), strict=True):
            variable.assign(tf.reshape(tf.cast(part, variable.dtype), variable.shape))
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=x, y=P, y_pred=model(x, training=True))
        gradients = tape.gradient(loss, values, unconnected_gradients="zero")
        parts = [tf.cast(tf.reshape(g, [-1]), tf.float64) for g in gradients]
        return loss, tf.concat(parts, axis=0)

    def in_numpy(w: FloatArray, x: Any, P: Any) -> tuple[float, FloatArray]:
        loss, gradient = evaluate(tf.constant(w, tf.float64), x, P)
        return float(loss), gradient.numpy()

    return in_numpy


def flatten(variables: Sequence[Any]) -> FloatArray:
    """Return all values of the variables as one float64 array [n]."""
    return np.concatenate([np.ravel(np.asarray(v)) for v in variables]).astype(np.float64)


def assign(variables: Sequence[Any], w: FloatArray) -> None:
    """Set the variables to flattened values [n]."""
    ends = np.cumsum([math.prod(variable.shape) for variable in variables])
    for variable, part in zip(variables, np.split(w, ends[:-1]), strict=True):
        variable.assign(part.reshape(variable.shape))


class Descent(NamedTuple):
    """Result of the line searches on one batch."""

    loss: float  # before the first of them
    line_searches: int  # that found a better point
    evaluations: int  # of loss and gradient


def descend(
    evaluate: Objective, variables: Sequence[Any], x: Any, P: Any, line_searches: int
) -> Descent:
    """Run line searches on one batch from the variables' values, and leave the best found there."""
    start = flatten(variables)
    value, gradient = evaluate(start, x, P)
    norm = float(np.linalg.norm(gradient))
    best, lowest = start, value
    done, evaluations = 0, 1

    def scaled(w: FloatArray) -> tuple[float, FloatArray]:
        # Divided by the norm of the gradient, because SciPy's first step is at most the gradient
        # itself, which may be less than float32 resolves.
        nonlocal best, lowest, evaluations
        if np.array_equal(w, start):
            return value / norm, gradient / norm
        if evaluations > _MAX_EVALUATIONS * line_searches:
            raise _SpentError
        evaluations += 1
        loss, slope = evaluate(w, x, P)
        if not (math.isfinite(loss) and np.isfinite(slope).all()):  # too far: uphill from here
            return (value + 1e3 * max(abs(value), 1.0)) / norm, -gradient / norm
        if loss < lowest:
            best, lowest = w.copy(), loss
        return loss / norm, slope / norm

    def count(_: FloatArray) -> None:
        nonlocal done
        done += 1

    if math.isfinite(value) and 0.0 < norm < math.inf:
        options = {"c1": _SUFFICIENT_DECREASE, "c2": _CURVATURE, "maxiter": line_searches}
        with contextlib.suppress(_SpentError):
            scipy.optimize.minimize(
                scaled, start, jac=True, method="CG", tol=0.0, callback=count, options=options
            )
    assign(variables, best)
    return Descent(value, done, evaluations)


class _SpentError(Exception):
    """Raised when a batch has used up its evaluations."""


def check_backend() -> None:
    """Raise a RuntimeError where conjugate gradients cannot run: on JAX, or under a strategy."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Conjugate gradients should run under KERAS_BACKEND=tensorflow; other backends take "
            f"any Keras optimizer. Received: {keras.backend.backend()!r}."
        )
    if tf.distribute.has_strategy():
        raise RuntimeError(
            "Conjugate gradients should run on one device; under a tf.distribute strategy use any "
            f"Keras optimizer. Received: {type(tf.distribute.get_strategy()).__name__}."
        )


def _check_model(model: keras.Model) -> None:
    """Raise a ValueError if line searches cannot train the weights."""
    constrained = [v.path for v in model.trainable_variables if v.constraint is not None]
    if constrained:
        raise ValueError(
            "Weights should have no constraints with conjugate gradients, which ignore them; "
            f"use a Keras optimizer. Received: a constraint on {constrained[0]}."
        )
    for layer in model._flatten_layers():
        if layer.trainable_weights:
            check_precision(layer.compute_dtype, layer.name)


def check_precision(dtype: str, name: str = "keras.config.dtype_policy()") -> None:
    """Raise a ValueError where layers compute in half precision, too coarse for line searches."""
    if dtype not in ("float32", "float64"):
        raise ValueError(
            "Layers should compute in float32 with conjugate gradients; half precision is too "
            f"coarse for line searches. Received: {dtype} in {name}."
        )
