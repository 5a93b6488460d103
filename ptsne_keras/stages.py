"""The three stages of parametric t-SNE as three functions: pretrain, unroll, finetune."""

import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ptsne_keras import networks, rows
from ptsne_keras.losses import TSNE
from ptsne_keras.rbm import RBM
from ptsne_keras.typing import Scaling, Units


def pretrain(
    X: Any,
    units: Sequence[int] = (500, 500, 2000, 2),
    *,
    visible: Units = "bernoulli",
    epochs: int = 30,
    top_epochs: int = 50,
    batch_size: int = 100,
    seed: int | None = None,
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
        If X is not finite numeric rows, or leaves [0, 1] under Bernoulli units.

    Examples
    --------
    >>> rbms = pretrain(X, (500, 500, 2000, 2), seed=0)

    References
    ----------
    van der Maaten (2009), section 3.1 and 4.1: CD-1, 30 epochs, batches of 100; 50 for the top.
    """
    X = rows.check(X).astype(np.float32)
    seeds = np.random.default_rng(seed).integers(2**31, size=len(units))
    rbms: list[RBM] = []
    for level, (width, rbm_seed) in enumerate(zip(units, seeds, strict=True)):
        top = level == len(units) - 1
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
        X = np.concatenate(
            [np.asarray(rbm(part)) for part in np.array_split(X, -(-len(X) // 4096))]
        )
    return rbms


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
    loss: keras.losses.Loss | None = None,
    epochs: int = 30,
    optimizer: Any = None,
    learning_rate: float = 1e-3,
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
        so that it saves and loads without this package. Callbacks see a model that holds it as
        `encoder`.
    batches : tf.data.Dataset of (X, P)
        From `batches.from_array` or its siblings.
    loss : keras.losses.Loss, optional
        `TSNE()` by default.
    optimizer : Keras optimizer, optional
        By default Adam at `learning_rate`, which falls to 0 along a cosine over all steps.
    learning_rate : float
        1e-3 suits most networks; sigmoid ones want 0.02.
    epochs, callbacks, verbose, jit_compile, steps_per_execution
        As in `keras.Model`. `steps_per_execution` should divide the number of batches.

    Returns
    -------
    keras.callbacks.History
        Per epoch: `loss`, the mean over batches in nats, which is KL(P‖Q) at exaggeration 1, and
        `seconds`.

    Raises
    ------
    ValueError
        If the length of `batches` is unknown or infinite, or the divergence became NaN or infinite.

    Examples
    --------
    >>> history = finetune(encoder, batches.from_array(X, 30, seed=0), epochs=50)

    References
    ----------
    van der Maaten (2009), section 3.3 (there by conjugate gradients).
    """
    if epochs < 1:
        raise ValueError(f"epochs should be at least 1. Received: {epochs!r}.")
    steps = int(batches.cardinality())
    if steps < 1:
        raise ValueError(
            "batches should have a known, finite length; see "
            f"tf.data.experimental.assert_cardinality. Received: cardinality {steps}."
        )
    if steps % steps_per_execution:  # Keras would run past the end of the epoch
        raise ValueError(
            f"steps_per_execution should divide the {steps} batches. "
            f"Received: {steps_per_execution!r}."
        )
    if optimizer is None:
        schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
        optimizer = keras.optimizers.Adam(schedule)
    trainer = _Trainer(encoder)
    trainer.compile(
        optimizer=optimizer,
        loss=loss or TSNE(),
        jit_compile=jit_compile,
        steps_per_execution=steps_per_execution,
    )
    # TerminateOnNaN would stop quietly and leave the NaN weights behind.
    callbacks = [_EpochSeconds(), *callbacks]
    history = trainer.fit(
        # One iterator for all epochs: starting one costs more than a step on a few hundred rows.
        batches.repeat(),
        steps_per_epoch=steps,
        epochs=epochs,
        callbacks=callbacks,
        verbose=verbose,
        shuffle=False,
    )
    if not np.isfinite(history.history["loss"][-1]):
        raise ValueError(
            "The divergence became NaN or infinite: learning_rate should be smaller, or the rows "
            f"scaled. Received: loss {history.history['loss']}."
        )
    return history


class _Trainer(keras.Model):
    """Compiled in the encoder's stead: the same weights, but no loss attached to the encoder."""

    def __init__(self, encoder: keras.Model) -> None:
        super().__init__(name="trainer")
        self.encoder = encoder

    def call(self, X: Any, training: bool = False) -> Any:
        return self.encoder(X, training=training)


class _EpochSeconds(keras.callbacks.Callback):
    """Adds the seconds of each epoch to the history."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["seconds"] = time.perf_counter() - self.start
