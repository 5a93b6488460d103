"""A decoder, which learns rows by their places once a map is there."""

import functools
import math
from typing import Any

import keras
import numpy as np

from ptsne_keras import networks
from ptsne_keras.callbacks import progress
from ptsne_keras.data.sources import Source, source
from ptsne_keras.estimators import _encoders, _fit_regression
from ptsne_keras.networks.encoder import chain
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays
from ptsne_keras.utils.stopwatch import Stopwatch
from ptsne_keras.utils.validation import check_rows, check_trained

_UNITS, _WAVES, _RATE = (512, 512), 256, 3e-3
# Steps, in so many passes over the rows; the most places in a batch, and the fewest batches.
_STEPS, _PASSES, _BATCH, _BATCHES = 7000, (5, 100), 512, 32
# The part of the rows that is held out, and the most of them.
_PART, _HELD_OUT = 0.1, 2500
_SPREAD_ROWS = 2500


def checked(decoder: Any, d: int, features: int) -> Any:
    """Return whether there is to be a decoder, or a copy of the user's if it fits, or raise."""
    if not isinstance(decoder, keras.Model):
        return decoder
    shapes = [getattr(decoder, side, None) for side in ("input_shape", "output_shape")]
    if shapes != [(None, d), (None, features)]:
        raise ValueError(
            f"decoder should be a built model from map coordinates [B, {d}] to rows "
            f"[B, {features}]. Received: {decoder.name!r} from {shapes[0]} to {shapes[1]}."
        )
    check_trained(decoder.trainable_variables)
    _encoders.check_savable(decoder, "decoder")
    own = _encoders.copied(decoder, "decoder")
    own.name = "decoder"  # that of another layer, or a name that TensorFlow refuses, would not do
    return own


def fit(tsne: Any, X: Any, decoder: Any, seed: int) -> None:
    """Give a fit to raw rows X [N, D] a decoder from its map to them, of its own or the user's.

    It learns each row by its place and by that where it would be put if it were new.
    """
    watch, Y = Stopwatch(tsne.history_["seconds"]), tsne.embedding_
    seeds = np.random.default_rng(seed).integers(2**31, size=3).tolist()
    rows, n = source(X), len(Y)
    held_out = min(max(round(_PART * n), 1), _HELD_OUT)
    train, held_out = _fit_regression.split(n, held_out, seeds[0])
    model = _untrained(rows, Y, train, decoder, seeds[1])
    if tsne._placer is not None:
        Y = np.concatenate([Y, tsne._placer.place(X, skip=np.arange(n))])
        train, held_out = np.concatenate([train, n + train]), n + held_out
    twice = Source(len(Y), lambda i: rows.take(i % n), rows.blocks)
    batch = min(max(len(train) // _BATCHES, 4), _BATCH)
    data, validation = (
        _fit_regression.pairs(twice, Y, *part, shuffle=part[0] is train, seed=seeds[2]).map(
            lambda X, Y: (Y, X)
        )
        for part in ((train, batch), (held_out, _HELD_OUT))
    )
    sample = arrays.rows_at(X, _fit_regression.thinned(train % n, _SPREAD_ROWS))
    spread = math.sqrt(np.var(sample, axis=0, dtype=np.float64).mean()) or 1.0
    epochs = int(np.clip(_STEPS // len(data), *_PASSES))
    title = "Stage 5, rows by their places"
    with progress.stage(title, epochs, len(train), verbose=tsne.verbose) as shown:
        # The best of all passes: held-out rows gain most while the rate is low, at the end.
        options: dict[str, Any] = {"epochs": epochs, "patience": epochs, "callbacks": shown}
        options["optimizer"] = _fit_regression.falling(_RATE, epochs * len(data))
        curves = _fit_regression.trained(model, data, validation, spread, **options)
    watch.lap("decoder")
    tsne.decoder_, tsne.history_["decoder"] = model, curves
    tsne.history_["seconds"] = watch.seconds


def decoded(tsne: Any, Y: Any) -> FloatArray:
    """Return the rows [n, D] that the decoder of a fit expects at places Y [n, d]."""
    if tsne.decoder_ is None:
        raise ValueError(
            "decoder should be True, or a model, in a fit that reached its end, for "
            f"inverse_transform. Received: {tsne.decoder!r}."
        )
    Y = check_rows(Y, name="Y", dtype=np.float32)
    d = tsne.decoder_.input_shape[1]
    if Y.shape[1] != d:
        raise ValueError(f"Y should have the map's {d} columns. Received: {Y.shape[1]}.")
    return _encoders.mapped(tsne.decoder_, Y)


def _untrained(rows: Source, Y: FloatArray, train: Any, given: Any, seed: int) -> keras.Model:
    """Return the decoder with fixed first and last layers, in units of the map and of the rows."""
    d, scaling = Y.shape[1], (Y.mean(axis=0), math.sqrt(Y.var(axis=0).mean()) or 1.0)
    units = _fit_regression.standardization(rows, train)
    if isinstance(given, keras.Model):
        return chain(d, [given], scaling, units=units)
    waves = functools.partial(_waves, most=len(Y) ** (1 / d) / 4, seed=seed)
    options: dict[str, Any] = {"hidden_units": _UNITS, "activation": "gelu", "seed": seed}
    network = networks.encoder(d + 2 * _WAVES, len(units[0]), **options)
    return chain(d, [waves, network], scaling, units=units)


def _waves(y: Any, most: float, seed: int) -> Any:
    """Return places beside waves in random directions, without which a network is too smooth.

    They are about as long as the map, and down to one in `most` of that.
    """
    rng, options = np.random.default_rng(seed), {"dtype": "float32"}
    directions = rng.normal(size=(_WAVES, y.shape[1]))
    rates = np.exp(rng.uniform(0, np.log(max(most, 2)), size=(_WAVES, 1)))
    directions *= rates / np.linalg.norm(directions, axis=1, keepdims=True)
    # Not a product of matrices, which GPUs round to three digits.
    waves = keras.layers.RepeatVector(_WAVES, **options)(y)
    waves = keras.layers.Rescaling(directions.tolist(), **options)(waves)
    waves = keras.ops.sum(waves, axis=-1)
    parts = [y, keras.ops.sin(waves), keras.ops.cos(waves)]
    return keras.layers.Concatenate(**options)(parts)
