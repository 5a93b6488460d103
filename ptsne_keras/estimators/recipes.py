"""What `ParametricTSNE` does with its settings: "auto" resolved, the stages run one by one."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from ptsne_keras import networks
from ptsne_keras.affinities.perplexity import several
from ptsne_keras.callbacks.checkpoint import Recorder, Unfinished
from ptsne_keras.data import batches
from ptsne_keras.data.order import batch_count
from ptsne_keras.estimators import graph
from ptsne_keras.training import conjugate_gradient, stages
from ptsne_keras.typing import Dof, FloatArray, Scaling, Units
from ptsne_keras.utils import arrays, pca
from ptsne_keras.utils.stopwatch import Stopwatch

# Of each RBM; the paper's.
_PRETRAINING_ROWS = 100
_PRETRAINING_EPOCHS = {"rbm": 30, "rbm-cd1": 30, "rbm-pcd": 100}
# The least updates of an RBM that "auto" epochs come to.
_PRETRAINING_UPDATES = 1300
# Passes of conjugate gradients, the paper's; and the least batches that "auto" epochs come to.
_CG_EPOCHS = 30
_CG_BATCHES = 120
# Steps of fine-tuning on random batches that "auto" epochs come to, about.
_BATCH_STEPS = 500
# Principal components that the network takes, at most.
_INITIAL_DIMS = 100
# KL is measured on at most so many batches of so many rows.
_SCORE_BATCHES = 10
_SCORE_ROWS = 2500

Bar = Callable[[str, int, tuple[str, ...], int], list[Any]]
"""Makes the callbacks that show a stage's progress: title, epochs, names of values, and rows that
an epoch goes over."""


@dataclass(frozen=True)
class Settings:
    """The parameters of `ParametricTSNE` with every "auto" resolved."""

    n_components: int
    perplexity: float | tuple[float, ...]
    sampling: str
    jitter: float
    initial_dims: int | None
    pretraining: str
    hidden_units: tuple[int, ...]
    activation: str
    visible: str
    dof: Dof | Literal["learn"]
    exaggeration: float
    batch_size: int
    epochs: int
    pretraining_epochs: int
    learning_rate: float
    optimizer: Any
    encoder: keras.Model | None


def resolve(parameters: dict[str, Any], n: int, features: int) -> Settings:
    """Replace every "auto" by what suits n rows of so many features."""
    p = {name: parameters[name] for name in Settings.__dataclass_fields__}
    rbm = p["pretraining"] != "none"
    own = p["encoder"] is not None

    def auto(name: str, value: Any) -> None:
        if isinstance(p[name], str) and p[name] == "auto":
            p[name] = value

    auto("sampling", "batch" if rbm else "graph")
    on_graph = p["sampling"] == "graph"
    auto("hidden_units", (500, 500, 2000) if rbm else (256, 256, 256))
    p["hidden_units"] = tuple(p["hidden_units"])
    auto("activation", "sigmoid" if rbm else "gelu")
    auto("learning_rate", 0.02 if p["activation"] == "sigmoid" else 1e-3 if own else 3e-3)
    auto("batch_size", 1024 if on_graph else 2500)
    auto("perplexity", max(1.5, min(15.0 if on_graph else 30.0, (n - 1) / 3)))
    # RBMs are trained on the rows themselves, pixels for instance.
    # So may a network be that the user brings.
    auto("initial_dims", None if rbm or own else _INITIAL_DIMS)
    if p["initial_dims"] is not None and p["initial_dims"] >= min(n, features):
        p["initial_dims"] = None
    per_epoch, _ = batches_an_epoch(p["sampling"], p["batch_size"], n)
    passes = graph.epochs(n, p["batch_size"]) if on_graph else -(-_BATCH_STEPS // per_epoch)
    cg_passes = max(_CG_EPOCHS, -(-_CG_BATCHES // per_epoch))
    auto("epochs", cg_passes if p["optimizer"] == "cg" else passes)
    updates = -(-n // _PRETRAINING_ROWS)
    least = _PRETRAINING_EPOCHS.get(p["pretraining"], 0)
    auto("pretraining_epochs", max(least, -(-_PRETRAINING_UPDATES // updates)))
    return Settings(**p)


def batches_an_epoch(sampling: str, batch_size: int, n: int) -> tuple[int, int]:
    """How many batches an epoch over n rows has, and how many rows a batch, about."""
    if sampling != "graph":
        count = batch_count(n, batch_size)
        return count, n // count
    count = graph.count(n, batch_size)
    return count, 2 * (n // count)  # rows drawn, and a neighbour of each


def fit(
    X: Any,
    settings: Settings,
    *,
    seed: int,
    bar: Bar,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    start: "Fitted | None" = None,
) -> "Fitted":
    """Run the stages that the settings ask for on rows [N, D], dense or sparse."""
    seeds = np.random.default_rng(seed).integers(2**31, size=4).tolist()
    _check_optimizer(settings.optimizer)
    history: dict[str, Any] = start.history if start else {"pretrain": [], "seconds": {}}
    watch = Stopwatch(history["seconds"])
    reduced, encoder = None, _copied(start.encoder) if start else None
    if settings.initial_dims is None:
        rows = X = X.toarray() if scipy.sparse.issparse(X) else X
    else:
        if encoder is None:
            reduced = pca.principal_components(X, settings.initial_dims, seed=seeds[0])
        rows = reduced.apply(X) if reduced else _projected(encoder, X)
        watch.lap("project")
    recorder = Recorder(start.left if start else None)
    # New draws where the last ones were stopped; fixed batches stay what they are.
    later = 0 if settings.sampling == "fixed" else recorder.before
    # Before any training, so that a perplexity that cannot work costs no time.
    data = _batches(rows, settings, seeds[1], seeds[2] + later)
    watch.lap("neighbors" if settings.sampling == "graph" else "batches")
    pretrained: list[Any] = history["pretrain"]
    if encoder is None:
        encoder, pretrained = _untrained(X, settings, reduced, seeds[3], bar, watch)
    finetuned = _finetuned(encoder, data, settings, len(rows), bar, [*callbacks, recorder])
    watch.lap("finetune")
    curves = {
        name: history.get("finetune", {}).get(name, [])[: recorder.before] + values
        for name, values in finetuned.history.items()
    }
    found: dict[str, Any] = {"pretrain": pretrained, "finetune": curves, "seconds": watch.seconds}
    left = None
    if recorder.weights is not None:
        left = Unfinished(recorder.epochs, seed, recorder.weights)
        found["stopped"] = recorder.epochs * _passes(settings, int(data.cardinality()))
    return Fitted(encoder, finetuned.model.dof, found, left)


def _check_optimizer(optimizer: Any) -> None:
    """Raise before any work, so that an optimizer that cannot run costs no time."""
    if optimizer == "cg":
        conjugate_gradient.check_backend()
        conjugate_gradient.check_precision(keras.config.dtype_policy().compute_dtype)
    else:
        _fresh(optimizer)


def _untrained(
    X: Any,
    settings: Settings,
    reduced: pca.Projection | None,
    seed: int,
    bar: Bar,
    watch: Stopwatch,
) -> tuple[keras.Model, list[Any]]:
    """Make the encoder that fine-tuning starts from, and the curves of each RBM."""
    if settings.pretraining != "none":
        return _pretrain_and_unroll(X, settings, seed, bar, watch)
    if settings.encoder is not None:
        # Checked and built first; then a copy, so that a second fit starts where this one does.
        networks.from_rows(settings.encoder, X.shape[1])
        return networks.from_rows(_copied(settings.encoder), X.shape[1]), []
    encoder = networks.encoder(
        X.shape[1],
        settings.n_components,
        hidden_units=settings.hidden_units,
        activation=settings.activation,
        scaling=reduced[:2] if reduced else scaling(X, settings.visible)[1],
        components=reduced.components if reduced else None,
        seed=seed,
    )
    return encoder, []


def _finetuned(
    encoder: keras.Model,
    data: tf.data.Dataset,
    settings: Settings,
    n: int,
    bar: Bar,
    callbacks: Sequence[keras.callbacks.Callback],
) -> keras.callbacks.History:
    """Run stage 3."""
    steps = int(data.cardinality())
    passes = _passes(settings, steps)
    epochs = settings.epochs // passes
    shown = bar("Stage 3, fine-tuning on KL(P||Q)", epochs, ("loss",), passes * n)
    return stages.finetune(
        networks.head(encoder) if settings.initial_dims is not None else encoder,
        data.repeat(passes),
        dof=settings.dof,
        exaggeration=settings.exaggeration,
        epochs=epochs,
        **_optimization(settings, settings.epochs * steps),
        callbacks=[*shown, *callbacks],
        **_compilation(settings, passes * steps, epochs),
    )


def _projected(encoder: keras.Model, X: Any) -> FloatArray:
    """Rows as the encoder's fixed first layers give them to the trained ones."""
    front = keras.Model(encoder.input, encoder.get_layer("projection").output)
    parts = [np.asarray(front(part, training=False)) for part in arrays.row_blocks(X)]
    return np.concatenate(parts)


