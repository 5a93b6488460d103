"""The stages of a fit of `ParametricTSNE`, one after the other."""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from ptsne_keras import networks, training
from ptsne_keras.affinities.neighbors import Neighbors
from ptsne_keras.callbacks import progress
from ptsne_keras.callbacks.checkpoint import Recorder, Unfinished
from ptsne_keras.data import batches
from ptsne_keras.estimators import _encoders, _fit_graph, _placer
from ptsne_keras.estimators._encoders import mapped
from ptsne_keras.estimators._fit_graph import Graph
from ptsne_keras.estimators._placer import Placer
from ptsne_keras.estimators._settings import (
    PLACED_NEIGHBORS,
    PLACED_PERPLEXITY,
    PRETRAINING_ROWS,
    Settings,
)
from ptsne_keras.training import conjugate_gradient, descent
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import pca
from ptsne_keras.utils.stopwatch import Stopwatch
from ptsne_keras.utils.validation import check_trainable

# The most steps of batch sampling for which compiling the loss would take longer than it saves.
_INTERPRETED = 20
# Seconds of work after which a checkpoint is due at the end of fine-tuning; one takes 5 s at 60,000
# rows.
_LONG_TRAINING = 30.0
# The kernel has a width of about 1: rows of a map of this span repel one another alike.
_POINT = 0.1


class Placed(NamedTuple):
    """The rows of a map, freed, and what places new ones among them."""

    encoder: keras.Model
    embedding: FloatArray
    placer: Placer


class Fitted(NamedTuple):
    """The result of a fit, or what an unfinished one goes on from."""

    network: keras.Model
    dof: float
    history: dict[str, Any]
    left: Unfinished | None
    """None if fine-tuning reached its end."""
    placed: Placed | None = None
    """None for a network alone."""


def fit(
    X: Any,
    settings: Settings,
    *,
    seed: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
    start: Fitted | None = None,
    init: keras.Model | None = None,
    neighbors: Neighbors | None = None,
    codes: Any = None,
    keep: Callable[[Fitted], None] | None = None,
    checkpoint: Path | None = None,
    seconds: float = math.inf,
) -> Fitted:
    """Run the stages on rows [N, D], dense or sparse, or the rest of them from an earlier fit.

    `init` is the network of another fit, from whose map this one starts; `codes` [N] are classes.
    `keep` takes the unfinished fit every so many seconds of fine-tuning, and at its end; what else
    took long is kept in the folder `checkpoint`.
    """
    seeds = np.random.default_rng(seed).integers(2**31, size=4).tolist()
    _check_optimizer(settings)
    watch = Stopwatch(start.history["seconds"] if start else None)
    init = start.network if start else init
    network = _encoders.copied(init) if init else None
    recorder = Recorder(start.left if start else None, seconds)
    X, rows, reduced = _project(X, settings, seeds[0], watch, init)
    graph = None
    if settings.placement or settings.sampling == "graph":
        given = neighbors, codes, checkpoint
        graph = _fit_graph.graph(X, rows, reduced, settings, seeds[1], *given)
        watch.lap("neighbors")
    # Before any training, so that a perplexity that cannot work costs no time. Resumed, a fit draws
    # new batches; fixed ones stay the same.
    later = 0 if settings.sampling == "fixed" else recorder.before
    data = _batches(rows, settings, graph, seeds[2] + later)
    watch.lap("batches")
    pretrained = start.history["pretrain"] if start else []
    if network is None:
        network, pretrained = _untrained(X, settings, reduced, seeds[3], verbose, watch)
    passes = _passes(settings, int(data.cardinality()))
    head = networks.head(network) if settings.initial_dims is not None else network

    def trained() -> Fitted:
        watch.lap("finetune")
        history = {"pretrain": pretrained, "seconds": watch.seconds}
        return _trained(network, recorder, start, history, seed, passes)

    if keep is not None:
        recorder.keep = lambda: keep(trained())
    _finetune(head, data, settings, len(rows), passes, [*callbacks, recorder], verbose)
    fitted = trained()
    if not settings.placement or graph is None:
        return fitted
    if fitted.left is None and recorder.epochs > recorder.before:
        recorder.keep_after(min(seconds, _LONG_TRAINING))
    return _placed(X, mapped(head, rows), graph, settings, fitted, verbose, watch)


def _trained(
    network: keras.Model,
    recorder: Recorder,
    start: Fitted | None,
    history: dict[str, Any],
    seed: int,
    passes: int,
) -> Fitted:
    """Return the network as it is, with the curves so far, and what is left to do if it stopped."""
    before = start.history["finetune"] if start else {}
    history["finetune"] = {
        name: before.get(name, [])[: recorder.before] + values
        for name, values in recorder.model.history.history.items()
    }
    left = None
    if recorder.weights is not None:
        left = Unfinished(recorder.epochs, seed, recorder.weights)
        history["stopped"] = recorder.epochs * passes
    return Fitted(network, recorder.model.dof, history, left)


