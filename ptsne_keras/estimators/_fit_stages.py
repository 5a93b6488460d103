"""The stages of a fit of `ParametricTSNE`, one after the other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from ptsne_keras import networks, training
from ptsne_keras.affinities.perplexity import several
from ptsne_keras.callbacks import progress
from ptsne_keras.callbacks.checkpoint import Recorder, Unfinished
from ptsne_keras.data import batches
from ptsne_keras.estimators import _encoders, _fit_graph
from ptsne_keras.estimators._settings import PRETRAINING_ROWS, Settings
from ptsne_keras.training import conjugate_gradient
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import pca
from ptsne_keras.utils.stopwatch import Stopwatch


class Fitted(NamedTuple):
    """The result of a fit, or what an unfinished one goes on from."""

    encoder: keras.Model
    dof: float
    history: dict[str, Any]
    left: Unfinished | None
    """None if fine-tuning reached its end."""


def fit(
    X: Any,
    settings: Settings,
    *,
    seed: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
    start: Fitted | None = None,
) -> Fitted:
    """Run the stages on rows [N, D], dense or sparse, or the rest of them from an earlier fit."""
    seeds = np.random.default_rng(seed).integers(2**31, size=4).tolist()
    _check_optimizer(settings)
    watch = Stopwatch(start.history["seconds"] if start else None)
    encoder = _encoders.copied(start.encoder) if start else None
    recorder = Recorder(start.left if start else None)
    X, rows, reduced = _project(X, settings, seeds[0], encoder, watch)
    # Resumed, a fit draws new batches; fixed batches stay the same.
    later = 0 if settings.sampling == "fixed" else recorder.before
    # Before any training, so that a perplexity that cannot work costs no time.
    data = _batches(rows, settings, seeds[1], seeds[2] + later)
    watch.lap("neighbors" if settings.sampling == "graph" else "batches")
    pretrained = start.history["pretrain"] if start else []
    if encoder is None:
        encoder, pretrained = _untrained(X, settings, reduced, seeds[3], verbose, watch)
    passes = _passes(settings, int(data.cardinality()))
    finetuned = _finetune(
        encoder, data, settings, len(rows), passes, [*callbacks, recorder], verbose
    )
    watch.lap("finetune")
    before = start.history["finetune"] if start else {}
    curves = {
        name: before.get(name, [])[: recorder.before] + values
        for name, values in finetuned.history.items()
    }
    history = {"pretrain": pretrained, "finetune": curves, "seconds": watch.seconds}
    left = None
    if recorder.weights is not None:
        left = Unfinished(recorder.epochs, seed, recorder.weights)
        history["stopped"] = recorder.epochs * passes
    return Fitted(encoder, finetuned.model.dof, history, left)


def _check_optimizer(settings: Settings) -> None:
    """Raise if the optimizer cannot run, before any work."""
    if settings.optimizer == "cg":
        conjugate_gradient.check_backend()
        conjugate_gradient.check_precision(keras.config.dtype_policy().compute_dtype)
    else:
        _fit_graph.fresh(settings.optimizer)


def _project(
    X: Any, settings: Settings, seed: int, encoder: keras.Model | None, watch: Stopwatch
) -> tuple[Any, FloatArray, pca.Projection | None]:
    """Return X, the rows that the trained layers see, and the projection if it is a new one."""
    if settings.initial_dims is None:
        X = X.toarray() if scipy.sparse.issparse(X) else X
        return X, X, None
    reduced = None
    if encoder is None:
        reduced = pca.principal_components(X, settings.initial_dims, seed=seed)
    rows = reduced.apply(X) if reduced else _encoders.projected(encoder, X)
    watch.lap("project")
    return X, rows, reduced


def _batches(rows: FloatArray, settings: Settings, search_seed: int, seed: int) -> tf.data.Dataset:
    """Return the batches (X, P) by the sampling of the settings."""
    common = rows, settings.perplexity, settings.batch_size
    if settings.sampling != "graph":
        shuffle: Any = "once" if settings.sampling == "fixed" else True
        return batches.from_array(*common, shuffle=shuffle, seed=seed)
    n = len(rows)
    largest = max(several(settings.perplexity))
    if not largest < n - 1:
        raise ValueError(
            f"perplexity should be below N - 1 = {n - 1}. Received: {settings.perplexity!r}."
        )
    found = _fit_graph.search(rows, largest, search_seed)
    return batches.from_graph(*common, neighbors=found, jitter=settings.jitter, seed=seed)


def _untrained(
    X: Any,
    settings: Settings,
    reduced: pca.Projection | None,
    seed: int,
    verbose: int,
    watch: Stopwatch,
) -> tuple[keras.Model, list[Any]]:
    """Return the encoder that fine-tuning starts from, and the curves of each RBM."""
    if settings.pretraining is not None:
        return _pretrain_and_unroll(X, settings, seed, verbose, watch)
    if settings.encoder is not None:
        return _encoders.own(settings.encoder, X.shape[1]), []
    scaling = reduced[:2] if reduced else _encoders.column_scaling(X, settings.scaling)[1]
    encoder = networks.encoder(
        X.shape[1],
        settings.n_components,
        hidden_units=settings.hidden_units,
        activation=settings.activation,
        scaling=scaling,
        components=reduced.components if reduced else None,
        seed=seed,
    )
    return encoder, []


def _pretrain_and_unroll(
    X: FloatArray, settings: Settings, seed: int, verbose: int, watch: Stopwatch
) -> tuple[keras.Model, list[Any]]:
    """Run stages 1 and 2."""
    visible, scale = _encoders.column_scaling(X, settings.scaling)
    epochs = settings.pretraining_epochs
    top_epochs = round(epochs * 5 / 3)
    total = epochs * len(settings.hidden_units) + top_epochs
    title, value = "Stage 1, pretraining RBMs", "reconstruction_error"
    with progress.stage(title, total, len(X), value=value, verbose=verbose) as shown:
        rbms = training.pretrain(
            X if scale is None else (X - scale[0]) / scale[1],
            (*settings.hidden_units, settings.n_components),
            visible=visible,
            epochs=epochs,
            top_epochs=top_epochs,
            batch_size=PRETRAINING_ROWS,
            seed=seed,
            persistent=settings.pretraining == "pcd",
            callbacks=shown,
        )
    watch.lap("pretrain")
    encoder = training.unroll(rbms, scaling=scale)  # stage 2
    watch.lap("unroll")
    return encoder, [rbm.history.history for rbm in rbms]


def _finetune(
    encoder: keras.Model,
    data: tf.data.Dataset,
    settings: Settings,
    n: int,
    passes: int,
    callbacks: Sequence[keras.callbacks.Callback],
    verbose: int,
) -> keras.callbacks.History:
    """Run stage 3."""
    steps, epochs = int(data.cardinality()), settings.epochs // passes
    title = "Stage 3, fine-tuning on KL(P||Q)"
    with progress.stage(title, epochs, passes * n, verbose=verbose) as shown:
        return training.finetune(
            networks.head(encoder) if settings.initial_dims is not None else encoder,
            data.repeat(passes),
            dof=settings.dof,
            exaggeration=settings.exaggeration,
            epochs=epochs,
            callbacks=[*shown, *callbacks],
            **_optimization(settings, passes * steps, epochs),
        )


def _passes(settings: Settings, count: int) -> int:
    """Return how many passes over the rows make one epoch of Keras."""
    if settings.sampling != "graph" or settings.optimizer == "cg":
        return 1
    return _fit_graph.joined(count, settings.epochs)


def _optimization(settings: Settings, steps: int, epochs: int) -> dict[str, Any]:
    """Return the options of `training.finetune` for this many steps per epoch."""
    given, rate = settings.optimizer, settings.learning_rate
    if given == "cg":
        return {"optimizer": "cg"}
    if settings.sampling == "graph":
        # XLA would slow the wide networks of batch sampling.
        optimizer = _fit_graph.optimizer(given, rate, steps * epochs)
        return {"optimizer": optimizer, **_fit_graph.compilation(steps, epochs)}
    return {"learning_rate": rate} if given == "adam" else {"optimizer": _fit_graph.fresh(given)}
