"""The three stages of parametric t-SNE as three functions: pretrain, unroll, finetune."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from ptsne_keras import networks
from ptsne_keras.callbacks.progress import EpochSeconds
from ptsne_keras.callbacks.schedule import Schedule
from ptsne_keras.networks.rbm import RBM, check_range
from ptsne_keras.training import conjugate_gradient
from ptsne_keras.training.trainer import Trainer
from ptsne_keras.typing import Dof, FloatArray, Scaling, Tensor, Units
from ptsne_keras.utils import validation


def pretrain(
    X: Any,
    units: Sequence[int] = (500, 500, 2000, 2),
    *,
    visible: Units = "bernoulli",
    epochs: int = 30,
    top_epochs: int = 50,
    batch_size: int = 100,
    seed: int | None = None,
    below: Sequence[RBM] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: Any = 0,
    **rbm_options: Any,
) -> list[RBM]:
    """Stage 1: train a greedy stack of RBMs, each on the hidden means of the one below.

    The top RBM has linear (Gaussian) hidden units, the others Bernoulli ones.

    Parameters
    ----------
    X : array [N, D]
        Rows, in [0, 1] for Bernoulli visible units.
    units : sequence of int
        Hidden units of each RBM; the last is d, the dimensions of the map.
    visible : "bernoulli" or "gaussian"
        Units of the lowest visible layer.
    epochs, top_epochs : int
        For the lower RBMs and for the top one.
    batch_size : int
        Rows an update.
    seed : int, optional
        Makes the stack reproducible.
    below : sequence of RBM
        The lowest RBMs of the stack, trained already, which are taken as they are: stacks of
        several d differ in the top one alone.
    callbacks, verbose
        As in `keras.Model.fit`, for each RBM.
    **rbm_options
        To each RBM: `k`, `persistent`, `weight_decay`, `momentum`.

    Returns
    -------
    list of RBM
        Trained, lowest first; `rbm.history.history` has its curves.

    Raises
    ------
    ValueError
        If X is not finite numeric rows, or leaves [0, 1] under Bernoulli units; if the RBMs of
        `below` are not such as this stack begins with.

    Examples
    --------
    >>> rbms = pretrain(X, (500, 500, 2000, 2), seed=0)
    >>> of_30 = pretrain(X, (500, 500, 2000, 30), below=rbms[:3], seed=0)

    References
    ----------
    van der Maaten (2009), section 3.1 and 4.1: CD-1, 30 epochs, batches of 100; 50 for the top.
    """
    X = validation.check_rows(X).astype(np.float32)
    seeds = np.random.default_rng(seed).integers(2**31, size=len(units))
    _check_below(below, units, X, visible)
    rbms: list[RBM] = []
    for level, (width, rbm_seed) in enumerate(zip(units, seeds, strict=True)):
        top = level == len(units) - 1
        if level < len(below):
            rbms.append(below[level])
            X = _hidden_means(below[level], X)
            continue
        rbm = RBM(
            width,
            visible=visible if level == 0 else "bernoulli",
            hidden="gaussian" if top else "bernoulli",
            seed=int(rbm_seed),
            name=f"rbm_{level + 1}",
            **rbm_options,
        )
        rbm.fit(
            X,
            batch_size=batch_size,
            epochs=top_epochs if top else epochs,
            callbacks=list(callbacks),
            verbose=verbose,
        )
        rbms.append(rbm)
        X = _hidden_means(rbm, X)
    return rbms


def _check_below(below: Sequence[RBM], units: Sequence[int], X: FloatArray, visible: str) -> None:
    """Raise unless a stack of these units on rows X can begin with these RBMs."""
    if not below:
        return
    widths = [tuple(rbm.kernel.shape) if rbm.built else None for rbm in below]
    wanted = list(itertools.pairwise((X.shape[1], *units[:-1])))[: len(below)]
    hidden = {rbm.hidden for rbm in below}
    if widths != wanted or hidden != {"bernoulli"} or below[0].visible != visible:
        raise ValueError(
            f"below should be trained RBMs with Bernoulli hidden units, of shapes {wanted} and "
            f"visible={visible!r}, as this stack begins. Received: shapes {widths}, hidden units "
            f"{sorted(hidden)}, visible={below[0].visible!r}."
        )
    check_range(X, visible)


def _hidden_means(rbm: RBM, X: FloatArray) -> FloatArray:
    return np.concatenate([np.asarray(rbm(part)) for part in np.array_split(X, -(-len(X) // 4096))])


def unroll(rbms: Sequence[RBM], *, scaling: Scaling | None = None) -> keras.Model:
    """Stage 2: the stack's forward pass as a plain Keras model; see `networks.from_rbms`.

    Examples
    --------
    >>> encoder = unroll(pretrain(X, (50, 2), epochs=1, top_epochs=1))
    >>> encoder(X).shape
    TensorShape([200, 2])
    """
    return networks.from_rbms(rbms, scaling=scaling)


def finetune(
    encoder: keras.Model,
    batches: tf.data.Dataset,
    *,
    dof: Dof | Literal["learn"] = 1.0,
    exaggeration: float | Tensor = 1.0,
    loss: keras.losses.Loss | None = None,
    epochs: int = 30,
    optimizer: Any = None,
    learning_rate: float = 1e-3,
    line_searches: int = 3,
    metrics: Sequence[Any] = (),
    validation_data: tf.data.Dataset | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: Any = 0,
    jit_compile: Any = "auto",
    steps_per_execution: int = 1,
) -> keras.callbacks.History:
    """Stage 3: train the encoder by backprop on KL(P‖Q) over batches (X, P).

    Parameters
    ----------
    encoder : keras.Model
        Any model from rows to map coordinates [B, d]. Its weights are trained; it is not compiled,
        so that it saves and loads without this package. Callbacks see a `training.Trainer`, which
        holds it as `encoder`.
    batches : tf.data.Dataset of (X, P)
        From `batches.from_array` or its siblings.
    dof : float, "auto" or "learn"
        Degrees of freedom α of the Student-t kernel. "auto" is max(d - 1, 1), and "learn" trains α
        with the weights after one epoch there; the history has it as "dof".
    exaggeration : float or scalar variable
        Weight c of the attraction in training; a variable from `callbacks.Schedule` may change.
    loss : keras.losses.Loss, optional
        Another loss of (P, Y), in place of the two above.
    learning_rate : float
        1e-3 suits most networks; sigmoid ones want 0.02.
    optimizer : Keras optimizer or "cg", optional
        By default Adam at `learning_rate`, which falls to 0 along a cosine over all steps. "cg" is
        nonlinear conjugate gradients, for large batches that stay: see `conjugate.fit`. It has no
        learning rate and no steps to compile.
    line_searches : int
        On each batch, by conjugate gradients.
    metrics : sequence
        Keras metrics of (P, Y), such as those of `batch_metrics`; by conjugate gradients of the
        validation data alone.
    validation_data : tf.data.Dataset of (X, P), optional
        Held-out rows: their KL(P‖Q), without exaggeration, is `val_loss`.
    epochs, callbacks, verbose, jit_compile, steps_per_execution
        As in `keras.Model`. `steps_per_execution` should divide the number of batches.

    Returns
    -------
    keras.callbacks.History
        Per epoch: `loss`, the mean over batches in nats, which is KL(P‖Q) at exaggeration 1, each
        batch's as it was before the update by it; `seconds`; `dof`, if it is learned; by conjugate
        gradients `line_searches` that found a better point and `evaluations` of loss and gradient.

    Raises
    ------
    ValueError
        If the length of `batches` is unknown or infinite, a metric cannot work on (P, Y), or the
        divergence became NaN or infinite.

    Examples
    --------
    >>> history = finetune(encoder, batches.from_array(X, 30, seed=0), epochs=50)

    References
    ----------
    van der Maaten (2009), section 3.3: conjugate gradients, three line searches a batch.
    """
    steps = _check_steps(batches, epochs, steps_per_execution)
    conjugate_gradients = optimizer == "cg"
    if encoder.built and not encoder.trainable_variables:
        raise ValueError(
            "encoder should have weights to train: set `trainable = True` of a layer. "
            f"Received: {encoder.name!r}, all frozen."
        )
    if optimizer is None:
        schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
        optimizer = keras.optimizers.Adam(schedule)
    trainer = Trainer(
        encoder,
        dof=dof,
        exaggeration=exaggeration,
        dof_warmup=0 if conjugate_gradients else steps,
    )
    trainer.compile(
        optimizer="sgd" if conjugate_gradients else optimizer,
        loss=loss,
        metrics=list(metrics),
        jit_compile=False if conjugate_gradients else jit_compile,
        steps_per_execution=1 if conjugate_gradients else steps_per_execution,
    )
    callbacks = [EpochSeconds(), *callbacks]
    if conjugate_gradients:
        fitted = conjugate_gradient.fit(
            trainer,
            batches,
            epochs=epochs,
            line_searches=line_searches,
            later=trainer.dof_variables,
            validation_data=validation_data,
            callbacks=[*([_Dof()] if dof == "learn" else []), *callbacks],
            verbose=verbose,
        )
        return _checked(fitted)
    # One iterator for all epochs: starting one costs more than a step on a few hundred rows. But
    # what a schedule sets as an epoch begins has to be there before its first batch is made.
    by_epoch = any(isinstance(callback, Schedule) for callback in callbacks)
    # TerminateOnNaN would stop quietly and leave the NaN weights behind.
    history = trainer.fit(
        batches if by_epoch else batches.repeat(),
        steps_per_epoch=None if by_epoch else steps,
        epochs=epochs,
        validation_data=validation_data,
        callbacks=callbacks,
        verbose=verbose,
        shuffle=False,
    )
    return _checked(history)


def _checked(history: keras.callbacks.History) -> keras.callbacks.History:
    """Return the history, or raise where training came to nothing."""
    losses = history.history.get("loss", [])  # empty where a backup was of the end of a run
    if not np.isfinite(losses[-1:]).all():
        raise ValueError(
            "The divergence became NaN or infinite: learning_rate should be smaller, or the rows "
            "scaled, or batches that are stacked or cut named by `replicas` and `blocks`. "
            f"Received: loss {losses}."
        )
    return history


def _check_steps(batches: tf.data.Dataset, epochs: int, steps_per_execution: int) -> int:
    """Count the steps of an epoch, or raise."""
    if epochs < 1:
        raise ValueError(f"epochs should be at least 1. Received: {epochs!r}.")
    steps = int(batches.cardinality())
    if steps < 1:
        raise ValueError(
            "batches should have a known, finite length; see "
            f"tf.data.experimental.assert_cardinality. Received: cardinality {steps}."
        )
    if steps_per_execution < 1 or steps % steps_per_execution:  # Keras would run past the end
        raise ValueError(
            f"steps_per_execution should divide the {steps} batches. "
            f"Received: {steps_per_execution!r}."
        )
    return steps


class _Dof(keras.callbacks.Callback):
    """Adds the degrees of freedom, as they are when an epoch ends, to the history."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["dof"] = self.model.dof