def _placed(
    X: Any,
    Y: FloatArray,
    graph: Graph,
    settings: Settings,
    fitted: Fitted,
    verbose: int,
    watch: Stopwatch,
) -> Fitted:
    """Free the rows of the network's map Y, and add what places others among them."""
    network, dof = fitted.network, fitted.dof
    # Who stops a fit does not wait for its last stage.
    if fitted.left is None and Y.shape[1] <= descent.TREE_DIMS:
        weighed = graph.neighbors, graph.P
        Y, fitted.history["refine"] = _fit_graph.refine(Y, *weighed, settings, dof, verbose)
        network = _encoders.aligned(network, X, Y)
        watch.lap("refine")
    options: dict[str, Any] = {"metric": settings.metric, "network": network, "dof": dof}
    options |= {"n_neighbors": PLACED_NEIGHBORS, "perplexity": PLACED_PERPLEXITY}
    encoder = _placer.encoder(X, graph.Z, Y, graph.reduced, graph.index, **options)
    watch.lap("placement")
    placed = Placed(encoder, Y, Placer(encoder, graph.index))
    return fitted._replace(network=network, placed=placed)


def warn_of_point(Y: FloatArray, settings: Settings) -> None:
    """Warn if attraction has drawn all rows of a map to one point."""
    span = float(np.ptp(Y, axis=0).max())
    if span < _POINT:
        warnings.warn(
            "The map is nearly one point: perplexity should be lower, exaggeration nearer 1, or "
            "epochs more. "
            f"Received: a map of span {span:.2g}, at perplexity {settings.perplexity} of "
            f"{len(Y)} rows and exaggeration {settings.exaggeration:.3g}.",
            stacklevel=4,
        )


def _check_optimizer(settings: Settings) -> None:
    """Raise if the optimizer cannot run, before any work."""
    policy = keras.config.dtype_policy()
    if settings.encoder is None:
        check_trainable(policy.variable_dtype, "keras.config.dtype_policy()")
    if settings.optimizer == "cg":
        conjugate_gradient.check_backend()
        conjugate_gradient.check_precision(keras.config.dtype_policy().compute_dtype)
    else:
        _fit_graph.fresh(settings.optimizer)


def _project(
    X: Any, settings: Settings, seed: int, watch: Stopwatch, init: keras.Model | None
) -> tuple[Any, FloatArray, pca.Projection | None]:
    """Return X, the rows that the trained layers see, and the projection that makes them."""
    if settings.initial_dims is None:
        X = X.toarray() if scipy.sparse.issparse(X) else X
        return X, X, None
    if init is None:
        reduced = pca.principal_components(X, settings.initial_dims, seed=seed)
    else:
        reduced = _encoders.projection(init)
    rows = reduced.apply(X)
    watch.lap("project")
    return X, rows, reduced


def _batches(
    rows: FloatArray, settings: Settings, graph: Graph | None, seed: int
) -> tf.data.Dataset:
    """Return the batches (X, P) by the sampling of the settings."""
    common = rows, settings.perplexity, settings.batch_size
    if settings.sampling == "graph" and graph is not None:
        options: dict[str, Any] = {"neighbors": graph.neighbors, "probabilities": graph.P}
        return batches.from_graph(*common, jitter=settings.jitter, seed=seed, **options)
    shuffle: Any = "once" if settings.sampling == "fixed" else True
    return batches.from_array(*common, shuffle=shuffle, seed=seed)


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
        d = settings.n_components
        reason = "n_components coordinates"
        return _encoders.own(settings.encoder, X.shape[1], d, reason, settings.metric), []
    scaling = reduced[:2] if reduced else _encoders.column_scaling(X, settings.scaling)[1]
    encoder = networks.encoder(
        X.shape[1],
        settings.n_components,
        hidden_units=settings.hidden_units,
        activation=settings.activation,
        scaling=scaling,
        components=reduced.components if reduced else None,
        metric=settings.metric,
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
    encoder = training.unroll(rbms, scaling=scale, metric=settings.metric)  # stage 2
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
            encoder,
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
    few = steps * epochs <= _INTERPRETED and keras.backend.backend() == "tensorflow"
    options = {"jit_compile": False} if few else {}
    chosen = {"learning_rate": rate} if given == "adam" else {"optimizer": _fit_graph.fresh(given)}
    return options | chosen