def _copied(encoder: keras.Model) -> keras.Model:
    try:
        return copy.deepcopy(encoder)
    except TypeError as error:  # Keras copies a model by its configuration
        raise ValueError(
            "encoder should be one that Keras can copy: functional, Sequential, or of a class that "
            "keras.saving.register_keras_serializable has registered. "
            f"Received: {encoder.name!r} of {type(encoder).__name__}."
        ) from error


class Fitted(NamedTuple):
    """What a fit gives: the encoder from raw rows, the degrees of freedom, and the curves."""

    encoder: keras.Model
    dof: float
    history: dict[str, Any]
    left: Unfinished | None
    """None where fine-tuning came to its end."""


def _batches(rows: FloatArray, settings: Settings, search_seed: int, seed: int) -> tf.data.Dataset:
    """Build the pipeline of the sampling that the settings ask for."""
    if settings.sampling != "graph":
        return batches.from_array(
            rows,
            settings.perplexity,
            settings.batch_size,
            shuffle="once" if settings.sampling == "fixed" else True,
            seed=seed,
        )
    n = len(rows)
    largest = max(several(settings.perplexity))
    if not largest < n - 1:
        raise ValueError(
            f"perplexity should be below N - 1 = {n - 1}. Received: {settings.perplexity!r}."
        )
    return batches.from_graph(
        rows,
        settings.perplexity,
        settings.batch_size,
        neighbors=graph.search(rows, largest, search_seed),
        jitter=settings.jitter,
        seed=seed,
    )


