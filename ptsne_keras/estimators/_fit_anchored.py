"""A fit of `MapRegressor` that keeps neighbours and given places at once."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import keras
import numpy as np
import tensorflow as tf
from sklearn.neighbors import NearestNeighbors

from ptsne_keras import affinities, networks, training
from ptsne_keras.affinities.neighbors import Neighbors
from ptsne_keras.callbacks import progress
from ptsne_keras.data import batches
from ptsne_keras.estimators import _encoders, _fit_graph
from ptsne_keras.estimators._fit_regression import split, thinned
from ptsne_keras.estimators._settings import INITIAL_DIMS, MapSettings
from ptsne_keras.losses import AnchoredTSNE
from ptsne_keras.metrics import AnchorError
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays, pca
from ptsne_keras.utils.stopwatch import Stopwatch

# The most rows that principal components are found from.
_SAMPLE = 100_000
# The most rows that tell the scale of a map, and the scales that are tried.
_SCALE_ROWS = 4096
_SCALES = np.geomspace(1e-3, 1e5, 161)
# The most batches of held-out rows, and the fewest held-out rows that end the training early.
_MEASURED, _TELLING = 4, 8
_BLOCK = 4096
# The correlation from which on a map counts as the given one, moved and scaled. Without a weight on
# the given places it is another map.
_ALIKE = 0.5


def natural_scale(Y: FloatArray, near: Neighbors, *, exaggeration: float, seed: int) -> float:
    """Return the factor that brings a map to the size at which its rows have the least loss.

    The kernel of t-SNE has a width of about 1, but a map made elsewhere may have any units.

    Parameters
    ----------
    Y : ndarray of shape (n_samples, n_components)
        The map.
    near : Neighbors
        The nearest neighbours of the rows in the data.
    exaggeration : float
        The weight of the attraction in the loss.
    seed : int
        The seed for the rows that are drawn.

    Returns
    -------
    float

    Examples
    --------
    >>> near = neighbors.nearest(X, 45)
    >>> places = Y * natural_scale(Y, near, exaggeration=1.5, seed=0)
    """
    rng = np.random.default_rng(seed)
    n = len(Y)
    chosen = rng.choice(n, min(n, _SCALE_ROWS), replace=False)
    neighbors = near.indices[chosen, rng.integers(near.indices.shape[1], size=len(chosen))]
    others = chosen[rng.permutation(len(chosen))[:1024]]
    attraction = np.square(Y[chosen] - Y[neighbors], dtype=np.float64).sum(axis=1)  # [n]
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
    settings: MapSettings,
    *,
    seed: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> tuple[keras.Model, dict[str, Any], Any]:
    """Return the encoder in the map's units, its history, and the indices of held-out rows."""
    seeds = np.random.default_rng(seed).integers(2**31, size=7).tolist()
    watch = Stopwatch()
    train, held_out = split(X.shape[0], settings.held_out, seeds[0])
    encoder, trained, Z = _network(X, train, Y.shape[1], settings, seeds[1], seeds[4])
    watch.lap("project")
    near = _fit_graph.search(Z[train], settings.perplexity, seeds[2])
    watch.lap("neighbors")
    frame = _Frame.of(Y[train], near, settings.exaggeration, seeds[3])
    places = frame.apply(Y)
    data = batches.from_graph(
        Z[train],
        settings.perplexity,
        settings.batch_size,
        neighbors=near,
        jitter=settings.jitter,
        places=places[train],
        seed=seeds[5],
    )
    validation = _held_out_batches(Z, places, train, held_out, settings, seeds[6])
    curves = _finetune(
        trained, frame, data, validation, settings, len(train), len(held_out), callbacks, verbose
    )
    watch.lap("finetune")
    some = thinned(train, 4 * _BLOCK)
    U = trained.predict(Z[some], batch_size=_BLOCK, verbose=0)
    history = {"pretrain": [], "finetune": curves, "seconds": watch.seconds}
    return _in_map_units(encoder, U, Y[some], frame), history, held_out


def _network(
    X: Any, train: Any, d: int, settings: MapSettings, search_seed: int, seed: int
) -> tuple[keras.Model, keras.Model, FloatArray]:
    """Return the encoder from raw rows, the part of it that is trained, and the rows for that."""
    features = X.shape[1]
    if settings.encoder is not None:
        encoder = _encoders.own(settings.encoder, features, d)
        return encoder, encoder, np.asarray(arrays.dense(X), np.float32)
    m = min(INITIAL_DIMS, features, len(train))
    reduced = pca.principal_components(X[thinned(train, _SAMPLE)], m, seed=search_seed)
    encoder = networks.encoder(
        features,
        d,
        hidden_units=(256, 256, 256),
        activation="gelu",
        scaling=reduced[:2],
        components=reduced.components,
        seed=seed,
    )
    return encoder, networks.head(encoder), reduced.apply(X)


