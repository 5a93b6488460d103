"""The parameters of an estimator with every "auto" resolved, once per fit."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import keras
import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from ptsne_keras.affinities.perplexity import several
from ptsne_keras.data import batches
from ptsne_keras.data.order import batch_count
from ptsne_keras.typing import Dof

# The paper's: rows in an update of an RBM, and epochs of each by pretraining.
PRETRAINING_ROWS = 100
_PRETRAINING_EPOCHS = {"cd1": 30, "pcd": 100}
# The fewest updates of an RBM for "auto" epochs.
_PRETRAINING_UPDATES = 1300
# Passes of conjugate gradients, the paper's, and the fewest batches for "auto" epochs.
_CG_EPOCHS, _CG_BATCHES = 30, 120
# Steps on random batches for "auto" epochs.
_BATCH_STEPS = 500
# Steps along the graph for "auto" epochs: 1.6 per row within these bounds, and the fewest passes.
_GRAPH_STEPS, _GRAPH_EPOCHS = (8000, 16_000), 8
# The same for a network that only starts what is then refined and placed.
_PLACED_STEPS, _PLACED_EPOCHS = (200, 3000), 4
# Rows in a batch: Q takes most of the time of a step, and few rows with placement need less.
_FEW, _FEW_BATCH, _GRAPH_BATCH = 5000, 256, 1024
# The most principal components that the network takes.
INITIAL_DIMS = 100
# The most principal components that neighbours are sought by.
SEARCH_DIMS = 50
# The neighbours that a new row is placed among, and their effective number.
PLACED_NEIGHBORS, PLACED_PERPLEXITY = 15, 5.0
# Weight of the attraction for a network alone, and for one whose rows are freed, but that fewer
# rows than this keep more of their neighbours without.
_EXAGGERATION, _FREED_EXAGGERATION, _PLAIN = 1.5, 1.2, 500
# The most exaggeration is 1 plus this times how far the perplexity is from the number of rows.
_NEARLY_UNIFORM = 2.0
# Passes of regression on squares.
_REGRESSION_EPOCHS = 1000
# The most rows held out, enough to know an error to a few percent, and the fewest to train on.
_HELD_OUT, _TRAINED = 2500, 4


_AUTO = StrOptions({"auto"})
JOBS: list[Any] = [
    Interval(Integral, 1, None, closed="left"),
    Interval(Integral, None, -1, closed="right"),
    None,
]
# What the parameters of `ParametricTSNE` may be.
CONSTRAINTS: dict[str, list[Any]] = {
    "n_components": [Interval(Integral, 1, None, closed="left")],
    "perplexity": [Interval(Real, 1, None, closed="neither"), "array-like", _AUTO],
    "metric": [StrOptions({"euclidean", "cosine", "correlation"})],
    "label_weight": [Interval(Real, 0, 1, closed="both")],
    "placement": ["boolean"],
    "sampling": [StrOptions({"auto", "graph", "batch", "fixed"})],
    "jitter": [Interval(Real, 0, None, closed="left")],
    "initial_dims": [Interval(Integral, 1, None, closed="left"), None, _AUTO],
    "pretraining": [StrOptions({"cd1", "pcd"}), None],
    "hidden_units": ["array-like", _AUTO],
    "activation": [str],
    "scaling": [StrOptions({"auto", "unit", "standard"})],
    "dof": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto", "learn"})],
    "exaggeration": [Interval(Real, 0, None, closed="neither"), _AUTO],
    "batch_size": [Interval(Integral, 4, None, closed="left"), _AUTO],
    "epochs": [Interval(Integral, 1, None, closed="left"), _AUTO],
    "pretraining_epochs": [Interval(Integral, 1, None, closed="left"), _AUTO],
    "learning_rate": [Interval(Real, 0, None, closed="neither"), _AUTO],
    "optimizer": [StrOptions({"adam", "cg"}), keras.optimizers.Optimizer],
    "encoder": [keras.Model, None],
    "decoder": ["boolean", keras.Model],
    "max_train_rows": [Interval(Integral, 4, None, closed="left"), None],
    "n_jobs": JOBS,
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}
# Those of the 2009 paper.
PAPER: Mapping[str, Any] = {
    "placement": False,
    "pretraining": "cd1",
    "sampling": "fixed",
    "jitter": 0.0,
    "initial_dims": None,
    "hidden_units": (500, 500, 2000),
    "activation": "sigmoid",
    "dof": 1.0,
    "exaggeration": 1.0,
    "batch_size": 5000,
    "optimizer": "cg",
}


@dataclass(frozen=True)
class Settings:
    """The parameters of `ParametricTSNE` that a fit depends on, resolved."""

    n_components: int
    perplexity: float | tuple[float, ...]
    metric: str
    label_weight: float
    placement: bool
    sampling: str
    jitter: float
    initial_dims: int | None
    pretraining: str | None
    hidden_units: tuple[int, ...]
    activation: str
    scaling: str
    dof: Dof | Literal["learn"]
    exaggeration: float
    batch_size: int
    epochs: int
    pretraining_epochs: int
    learning_rate: float
    optimizer: Any
    encoder: keras.Model | None
    auto_perplexity: float | None
    """The perplexity of many rows, or None if it was given."""
    neighbors: int | None = None
    """How many neighbours of each row were given, or None."""
    rows: int = 0
    """How many rows are learned from."""

    def perplexity_of(self, n: int) -> float | tuple[float, ...]:
        """Return the perplexity at which the map of n other rows is scored."""
        return (
            self.perplexity if self.auto_perplexity is None else _at_most(self.auto_perplexity, n)
        )


@dataclass(frozen=True)
class MapSettings:
    """The parameters of `MapRegressor` that a fit depends on, resolved."""

    objective: str
    n_neighbors: int
    perplexity: float
    metric: str
    dof: float
    encoder: keras.Model | None
    batch_size: int
    epochs: int
    learning_rate: float
    optimizer: Any
    patience: int
    held_out: int
    """The number of rows held out."""


def check_learning_rate(estimator: Any) -> None:
    """Raise if there is a learning rate that the optimizer would ignore."""
    if estimator.learning_rate != "auto" and estimator.optimizer != "adam":
        raise ValueError(
            'learning_rate should be "auto" unless optimizer is "adam"; conjugate gradients have '
            f"none, and other optimizers their own. Received: {estimator.learning_rate!r}."
        )


def check_parameters(tsne: Any) -> None:
    """Raise for what the constraints of a single parameter of `ParametricTSNE` cannot express."""
    check_learning_rate(tsne)
    widths: list[Any] = [1] if isinstance(tsne.hidden_units, str) else list(tsne.hidden_units)
    if not widths or not all(isinstance(w, Integral) and int(w) >= 1 for w in widths):
        raise ValueError(
            'hidden_units should be "auto" or one or more integers of at least 1. '
            f"Received: {tsne.hidden_units!r}."
        )
    rbms, own = tsne.pretraining is not None, tsne.encoder is not None
    if (rbms or own) and tsne.initial_dims not in ("auto", None):
        kind = "RBMs, which are" if rbms else "an encoder of your own, which is"
        raise ValueError(
            f"initial_dims should be None with {kind} trained on the columns themselves. "
            f"Received: {tsne.initial_dims!r}."
        )
    if rbms and own:
        raise ValueError(
            "encoder should be None with RBMs, which make their own; set pretraining=None for "
            f"yours. Received: {tsne.encoder.name!r}."
        )
    if rbms and tsne.activation not in ("auto", "sigmoid"):
        raise ValueError(
            'activation should be "sigmoid" with RBMs; set pretraining=None for others. '
            f"Received: {tsne.activation!r}."
        )


def resolve(
    parameters: Mapping[str, Any], n: int, features: int, neighbors: int | None = None
) -> Settings:
    """Return the settings of a fit of n rows with this many features, and neighbours if given."""
    names = Settings.__dataclass_fields__.keys() - {"auto_perplexity", "neighbors", "rows"}
    p = {name: parameters[name] for name in names}
    automatic = {name for name, value in p.items() if isinstance(value, str) and value == "auto"}
    rbms, own = p["pretraining"] is not None, p["encoder"] is not None

    def auto(name: str, value: Any) -> None:
        if name in automatic:
            p[name] = value

    auto("sampling", "batch" if rbms else "graph")
    graph = p["sampling"] == "graph"
    if neighbors is not None and not graph:
        raise ValueError(
            'sampling should be "graph" with neighbors, of which random batches make no use. '
            f"Received: {p['sampling']!r}."
        )
    auto("hidden_units", (500, 500, 2000) if rbms else (256, 256, 256))
    p["hidden_units"] = tuple(p["hidden_units"])
    auto("activation", "sigmoid" if rbms else "gelu")
    auto("learning_rate", 0.02 if p["activation"] == "sigmoid" else _learning_rate(own))
    few = p["placement"] and n <= _FEW
    most = 15.0 if graph and not few else 30.0
    most = most if neighbors is None else max(1.5, min(most, neighbors / 3))
    auto("batch_size", (_FEW_BATCH if few else _GRAPH_BATCH) if graph else 2500)
    auto("perplexity", _at_most(most, n))
    # RBMs learn from the rows themselves, such as pixels, and so may a network of the user's own.
    auto("initial_dims", None if rbms or own else INITIAL_DIMS)
    if p["initial_dims"] is not None and p["initial_dims"] >= min(n, features):
        p["initial_dims"] = None
    bearable = _bearable(p["perplexity"], n if graph else min(p["batch_size"], n))
    freed = _FREED_EXAGGERATION if n > _PLAIN else 1.0
    auto("exaggeration", min(freed if p["placement"] else _EXAGGERATION, bearable))
    auto("epochs", _epochs(p, n))
    least = _PRETRAINING_EPOCHS.get(p["pretraining"], 0)
    auto("pretraining_epochs", max(least, -(-_PRETRAINING_UPDATES // -(-n // PRETRAINING_ROWS))))
    usual = most if "perplexity" in automatic else None
    return Settings(**p, auto_perplexity=usual, neighbors=neighbors, rows=n)


def resolve_map(parameters: Mapping[str, Any], n: int) -> MapSettings:
    """Return the settings of a fit of n rows to a map, or raise if too few are left to train on."""
    names = [name for name in MapSettings.__dataclass_fields__ if name != "held_out"]
    p = {name: parameters[name] for name in names}
    held_out = min(max(round(n * parameters["validation_fraction"]), 1), _HELD_OUT)
    if p["objective"] == "squares" and n - held_out < _TRAINED:
        raise ValueError(
            f"At least {_TRAINED} rows should be left to train on: give more rows or a smaller "
            f"validation_fraction. Received: {n} rows, of which {held_out} are held out."
        )
    automatic = {
        "batch_size": max(8, n // 64),
        "epochs": _REGRESSION_EPOCHS,
        "learning_rate": _learning_rate(p["encoder"] is not None),
    }
    p |= {name: value for name, value in automatic.items() if p[name] == "auto"}
    return MapSettings(**p, held_out=held_out)


def batches_per_epoch(sampling: str, batch_size: int, n: int) -> int:
    """Return the number of batches of an epoch over n rows."""
    if sampling != "graph":
        return batch_count(n, batch_size)
    return batch_count(n, batch_size // 2, batches.GRAPH_MULTIPLE)


def graph_epochs(n: int, batch_size: int, *, placement: bool = False) -> int:
    """Return the number of passes over n rows that make a good map, or a start of one."""
    if placement:
        steps, least = int(np.clip(0.03 * n, *_PLACED_STEPS)), _PLACED_EPOCHS
    else:
        steps, least = int(np.clip(1.6 * n, *_GRAPH_STEPS)), _GRAPH_EPOCHS
    return max(least, math.ceil(steps / batches_per_epoch("graph", batch_size, n)))


def _epochs(p: Mapping[str, Any], n: int) -> int:
    count = batches_per_epoch(p["sampling"], p["batch_size"], n)
    if p["optimizer"] == "cg":
        return max(_CG_EPOCHS, math.ceil(_CG_BATCHES / count))
    if p["sampling"] == "graph":
        return graph_epochs(n, p["batch_size"], placement=p["placement"])
    return math.ceil(_BATCH_STEPS / count)


def _bearable(perplexity: Any, rows: int) -> float:
    """Return an exaggeration that does not draw all rows to one point where P is nearly uniform."""
    return max(1.0, 1.0 + _NEARLY_UNIFORM * (1.0 - max(several(perplexity)) / (rows - 1)))


def _at_most(perplexity: float, n: int) -> float:
    return max(1.5, min(perplexity, (n - 1) / 3))


def _learning_rate(own_encoder: bool) -> float:
    return 1e-3 if own_encoder else 3e-3