def _passes(settings: Settings, count: int) -> int:
    """Choose how many passes over the rows Keras takes for one epoch."""
    if settings.sampling != "graph" or settings.optimizer == "cg":
        return 1
    return graph.joined(count, settings.epochs)


def _optimization(settings: Settings, steps: int) -> dict[str, Any]:
    """How the weights are found."""
    if settings.optimizer == "cg":
        return {"optimizer": "cg"}
    if settings.optimizer != "adam":
        return {"optimizer": _fresh(settings.optimizer)}
    if settings.sampling != "graph":
        return {"learning_rate": settings.learning_rate}
    return {"optimizer": graph.averaged(settings.learning_rate, steps)}


def _compilation(settings: Settings, steps: int, epochs: int) -> dict[str, Any]:
    """How the training step is compiled; the wide networks of batch sampling lose by XLA."""
    if settings.sampling != "graph" or settings.optimizer == "cg":
        return {}
    return graph.compilation(steps, epochs)


def _fresh(optimizer: Any) -> Any:
    """Give an optimizer like this one without its state: a second fit starts as this one does."""
    if isinstance(optimizer, str):
        return optimizer
    try:
        copied = type(optimizer).from_config(optimizer.get_config())
    except Exception as error:
        raise ValueError(
            "optimizer should be one that Keras can make again from its configuration: give it "
            f"numbers or a LearningRateSchedule. Received: {optimizer.name!r}; {error}"
        ) from error
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(optimizer, name):  # not in the configuration
            setattr(copied, name, getattr(optimizer, name))
    return copied


