"""Training a network to place rows among their neighbours on a map that is given."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from ptsne_keras import affinities, networks
from ptsne_keras.affinities.neighbors import Neighbors, nearest
from ptsne_keras.data import batches
from ptsne_keras.estimators import graph, regression
from ptsne_keras.estimators.regression import Fitted, Preset
from ptsne_keras.losses import AnchoredTSNE
from ptsne_keras.metrics import AnchorError
from ptsne_keras.training import stages
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import pca

# Principal components that the network takes, and rows that they are found from, at most.
_INITIAL_DIMS = 100
_SAMPLE = 100_000
# Rows whose positions tell the scale of a map, and the scales that are tried.
_SCALE_ROWS = 4096
_SCALES = np.geomspace(1e-3, 1e5, 161)
# Batches of held-out rows on which the divergence is measured, at most; and rows below which it
# says too little to stop by.
_MEASURED = 4
_TELLING = 8
# Rows that the network is asked for at a time.
_BLOCK = 4096
# Correlation from which on a map is the given one, moved and scaled; without a weight it is not.
_ALIKE = 0.5


def natural_scale(Y: FloatArray, found: Neighbors, *, exaggeration: float, seed: int) -> float:
    """Find the factor by which a map has the size at which its own rows lie best."""
    rng = np.random.default_rng(seed)
    n = len(Y)
    chosen = rng.choice(n, min(n, _SCALE_ROWS), replace=False)
    near = found.indices[chosen, rng.integers(found.indices.shape[1], size=len(chosen))]
    others = chosen[rng.permutation(len(chosen))[:1024]]
    attraction = np.square(Y[chosen] - Y[near], dtype=np.float64).sum(axis=1)  # [n]
    D2 = np.square(Y[chosen][:, None] - Y[others][None], dtype=np.float64).sum(axis=2)  # [n, m]
    typical = float(np.var(Y, axis=0, dtype=np.float64).mean()) or 1.0
    keep = D2 > 0.0  # a row does not repel itself
    losses = []
    for f2 in np.square(_SCALES) / typical:
        total = np.where(keep, 1.0 / (1.0 + f2 * D2), 0.0).sum()
        log_Z = math.log(max(float(total), np.finfo(float).tiny))
        losses.append(np.mean(exaggeration * np.log1p(f2 * attraction)) + log_Z)
    return float(_SCALES[int(np.argmin(losses))] / math.sqrt(typical))


def fit(
    X: Any,
    Y: FloatArray,
    *,
    preset: Preset,
    map_weight: float,
    perplexity: float,
    jitter: float,
    exaggeration: float,
    batch_size: int,
    epochs: int | None,
    patience: int,
    fraction: float = 0.1,
    seed: int = 0,
    bar: Callable[[int, int], list[Any]] = lambda epochs, rows: [],
) -> Fitted:
    """Train a network on KL(P‖Q) and closeness to the given map at once."""
    seeds = np.random.default_rng(seed).integers(2**31, size=7).tolist()
    train, held_out = regression.split(X.shape[0], fraction, seeds[0])
    m = min(_INITIAL_DIMS, X.shape[1], len(train))
    some = regression.thinned(train, _SAMPLE)
    reduced = pca.principal_components(X[some], m, seed=seeds[1])
    Z = reduced.apply(X)
    perplexity = min(perplexity, max(1.5, (len(train) - 1) / 3))
    near = graph.search(Z[train], perplexity, seeds[2])
    frame = _frame(Y[train], near, exaggeration, seeds[3])
    encoder = networks.encoder(
        X.shape[1],
        Y.shape[1],
        hidden_units=preset.hidden_units,
        activation=preset.activation,
        scaling=reduced[:2],
        components=reduced.components,
        seed=seeds[4],
    )
    places = frame.apply(Y)
    data = batches.from_graph(
        Z[train],
        perplexity,
        batch_size,
        neighbors=near,
        jitter=jitter,
        places=places[train],
        seed=seeds[5],
    )
    epochs = graph.epochs(len(train), batch_size) if epochs is None else epochs
    passes = graph.joined(len(data), epochs)
    validation = _held_out_batches(Z, places, train, held_out, perplexity, batch_size, seeds[6])
    # What is measured, and kept in the end, are the averaged weights.
    stop = keras.callbacks.EarlyStopping("val_loss", patience=patience)
    watching = [keras.callbacks.SwapEMAWeights()] + [stop] * (len(held_out) >= _TELLING)
    head = networks.head(encoder)
    fitted = stages.finetune(
        _in_kernel_units(head, frame),
        data.repeat(passes),
        loss=AnchoredTSNE(map_weight / frame.variance, exaggeration=exaggeration),
        metrics=[AnchorError(frame.variance)],
        optimizer=graph.averaged(preset.rates[0], epochs * len(data)),
        epochs=epochs // passes,
        validation_data=validation,
        callbacks=[*watching, *bar(epochs // passes, passes * len(train))],
        **graph.compilation(passes * len(data), epochs // passes),
    )
    some = regression.thinned(train, 4 * _BLOCK)
    U = head.predict(Z[some], batch_size=_BLOCK, verbose=0)
    return Fitted(_in_map_units(encoder, U, Y[some], frame), fitted.history, held_out)


class _Frame(NamedTuple):
    """Where a map lies, and its size in units of the kernel of t-SNE."""

    middle: FloatArray
    """[d], the mean place"""
    spread: float
    """Root mean square of a coordinate about it."""
    factor: float
    """From the map's own units to those of the kernel."""
    dimensions: int

    @property
    def variance(self) -> float:
        """Mean squared distance of places from the middle, in units of the kernel."""
        return self.dimensions * (self.spread * self.factor) ** 2

    def apply(self, Y: FloatArray) -> FloatArray:
        """Places [N, d] in units of the kernel."""
        return ((Y - self.middle) * self.factor).astype(np.float32)


