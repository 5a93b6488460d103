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

_UNITS, _WAVES, _RATE = (256, 256, 256), 12, 3e-3
# Places in a batch: as many steps in an epoch as these, within these bounds.
_STEPS, _BATCH = 32, (16, 512)
# The most passes over the rows, and those without a gain on held-out rows after which it ends.
_EPOCHS, _PATIENCE = 100, 10
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
    _encoders.check_savable(decoder, "decoder")
    return _encoders.copied(decoder, "decoder")


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
    batch = int(np.clip(len(train) // _STEPS, *_BATCH))
    data, validation = (
        _fit_regression.pairs(twice, Y, *part, shuffle=part[0] is train, seed=seeds[2]).map(
            lambda X, Y: (Y, X)
        )
        for part in ((train, batch), (held_out, _HELD_OUT))
    )
    sample = arrays.rows_at(X, _fit_regression.thinned(train % n, _SPREAD_ROWS))
    spread = math.sqrt(np.var(sample, axis=0, dtype=np.float64).mean()) or 1.0
    optimizer = _fit_regression.falling(_RATE, _EPOCHS * len(data))
    title = "Stage 5, rows by their places"
    with progress.stage(title, _EPOCHS, len(train), verbose=tsne.verbose) as shown:
        options: dict[str, Any] = {"epochs": _EPOCHS, "patience": _PATIENCE, "callbacks": shown}
        curves = _fit_regression.trained(model, data, validation, spread, optimizer, **options)
    watch.lap("decoder")
    tsne.decoder_, tsne.history_["decoder"] = model, curves
    tsne.history_["seconds"] = watch.seconds


def _untrained(rows: Source, Y: FloatArray, train: Any, given: Any, seed: int) -> keras.Model:
    """Return the decoder with fixed first and last layers, in units of the map and of the rows."""
    d, scaling = Y.shape[1], (Y.mean(axis=0), math.sqrt(Y.var(axis=0).mean()) or 1.0)
    units = _fit_regression.standardization(rows, train)
    layers: list[Any] = [given]
    if not isinstance(given, keras.Model):
        waves, width = functools.partial(_waves, most=len(Y) ** (1 / d) / 3), d + 2 * d * _WAVES
        options: dict[str, Any] = {"hidden_units": _UNITS, "activation": "gelu", "seed": seed}
        layers = [waves, networks.encoder(width, len(units[0]), **options)]
    return chain(d, layers, scaling, units=units)


def _waves(y: Any, most: float) -> Any:
    """Return places beside waves of each coordinate, without which a network is too smooth.

    They are about as long as the map, and down to one in `most` of that.
    """
    rates = np.geomspace(1, max(most, 2), _WAVES)[:, None].tolist()
    options: dict[str, Any] = {"dtype": "float32"}
    waves = keras.layers.RepeatVector(_WAVES, **options)(y)
    waves = keras.layers.Flatten(**options)(keras.layers.Rescaling(rates, **options)(waves))
    parts = [y, keras.ops.sin(waves), keras.ops.cos(waves)]
    return keras.layers.Concatenate(**options)(parts)
