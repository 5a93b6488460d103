"""A fit of `MapRegressor` on squared errors alone, and what both kinds of fit report."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.preprocessing import StandardScaler

from ptsne_keras import networks
from ptsne_keras.callbacks import progress
from ptsne_keras.data import order
from ptsne_keras.data.sources import Source, source
from ptsne_keras.estimators import _encoders, _fit_graph
from ptsne_keras.estimators._settings import MapSettings
from ptsne_keras.typing import FloatArray, Scaling
from ptsne_keras.utils.stopwatch import Stopwatch
from ptsne_keras.utils.validation import check_trained

# The last learning rate as a part of the first.
_LAST_RATE = 0.01
_BLOCK = 4096


def split(n: int, held_out: int, seed: int) -> tuple[Any, Any]:
    """Return the sorted indices of the rows to train on, and of those held out."""
    chosen = np.sort(np.random.default_rng(seed).choice(n, held_out, replace=False))
    return np.setdiff1d(np.arange(n), chosen), chosen


def thinned(indices: Any, most: int) -> Any:
    """Return at most this many of the indices, evenly spread."""
    return indices[:: -(-len(indices) // most)]


def fit(
    X: Any,
    Y: FloatArray,
    settings: MapSettings,
    *,
    seed: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> tuple[keras.Model, dict[str, Any], Any]:
    """Return the encoder in the map's units, its history, and the indices of held-out rows."""
    seeds = np.random.default_rng(seed).integers(2**31, size=3).tolist()
    watch = Stopwatch()
    rows = source(X)
    train, held_out = split(rows.count, settings.held_out, seeds[0])
    encoder = _network(rows, X.shape[1], train, Y, settings, seeds[1])
    watch.lap("standardize")
    data = pairs(rows, Y, train, settings.batch_size, shuffle=True, seed=seeds[2])
    validation = pairs(rows, Y, held_out, _BLOCK, shuffle=False, seed=0)
    spread = math.sqrt(np.var(Y[train], axis=0, dtype=np.float64).mean()) or 1.0
    with progress.stage(
        "Fitting rows to the map", settings.epochs, len(train), verbose=verbose
    ) as shown:
        curves = trained(
            encoder,
            data,
            validation,
            spread,
            _optimizer(settings, settings.epochs * len(data)),
            epochs=settings.epochs,
            patience=settings.patience,
            callbacks=[*shown, *callbacks],
        )
    watch.lap("finetune")
    history = {"pretrain": [], "finetune": curves, "seconds": watch.seconds}
    return encoder, history, held_out


def _network(
    rows: Source, features: int, train: Any, Y: FloatArray, settings: MapSettings, seed: int
) -> keras.Model:
    """Return the untrained encoder from raw rows to the map's units."""
    units, d = unit_square(Y[train]), Y.shape[1]
    if settings.encoder is None:
        return networks.encoder(
            features,
            d,
            hidden_units=(256, 256, 256),
            activation="gelu",
            scaling=standardization(rows, train),
            units=units,
            metric=settings.metric,
            seed=seed,
        )
    reason = "as many coordinates as y has"
    encoder = _encoders.own(settings.encoder, features, d, reason, settings.metric)
    shift, scale = (np.asarray(values).tolist() for values in units)
    name = _encoders.free_name(encoder, "units")
    layer = keras.layers.Rescaling(scale, shift, dtype="float32", name=name)
    return keras.Model(encoder.inputs[0], layer(encoder.outputs[0]), name="encoder")


def trained(
    model: keras.Model,
    data: tf.data.Dataset,
    validation: tf.data.Dataset,
    spread: float,
    optimizer: Any,
    *,
    epochs: int,
    patience: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> dict[str, Any]:
    """Train a model on squares as long as held-out rows gain; return the curves."""
    trainer = keras.Model(model.inputs, model.outputs)
    trainer.compile(
        optimizer,
        # Divided before it is squared: a map may be in units whose squares overflow.
        loss=lambda Y, Y_found: keras.ops.mean(((Y_found - Y) / spread) ** 2, axis=-1),
        steps_per_execution=min(len(data), 64),
    )
    check_trained(trainer.trainable_variables)
    trainer.optimizer.build(trainer.trainable_variables)  # or the first step is traced twice
    stop = keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True)
    found = trainer.fit(
        data.repeat(),
        steps_per_epoch=len(data),
        epochs=epochs,
        validation_data=validation,
        callbacks=[progress.EpochSeconds(), stop, *callbacks],
        shuffle=False,
        verbose=0,
    ).history
    if not np.isfinite(found["loss"][-1]):
        raise ValueError(
            "The error became NaN or infinite: rows and map should have values of ordinary size, "
            f"or learning_rate should be smaller. Received: errors {found['loss']}."
        )
    names = {"error": "loss", "val_error": "val_loss", "seconds": "seconds"}
    return {name: found[kept] for name, kept in names.items()}


def _optimizer(settings: MapSettings, steps: int) -> Any:
    """Return the given optimizer, or an Adam whose rate falls linearly to a hundredth."""
    if settings.optimizer != "adam":
        return _fit_graph.fresh(settings.optimizer)
    return falling(settings.learning_rate, steps)


def falling(first: float, steps: int) -> keras.optimizers.Optimizer:
    """Return an Adam whose rate falls linearly to a hundredth."""
    schedule = keras.optimizers.schedules.PolynomialDecay(first, steps, first * _LAST_RATE)
    return keras.optimizers.Adam(schedule)


def standardization(rows: Source, chosen: Any) -> Scaling:
    """Return mean and standard deviation [D] of each column over the chosen rows."""
    scaler, start = StandardScaler(), 0
    for block in rows.blocks():
        inside = chosen[(chosen >= start) & (chosen < start + len(block))] - start
        start += len(block)
        if len(inside):
            scaler.partial_fit(block[inside].astype(np.float64))
    typical = np.sqrt(np.mean(scaler.var_)) or 1.0
    deviation = np.sqrt(scaler.var_)
    deviation[deviation <= 1e-3 * typical] = typical
    return scaler.mean_.astype(np.float32), deviation.astype(np.float32)


def unit_square(Y: FloatArray) -> Scaling:
    """Return (shift [d], scale [d]) from coordinates in [0, 1] to the map's own units."""
    low = Y.min(axis=0).astype(np.float64)
    scale = float((Y.max(axis=0) - low).max()) or 1.0
    middle = (Y.max(axis=0) + low) / 2
    return middle - scale / 2, np.full(Y.shape[1], scale)


def pairs(
    rows: Source, Y: FloatArray, chosen: Any, batch_size: int, *, shuffle: bool, seed: int
) -> tf.data.Dataset:
    """Return batches (X [b, D], Y [b, d]) of the chosen rows."""
    numbers = tf.constant(np.asarray(chosen, np.int64))
    targets = tf.constant(Y)
    batches = order.index_batches(len(chosen), batch_size, shuffle=shuffle, seed=seed)

    def take(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        own = tf.gather(numbers, i)
        return rows.take(own), tf.gather(targets, own)

    return order.prefetched(batches.map(take))


def correlations(Y: FloatArray, Y_found: FloatArray) -> list[float]:
    """Return Pearson's correlation of each coordinate; 0 if one of the two is constant."""
    A = Y - Y.mean(axis=0, dtype=np.float64)
    B = Y_found - Y_found.mean(axis=0, dtype=np.float64)
    norms = np.linalg.norm(A, axis=0) * np.linalg.norm(B, axis=0)
    products = (A * B).sum(axis=0)
    return np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0).tolist()
