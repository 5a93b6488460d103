"""The stages of parametric t-SNE as functions: pretrain, unroll, finetune."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from ptsne_keras.callbacks.progress import EpochSeconds
from ptsne_keras.callbacks.schedule import Schedule
from ptsne_keras.networks.encoder import unroll
from ptsne_keras.networks.rbm import RBM, check_range
from ptsne_keras.training.conjugate_gradient import ConjugateGradientTrainer
from ptsne_keras.training.trainer import Trainer
from ptsne_keras.typing import Callbacks, Dof, FloatArray, Tensor, Units
from ptsne_keras.utils import arrays, validation

__all__ = ["finetune", "pretrain", "unroll"]


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
    callbacks: Callbacks = None,
    verbose: Any = 0,
    **rbm_options: Any,
) -> list[RBM]:
    """Train a greedy stack of RBMs, each on the hidden means of the one below (stage 1).

    The top RBM has linear (Gaussian) hidden units, the others have Bernoulli units.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Training rows, in [0, 1] for Bernoulli visible units.
    units : sequence of int, default=(500, 500, 2000, 2)
        Number of hidden units of each RBM. The last one is d, the dimensions of the map.
    visible : {"bernoulli", "gaussian"}, default="bernoulli"
        Units of the lowest visible layer.
    epochs, top_epochs : int, default=30 and 50
        Epochs for each of the lower RBMs, and for the top one.
    batch_size : int, default=100
        Rows per update.
    seed : int, default=None
        Makes the stack reproducible.
    below : sequence of RBM, default=()
        Trained RBMs to use as the lowest of the stack. Stacks for several d can share them.
    callbacks, verbose
        As in `keras.Model.fit`, for each RBM; by default none and 0.
    **rbm_options
        Passed to each RBM: `k`, `persistent`, `chains`, `weight_decay`, `momentum`.

    Returns
    -------
    list of RBM
        The trained RBMs, lowest first. `rbm.history.history` holds the curves of each.

    Raises
    ------
    ValueError
        If X has values that are not finite, or outside [0, 1] for Bernoulli visible units; if the
        RBMs of `below` do not fit the stack.

    Examples
    --------
    >>> rbms = pretrain(X, (500, 500, 2000, 2), seed=0)
    >>> of_30 = pretrain(X, (500, 500, 2000, 30), below=rbms[:3], seed=0)

    References
    ----------
    van der Maaten (2009), sections 3.1 and 4.1: CD-1, 30 epochs in batches of 100; 50 for the top.
    """
    X = validation.check_rows(X, dtype=np.float32)
    seeds = np.random.default_rng(seed).integers(2**31, size=len(units))
    if below:
        _check_below(below, units, X, visible)
    rbms: list[RBM] = []
    for level, (width, rbm_seed) in enumerate(zip(units, seeds, strict=True)):
        top = level == len(units) - 1
        if level < len(below):
            rbm = below[level]
        else:
            rbm = RBM(
                width,
                visible=visible if level == 0 else "bernoulli",
                hidden="gaussian" if top else "bernoulli",
                seed=int(rbm_seed),
                name=f"rbm_{level + 1}",
                **rbm_options,
            )
            passes = top_epochs if top else epochs
            shown = {"callbacks": callbacks, "verbose": verbose}
            rbm.fit(X, batch_size=batch_size, epochs=passes, **shown)
        rbms.append(rbm)
        X = np.concatenate([np.asarray(rbm(part)) for part in arrays.row_blocks(X, rows=4096)])
    return rbms


def _check_below(below: Sequence[RBM], units: Sequence[int], X: FloatArray, visible: str) -> None:
    """Raise a ValueError unless a stack of these units on rows X can begin with these RBMs."""
    shapes = [tuple(rbm.kernel.shape) if rbm.built else None for rbm in below]
    expected = list(itertools.pairwise((X.shape[1], *units[:-1])))[: len(below)]
    found = shapes, sorted({rbm.hidden for rbm in below}), below[0].visible
    if found != (expected, ["bernoulli"], visible):
        raise ValueError(
            "below should be trained RBMs with Bernoulli hidden units that fit this stack: shapes "
            f"{expected}, visible={visible!r}. Received: shapes {shapes}, hidden units "
            f"{found[1]}, visible={found[2]!r}."
        )
    check_range(X, visible)


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
    callbacks: Callbacks = None,
    verbose: Any = 0,
    jit_compile: Any = "auto",
    steps_per_execution: int = 1,
) -> keras.callbacks.History:
    """Train the encoder on KL(P‖Q) over batches (X, P) (stage 3).

    Parameters
    ----------
    encoder : keras.Model
        Any model from rows to map coordinates [B, d], whose weights are trained. It stays
        uncompiled; callbacks see the `training.Trainer` that holds it as `encoder`.
    batches : tf.data.Dataset of (X, P)
        From `data.from_array` or one of its siblings.
    dof : float, "auto" or "learn", default=1.0
        Degrees of freedom α of the Student-t kernel. "auto" is max(d - 1, 1); "learn" holds that
        value for one epoch, then trains α with the weights.
    exaggeration : float or scalar variable, default=1.0
        Weight c of the attraction in training. A variable of `callbacks.Schedule` may change.
    loss : keras.losses.Loss, default=None
        Another loss of (P, Y), which replaces `dof` and `exaggeration`.
    epochs : int, default=30
        Passes over the batches.
    optimizer : Keras optimizer or "cg", default=None
        None is Adam at `learning_rate`, which falls to 0 along a cosine over all steps; "cg" is
        conjugate gradients by `training.ConjugateGradientTrainer`.
    learning_rate : float, default=1e-3
        Used by the default optimizer. 1e-3 suits most networks; sigmoid networks need 0.02.
    line_searches : int, default=3
        Line searches per batch; used by conjugate gradients only.
    metrics : sequence of keras.metrics.Metric, default=()
        Metrics of (P, Y), such as `metrics.NeighborRecall`.
    validation_data : tf.data.Dataset of (X, P), default=None
        Held-out rows. Their KL(P‖Q), without exaggeration, is `val_loss`.
    callbacks, verbose
        As in `keras.Model.fit`; by default none and 0.
    jit_compile, steps_per_execution
        As in `keras.Model.compile`, by default "auto" and 1; not used by conjugate gradients. XLA
        compiles the loss in any case, unless `jit_compile` is False.

    Returns
    -------
    keras.callbacks.History
        Per epoch: `loss`, the mean over batches in nats, each taken before the update on its batch
        (KL(P‖Q) at exaggeration 1); `seconds`; `dof`, if it is learned; with conjugate gradients
        also `line_searches` and `evaluations`.

    Raises
    ------
    ValueError
        If the number of batches is unknown or infinite, a metric cannot work on (P, Y), or the
        loss became NaN or infinite.

    Examples
    --------
    >>> history = finetune(encoder, data.from_array(X, 30, seed=0), epochs=50)

    References
    ----------
    van der Maaten (2009), section 3.3: conjugate gradients with three line searches per batch.
    """
    steps = _count_steps(batches, epochs, steps_per_execution)
    if encoder.built and not encoder.trainable_variables:
        raise ValueError(
            "encoder should have weights to train: set `trainable = True` on a layer. "
            f"Received: {encoder.name!r}, all frozen."
        )
    if encoder.built:
        validation.check_trained(encoder.trainable_variables)
    options: dict[str, Any] = {"dof": dof, "exaggeration": exaggeration, "dof_warmup": steps}
    if optimizer == "cg":
        trainer = ConjugateGradientTrainer(encoder, line_searches=line_searches, **options)
        trainer.compile(loss=loss, metrics=list(metrics))
    else:
        schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
        trainer = Trainer(encoder, jit_loss=jit_compile is not False, **options)
        trainer.compile(
            optimizer or keras.optimizers.Adam(schedule),
            loss=loss,
            metrics=list(metrics),
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
        )
        if trainer.built:  # its slots, if made in the first step, would have it traced twice
            trainer.optimizer.build(trainer.trainable_variables)
    watched = {"validation_data": validation_data, "verbose": verbose}
    given = keras.tree.flatten(callbacks or [])
    return _fit(trainer, batches, steps, given, epochs=epochs, **watched)


def _fit(
    trainer: Trainer,
    batches: tf.data.Dataset,
    steps: int,
    callbacks: Sequence[keras.callbacks.Callback],
    **options: Any,
) -> keras.callbacks.History:
    """Train, and raise a ValueError if the loss is not finite."""
    # One iterator for all epochs: starting one costs more than a step on a few hundred rows. But
    # what a schedule sets at the start of an epoch has to be there before its first batch is made.
    by_epoch = any(isinstance(callback, Schedule) for callback in callbacks)
    # TerminateOnNaN would stop silently and leave the NaN weights behind.
    history = trainer.fit(
        batches if by_epoch else batches.repeat(),
        steps_per_epoch=None if by_epoch else steps,
        callbacks=[EpochSeconds(), *callbacks],
        shuffle=False,
        **options,
    )
    losses = history.history.get("loss", [])  # empty if the backup was of a finished run
    if not np.isfinite(losses[-1:]).all():
        raise ValueError(
            "The loss became NaN or infinite: learning_rate should be smaller, or the rows scaled; "
            "stacked batches need the number of their blocks in `replicas` and `blocks`. "
            f"Received: loss {losses}."
        )
    return history


def _count_steps(batches: tf.data.Dataset, epochs: int, steps_per_execution: int) -> int:
    """Return the number of steps in an epoch, or raise a ValueError."""
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