def _finetune(
    trained: keras.Model,
    frame: "_Frame",
    data: tf.data.Dataset,
    validation: tf.data.Dataset,
    settings: MapSettings,
    n: int,
    held_out: int,
    callbacks: Sequence[keras.callbacks.Callback],
    verbose: int,
) -> dict[str, Any]:
    """Train on KL(P‖Q) and the distance from the given places; return the curves."""
    steps = len(data)
    passes = _fit_graph.joined(steps, settings.epochs)
    epochs = settings.epochs // passes
    optimizer = _fit_graph.optimizer(
        settings.optimizer, settings.learning_rate, settings.epochs * steps
    )
    # The weights that are measured, and kept in the end, are the averaged ones.
    watching: list[Any] = [keras.callbacks.SwapEMAWeights()] if optimizer.use_ema else []
    if held_out >= _TELLING:
        watching.append(keras.callbacks.EarlyStopping("val_loss", patience=settings.patience))
    weight = settings.map_weight / frame.variance
    title = "Fitting rows and their neighbours to the map"
    with progress.stage(title, epochs, passes * n, verbose=verbose) as shown:
        fitted = training.finetune(
            _in_kernel_units(trained, frame),
            data.repeat(passes),
            loss=AnchoredTSNE(weight, exaggeration=settings.exaggeration),
            metrics=[AnchorError(frame.variance)],
            optimizer=optimizer,
            epochs=epochs,
            validation_data=validation,
            callbacks=[*watching, *shown, *callbacks],
            **_fit_graph.compilation(passes * steps, epochs),
        )
    return dict(fitted.history)


class _Frame(NamedTuple):
    """Where a map lies, and its size in units of the kernel of t-SNE."""

    middle: FloatArray
    """[d], the mean place"""
    spread: float
    """Root mean square of a coordinate about it."""
    factor: float
    """From the map's own units to those of the kernel."""
    dimensions: int

    @classmethod
    def of(cls, Y: FloatArray, near: Neighbors, exaggeration: float, seed: int) -> Self:
        """Return the frame of a map [N, d] whose rows have these neighbours."""
        middle = Y.mean(axis=0, dtype=np.float64)
        spread = math.sqrt(np.var(Y, axis=0, dtype=np.float64).mean()) or 1.0
        factor = natural_scale(Y, near, exaggeration=exaggeration, seed=seed)
        return cls(middle, spread, factor, Y.shape[1])

    @property
    def variance(self) -> float:
        """Mean squared distance of places from the middle, in units of the kernel."""
        return self.dimensions * (self.spread * self.factor) ** 2

    def apply(self, Y: FloatArray) -> FloatArray:
        """Return places [N, d] in units of the kernel."""
        return ((Y - self.middle) * self.factor).astype(np.float32)


def _in_kernel_units(trained: keras.Model, frame: _Frame) -> keras.Model:
    """Return the trained layers followed by a scale of the size that the kernel needs."""
    layer = keras.layers.Rescaling(frame.spread * frame.factor, dtype="float32")
    return keras.Model(trained.inputs[0], layer(trained.outputs[0]))


def _in_map_units(encoder: keras.Model, U: FloatArray, Y: FloatArray, frame: _Frame) -> keras.Model:
    """Return the encoder with a last layer to the map's own units."""
    A, B = (V - V.mean(axis=0, dtype=np.float64) for V in (U, Y))
    scale, shift = frame.spread, frame.middle
    if (A * B).sum() > _ALIKE * np.linalg.norm(A) * np.linalg.norm(B):
        scale = float((A * B).sum() / np.square(A).sum())
        shift = Y.mean(axis=0, dtype=np.float64) - scale * U.mean(axis=0, dtype=np.float64)
    units = keras.layers.Rescaling(scale, shift.tolist(), dtype="float32", name="units")
    return keras.Model(encoder.inputs[0], units(encoder.outputs[0]), name="encoder")


def _held_out_batches(
    Z: FloatArray, places: FloatArray, train: Any, held_out: Any, settings: MapSettings, seed: int
) -> tf.data.Dataset:
    """Return batches of held-out rows, each with a neighbour among the training rows."""
    h = min(max(settings.batch_size // 2, _TELLING), len(held_out))
    held_out = held_out[: h * min(len(held_out) // h, _MEASURED)]
    k = min(math.ceil(3 * settings.perplexity), len(train))
    distances, near = NearestNeighbors(n_neighbors=k).fit(Z[train]).kneighbors(Z[held_out])
    p = affinities.neighbor_probabilities(distances, min(settings.perplexity, k / 2))  # [h, k]
    u = np.random.default_rng(seed).random((len(held_out), 1))
    drawn = np.minimum((np.cumsum(p, axis=1) < u).sum(axis=1), k - 1)
    partners = train[near[np.arange(len(near)), drawn]]
    both = np.concatenate([held_out.reshape(-1, h), partners.reshape(-1, h)], axis=1)  # [m, 2h]
    P = np.full((*both.shape, 1), 1 / (2 * h), np.float32)
    return tf.data.Dataset.from_tensor_slices((Z[both], np.concatenate([P, places[both]], axis=2)))
