"""Regression onto map coordinates that are given: networks, held-out rows, correlations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ptsne_keras import networks
from ptsne_keras.callbacks.progress import EpochSeconds
from ptsne_keras.data import order, sources
from ptsne_keras.data.sources import Source
from ptsne_keras.typing import FloatArray, Scaling

# Rows to train on, at least.
_LEAST = 4
# Rows held out, at most: enough to know an error to some hundredths of itself.
_HELD_OUT = 2500
# Rows that a network is asked for at a time, and of which correlations are taken, at most.
_BLOCK = 4096


@dataclass(frozen=True)
class Preset:
    """A network and how it is trained."""

    hidden_units: tuple[int, ...]
    activation: str
    output: str
    towers: bool
    rates: tuple[float, float]


# "tanh" is what succeeded in practice where "elu" gave crossing lines and "towers" a cross-hair;
# they are here so that this can be seen.
PRESETS = {
    "gelu": Preset((256, 256, 256), "gelu", "linear", False, (3e-3, 3e-5)),
    "tanh": Preset((1024, 1024, 1024), "tanh", "sigmoid", False, (1e-4, 5e-5)),
    "elu": Preset((1024, 1024, 1024), "elu", "sigmoid", False, (1e-4, 5e-5)),
    "towers": Preset((1024, 1024, 1024), "tanh", "sigmoid", True, (1e-4, 5e-5)),
}


class Fitted(NamedTuple):
    """What a regression gives."""

    encoder: keras.Model
    """From raw rows to the map's own units."""
    history: dict[str, list[float]]
    """"error" and "val_error" an epoch: mean squared distance of training and held-out rows from
    their places, as a part of the map's variance; "loss" and "val_loss", if that is another."""
    held_out: npt.NDArray[np.int64]
    """Numbers of the rows that took no part in training."""


def split(n: int, fraction: float, seed: int) -> tuple[Any, Any]:
    """Numbers of the rows to train on and of those held out, sorted: at most 2,500 are."""
    count = min(max(round(n * fraction), 1), _HELD_OUT)
    if n - count < _LEAST:
        raise ValueError(
            f"At least {_LEAST} rows should be left to train on: there should be more rows, or a "
            f"smaller validation_fraction. Received: {n} rows, of which {count} are held out."
        )
    held_out = np.sort(np.random.default_rng(seed).choice(n, count, replace=False))
    return np.setdiff1d(np.arange(n), held_out), held_out


def thinned(numbers: Any, most: int) -> Any:
    """Every so manieth of the numbers, so that they are no more than `most`."""
    return numbers[:: -(-len(numbers) // most)]


def standardization(source: Source, chosen: Any) -> Scaling:
    """Mean and standard deviation [D] of each column over the chosen rows, block by block."""
    start, count = 0, 0
    total: Any = 0.0
    squares: Any = 0.0
    first: Any = None
    for block in source.blocks():
        inside = chosen[(chosen >= start) & (chosen < start + len(block))] - start
        start += len(block)
        part = block[inside].astype(np.float64)
        first = part[:1] if first is None and len(part) else first
        if len(part):  # about the first row, so that squares do not cancel
            total = total + (part - first).sum(axis=0)
            squares = squares + np.square(part - first).sum(axis=0)
            count += len(part)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0.0))
    floor = 1e-3 * np.sqrt(np.mean(np.square(deviation)))
    deviation[deviation <= floor] = 1.0 if floor == 0 else np.sqrt(np.mean(np.square(deviation)))
    return (mean + first[0]).astype(np.float32), deviation.astype(np.float32)


def unit_square(Y: FloatArray) -> Scaling:
    """(shift [d], scale) that take coordinates in [0, 1] to the map's own units."""
    low = Y.min(axis=0).astype(np.float64)
    scale = float((Y.max(axis=0) - low).max()) or 1.0
    middle = (Y.max(axis=0) + low) / 2
    return middle - scale / 2, np.full(Y.shape[1], scale)


def pairs(
    source: Source, Y: FloatArray, chosen: Any, batch_size: int, *, shuffle: bool, seed: int
) -> tf.data.Dataset:
    """Batches (X [b, D], Y [b, d]) of the chosen rows."""
    numbers = tf.constant(np.asarray(chosen, np.int64))
    targets = tf.constant(Y)
    batches = order.index_batches(len(chosen), batch_size, shuffle=shuffle, seed=seed)

    def take(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        own = tf.gather(numbers, i)
        return source.take(own), tf.gather(targets, own)

    return order.prefetched(batches.map(take))


def fit(
    X: Any,
    Y: FloatArray,
    *,
    preset: Preset = PRESETS["tanh"],
    batch_size: int,
    epochs: int,
    patience: int,
    fraction: float = 0.1,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: Any = 0,
) -> Fitted:
    """Train a network on the squared error of map coordinates, as long as held-out rows gain."""
    seeds = np.random.default_rng(seed).integers(2**31, size=3).tolist()
    source = sources.source(X)
    train, held_out = split(source.count, fraction, seeds[0])
    shift, scale = unit_square(Y[train])
    encoder = networks.encoder(
        X.shape[1],
        Y.shape[1],
        hidden_units=preset.hidden_units,
        activation=preset.activation,
        output=preset.output,
        towers=preset.towers,
        scaling=standardization(source, train),
        units=(shift, scale),
        seed=seeds[1],
    )
    spread = math.sqrt(np.var(Y[train], axis=0, dtype=np.float64).mean()) or 1.0
    data = pairs(source, Y, train, batch_size, shuffle=True, seed=seeds[2])
    steps = len(data)
    first, last = preset.rates
    schedule = keras.optimizers.schedules.PolynomialDecay(first, epochs * steps, last)
    trainer = keras.Model(encoder.inputs, encoder.outputs)
    trainer.compile(
        keras.optimizers.Adam(schedule),
        # Divided before it is squared: a map may be in units whose squares overflow.
        loss=lambda Y, Y_found: keras.ops.mean(((Y_found - Y) / spread) ** 2, axis=-1),
        steps_per_execution=min(steps, 64),
    )
    stop = keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True)
    history = trainer.fit(
        data.repeat(),
        steps_per_epoch=steps,
        epochs=epochs,
        validation_data=pairs(source, Y, held_out, _BLOCK, shuffle=False, seed=0),
        callbacks=[EpochSeconds(), stop, *callbacks],
        shuffle=False,
        verbose=verbose,
    )
    if not np.isfinite(history.history["loss"][-1]):
        raise ValueError(
            "The error became NaN or infinite: rows and map should have values of ordinary size. "
            f"Received: errors {history.history['loss']}."
        )
    names = {"error": "loss", "val_error": "val_loss", "seconds": "seconds"}
    curves = {name: history.history[found] for name, found in names.items()}
    return Fitted(encoder, curves, held_out)


def correlations(Y: FloatArray, Y_found: FloatArray) -> list[float]:
    """Pearson's correlation of each coordinate; 0 where one does not vary."""
    A = Y - Y.mean(axis=0, dtype=np.float64)
    B = Y_found - Y_found.mean(axis=0, dtype=np.float64)
    norms = np.linalg.norm(A, axis=0) * np.linalg.norm(B, axis=0)
    products = (A * B).sum(axis=0)
    return np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0).tolist()