def _pretrain_and_unroll(
    X: FloatArray, settings: Settings, seed: int, bar: Bar, watch: Stopwatch
) -> tuple[keras.Model, list[Any]]:
    """Stages 1 and 2; returns the encoder and the curves of each RBM."""
    visible, scale = scaling(X, settings.visible)
    epochs, n = settings.pretraining_epochs, X.shape[0]
    top_epochs = round(epochs * 5 / 3)
    total = epochs * len(settings.hidden_units) + top_epochs
    rbms = stages.pretrain(
        X if scale is None else (X - scale[0]) / scale[1],
        (*settings.hidden_units, settings.n_components),
        visible=visible,
        epochs=epochs,
        top_epochs=top_epochs,
        batch_size=_PRETRAINING_ROWS,
        seed=seed,
        persistent=settings.pretraining == "rbm-pcd",
        callbacks=bar("Stage 1, RBM pretraining", total, ("reconstruction_error",), n),
    )
    watch.lap("pretrain")
    callbacks = bar("Stage 2, unrolling the RBMs into an encoder", 1, (), n)
    encoder = stages.unroll(rbms, scaling=scale)
    for callback in callbacks:
        callback.on_epoch_end(0)
    watch.lap("unroll")
    return encoder, [rbm.history.history for rbm in rbms]


def scaling(X: FloatArray, visible: str) -> tuple[Units, Scaling | None]:
    """Resolve `visible`, and the (shift, scale) that suits it, if any is needed."""
    low, high = float(X.min()), float(X.max())
    if visible == "auto":
        pixels = low >= 0 and (high <= 1 or (high <= 255 and bool((np.rint(X) == X).all())))
        visible = "bernoulli" if pixels else "gaussian"
    if visible == "bernoulli":
        inside = low >= 0 and high <= 1
        return "bernoulli", None if inside else (low, (high - low) or 1.0)
    # One scale for all columns: dividing a nearly constant column by its own deviation would let
    # a new row with an ordinary value there land anywhere.
    mean = X.mean(axis=0, dtype=np.float64)
    squares = sum(float(np.square(part - mean).sum()) for part in arrays.row_blocks(X))
    return "gaussian", (mean.astype(np.float32), math.sqrt(squares / X.size) or 1.0)


def score_batches(
    encoder: keras.Model, X: Any, settings: Settings
) -> tuple[keras.Model, tf.data.Dataset]:
    """Give the batches (X, P) on which KL(P‖Q) is measured, and the model that maps their rows."""
    scored = score_rows(encoder, X, settings)
    data = batches.from_array(
        scored.rows, settings.perplexity, scored.batch_size, shuffle="once", seed=0
    )
    return scored.model, data


class Scored(NamedTuple):
    """The rows on which KL(P‖Q) is measured, as the network's trained part sees them."""

    model: keras.Model
    """From these rows to the map."""
    rows: FloatArray
    numbers: Any
    """Of the rows in X."""
    batch_size: int


def score_rows(encoder: keras.Model, X: Any, settings: Settings) -> Scored:
    """Choose the rows on which KL(P‖Q) is measured, and project them where the encoder does."""
    size = settings.batch_size
    if settings.sampling == "graph":  # the perplexity may be too large for so few rows
        size = max(_SCORE_ROWS, math.ceil(3 * max(several(settings.perplexity))))
    numbers = np.arange(X.shape[0])
    if X.shape[0] > _SCORE_BATCHES * size:
        chosen = np.random.default_rng(0).choice(X.shape[0], _SCORE_BATCHES * size, replace=False)
        numbers = np.sort(chosen)
        X = X[numbers]
    layers = getattr(encoder, "layers", ())  # a map of another method has none
    if settings.encoder is None and any(layer.name == "projection" for layer in layers):
        encoder, X = networks.head(encoder), _projected(encoder, X)
    elif scipy.sparse.issparse(X):
        X = X.toarray()
    return Scored(encoder, X, numbers, size)
