"""Training by nonlinear conjugate gradients: SciPy's optimiser over the flattened weights."""

import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import keras
import numpy as np
import scipy.optimize
import tensorflow as tf

from ptsne_keras.typing import FloatArray

Objective = Callable[[FloatArray, Any, Any], tuple[float, FloatArray]]
# A line search ends where the loss has fallen by this part of what the slope at its start foretold,
# and the slope has fallen to this part: the constants of Rasmussen's minimize.m (2006), which the
# MATLAB code of the paper calls. SciPy's own are 1e-4 and 0.4. And the most evaluations that a line
# search takes on average, as there.
_SUFFICIENT, _CURVATURE = 0.05, 0.1
_MOST_EVALUATIONS = 20


def objective(model: keras.Model, variables: Sequence[Any]) -> Objective:
    """Make a function of flattened weights and a batch: the model's loss, and its gradient."""
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

    def numbers(w: FloatArray, x: Any, P: Any) -> tuple[float, FloatArray]:
        loss, gradient = evaluate(tf.constant(w, tf.float64), x, P)
        return float(loss), gradient.numpy()

    return numbers


def flatten(variables: Sequence[Any]) -> FloatArray:
    """All values of the variables in one array [n], float64."""
    return np.concatenate([np.ravel(np.asarray(v)) for v in variables]).astype(np.float64)


def assign(variables: Sequence[Any], w: FloatArray) -> None:
    """Set the variables to the values that `flatten` gave."""
    ends = np.cumsum([math.prod(variable.shape) for variable in variables])
    for variable, part in zip(variables, np.split(w, ends[:-1]), strict=True):
        variable.assign(part.reshape(variable.shape))


class Descent(NamedTuple):
    """What so many line searches on one batch did."""

    loss: float
    """Where they began."""
    line_searches: int
    """How many found a better point."""
    evaluations: int
    """How often loss and gradient were taken."""


def descend(
    evaluate: Objective, variables: Sequence[Any], x: Any, P: Any, line_searches: int
) -> Descent:
    """Go so many line searches down from the variables' values, on one batch."""
    start = flatten(variables)
    value, gradient = evaluate(start, x, P)
    norm = float(np.linalg.norm(gradient))
    best, lowest = start, value
    done, evaluations = 0, 1

    def scaled(w: FloatArray) -> tuple[float, FloatArray]:
        # By the gradient's norm, because SciPy's first step is at most once the gradient, which
        # may be less than float32 resolves.
        nonlocal best, lowest, evaluations
        if w is start or np.array_equal(w, start):
            return value / norm, gradient / norm
        if evaluations > _MOST_EVALUATIONS * line_searches:
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
        with contextlib.suppress(_SpentError):
            scipy.optimize.minimize(
                scaled,
                start,
                jac=True,
                method="CG",
                callback=count,
                options={
                    "maxiter": line_searches,
                    "gtol": 0.0,
                    "c1": _SUFFICIENT,
                    "c2": _CURVATURE,
                },
            )
    assign(variables, best)
    return Descent(value, done, evaluations)


class _SpentError(Exception):
    """A batch has had its evaluations."""


def fit(
    model: keras.Model,
    batches: tf.data.Dataset,
    *,
    epochs: int,
    line_searches: int = 3,
    later: Sequence[Any] = (),
    validation_data: tf.data.Dataset | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: Any = 0,
) -> keras.callbacks.History:
    """Train a compiled model by conjugate gradients, afresh on each batch, as `keras.Model.fit`."""
    check_backend()
    if not isinstance(line_searches, Integral) or line_searches < 1:
        raise ValueError(
            f"line_searches should be an integer of at least 1. Received: {line_searches!r}."
        )
    if not model.trainable_variables:  # not built yet
        model(next(iter(batches))[0])
    _check_model(model)
    held = {id(variable) for variable in later}
    everything = list(model.trainable_variables)
    first = [variable for variable in everything if id(variable) not in held]
    reports = keras.callbacks.CallbackList(
        list(callbacks),
        add_history=True,
        add_progbar=verbose != 0,
        model=model,
        epochs=epochs,
        steps=int(batches.cardinality()),
        verbose=verbose,
    )
    model.stop_training = False
    reports.on_train_begin()
    start = model._initial_epoch or 0  # set where BackupAndRestore found a backup
    variables: list[Any] = []
    for epoch in range(start, epochs):
        wanted = everything if epoch else first
        if len(variables) != len(wanted):
            variables, evaluate = wanted, objective(model, wanted)
        reports.on_epoch_begin(epoch)
        descents: list[Descent] = []
        for step, (x, P) in enumerate(batches):
            reports.on_train_batch_begin(step)
            descents.append(descend(evaluate, variables, x, P, line_searches))
            mean = float(np.mean([descent.loss for descent in descents]))
            reports.on_train_batch_end(step, {"loss": mean})
            if model.stop_training:
                break
        logs = {
            "loss": mean,
            "line_searches": sum(descent.line_searches for descent in descents),
            "evaluations": sum(descent.evaluations for descent in descents),
        }
        if not logs["line_searches"] and len(variables) == len(everything):
            warnings.warn(
                "No line search found a better point in a whole epoch: the weights are at a "
                f"minimum, as far as float32 tells. Training ends after epoch {epoch + 1}.",
                stacklevel=2,
            )
            model.stop_training = True
        if validation_data is not None:
            found = model.evaluate(validation_data, verbose=0, return_dict=True)
            logs |= {f"val_{name}": value for name, value in found.items()}
        reports.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    reports.on_train_end()
    return model.history


def check_backend() -> None:
    """Raise where conjugate gradients cannot run: on JAX, or under a strategy."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Conjugate gradients should run under KERAS_BACKEND=tensorflow; other backends take "
            f"any Keras optimizer. Received: {keras.backend.backend()!r}."
        )
    if tf.distribute.has_strategy():
        raise RuntimeError(
            "Conjugate gradients should run on one device; under a tf.distribute strategy take any "
            f"Keras optimizer. Received: {type(tf.distribute.get_strategy()).__name__}."
        )


def _check_model(model: keras.Model) -> None:
    """Raise where line searches would go astray."""
    constrained = [v.path for v in model.trainable_variables if v.constraint is not None]
    if constrained:
        raise ValueError(
            "Weights should have no constraints with conjugate gradients, which would leave them; "
            f"take a Keras optimizer. Received: {constrained[0]} with one."
        )
    for layer in model._flatten_layers():
        if layer.trainable_weights:
            check_precision(layer.compute_dtype, layer.name)


def check_precision(dtype: str, name: str = "keras.config.dtype_policy()") -> None:
    """Raise where layers compute in half precision: too coarse for line searches."""
    if dtype not in ("float32", "float64"):
        raise ValueError(
            "Layers should compute in float32 with conjugate gradients; half precision is too "
            f"coarse for line searches. Received: {dtype} in {name}."
        )