def _frame(Y: FloatArray, near: Neighbors, exaggeration: float, seed: int) -> _Frame:
    middle = Y.mean(axis=0, dtype=np.float64)
    spread = math.sqrt(np.var(Y, axis=0, dtype=np.float64).mean()) or 1.0
    factor = natural_scale(Y, near, exaggeration=exaggeration, seed=seed)
    return _Frame(middle, spread, factor, Y.shape[1])


def _in_kernel_units(head: keras.Model, frame: _Frame) -> keras.Model:
    """Let the trained layers give coordinates of the size that the kernel wants."""
    layer = keras.layers.Rescaling(frame.spread * frame.factor, dtype="float32")
    return keras.Model(head.input, layer(head.output))


def _in_map_units(encoder: keras.Model, U: FloatArray, Y: FloatArray, frame: _Frame) -> keras.Model:
    """Let the encoder give coordinates in the map's own units."""
    A, B = (V - V.mean(axis=0, dtype=np.float64) for V in (U, Y))
    scale, shift = frame.spread, frame.middle
    if (A * B).sum() > _ALIKE * np.linalg.norm(A) * np.linalg.norm(B):
        scale = float((A * B).sum() / np.square(A).sum())
        shift = Y.mean(axis=0, dtype=np.float64) - scale * U.mean(axis=0, dtype=np.float64)
    units = keras.layers.Rescaling(scale, shift.tolist(), dtype="float32", name="units")
    return keras.Model(encoder.input, units(encoder.output), name="encoder")


def _held_out_batches(
    Z: FloatArray,
    places: FloatArray,
    train: Any,
    held_out: Any,
    perplexity: float,
    batch_size: int,
    seed: int,
) -> tf.data.Dataset:
    """Held-out rows, each with a neighbour among the training rows, as in training but unmoved."""
    h = min(max(batch_size // 2, _TELLING), len(held_out))
    held_out = held_out[: h * min(len(held_out) // h, _MEASURED)]
    k = min(math.ceil(3 * perplexity), len(train))
    near, distances = nearest(Z[train], k, queries=Z[held_out], seed=seed)
    p = affinities.neighbor_probabilities(distances, min(perplexity, k / 2))  # [h, k]
    u = np.random.default_rng(seed).random((len(held_out), 1))
    drawn = np.minimum((np.cumsum(p, axis=1) < u).sum(axis=1), k - 1)
    partners = train[near[np.arange(len(near)), drawn]]
    both = np.concatenate([held_out.reshape(-1, h), partners.reshape(-1, h)], axis=1)  # [m, 2h]
    P = np.full((*both.shape, 1), 1 / (2 * h), np.float32)
    batches = (Z[both], np.concatenate([P, places[both]], axis=2))
    return tf.data.Dataset.from_tensor_slices(batches)
