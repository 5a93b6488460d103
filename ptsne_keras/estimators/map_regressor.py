"""The estimator `MapRegressor`: store, validate, delegate."""

import math
import os
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import keras
import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from ptsne_keras.callbacks.progress import FitMeter, StageBar
from ptsne_keras.data import sources
from ptsne_keras.estimators import confidence, persistence, placing, regression
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays, validation

_AUTO = StrOptions({"auto"})
# Rows that are placed at a time, and that correlations are taken of, at most.
_BLOCK = 4096
_MEASURED = 10_000
# Training rows are fitted if so much of their places' variance is met, and learned by heart if
# that is by so much more than of held-out rows.
_FITTED = 0.8
_BY_HEART = 0.1
# A weight above which the divergence is nothing.
_HEAVIEST = 1e6
# Rows to fit, at least; and held-out rows, at least, to warn by.
_LEAST = 5
_TELLING = 10
# Passes of regression, at most.
_EPOCHS = 1000
# What a progress bar shows.
_CURVES = ("loss", "val_loss")
# Training rows that placements are compared with, at most: 10 MB of 50 components.
_REFERENCES = 50_000


class MapRegressor(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, RegressorMixin, BaseEstimator
):
    """Places new rows on a map that exists, whoever made it: a network learns (rows, coordinates).

    By default it learns to keep each row's *neighbours* and its place at once, by
    KL(P‖Q) + λ · ‖y - t‖² / variance of the map. ``objective="squares"`` is plain regression,
    which learns a map by heart easily and then smears new rows; held-out rows tell, and so does a
    warning.

    Parameters
    ----------
    objective : "neighbors" or "squares"
        What is minimised: divergence of neighbourhoods and distance from the given places, or the
        latter alone.
    map_weight : float
        λ, for objective="neighbors": how many nats it costs to miss the places by as much as they
        vary. At 10 every cluster keeps its form, too; at 1 new rows lie in the right one more often
        (docs/maps.md), and nearest to rows that were placed by `transform` as well; 0 makes a map
        of its own.
    network : "gelu", "tanh", "elu" or "towers"
        "gelu": three layers of 256, on 100 principal components with objective="neighbors". The
        others are for objective="squares". "tanh": three layers of 1,024 on standardised columns
        and a sigmoid output; "elu" likewise; "towers": one such network for each coordinate.
    perplexity, jitter, exaggeration : float
        For objective="neighbors", as in `ParametricTSNE`; the perplexity is at most a third of the
        rows that are not held out.
    batch_size : int or "auto"
        Most rows an update; "auto" is 1,024, or N / 64 for objective="squares".
    epochs : int or "auto"
        Passes over the rows, at most. "auto" is 8,000 to 16,000 updates, by N, or 1,000 passes for
        objective="squares".
    patience : int
        Training ends after so many epochs of the history in which held-out rows did not gain.
    validation_fraction : float
        Of the rows, held out, at most 2,500. Fewer than eight do not end the training early.
    random_state : int, RandomState or None
    verbose : int
        1 shows a progress bar.

    Attributes
    ----------
    encoder_ : keras.Model
        From raw rows to coordinates in the map's own units.
    history_ : dict
        Per epoch, or per several where there are many short ones: "error" and "val_error", the mean
        squared distance of training and held-out rows from their places as a part of the map's
        variance; for objective="neighbors" before the map is scaled to lie on the given one, and
        "loss" and "val_loss" too, what is minimised, in nats.
    held_out_ : ndarray of int
        Numbers of the rows that took no part in training.
    correlation_ : dict
        "train" and "held_out": Pearson's correlation of each coordinate, of at most 10,000 rows.
    r2_ : dict
        "train" and "held_out": part of the map's variance that is met.
    n_features_in_ : int

    Examples
    --------
    >>> regressor = MapRegressor(epochs=2, random_state=0).fit(X, Y)
    >>> Y_new = regressor.transform(X_new)
    >>> regressor.save("placed")
    >>> Y_again = MapRegressor.load("placed").transform(X_new)  # equal to the bit

    References
    ----------
    van der Maaten (2009), Learning a parametric embedding by preserving local structure, for the
    divergence; Poličar et al. (2023), Embedding to reference t-SNE space addresses batch effects,
    for new rows on a map that stays.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "objective": [StrOptions({"neighbors", "squares"})],
        "map_weight": [Interval(Real, 0, _HEAVIEST, closed="both")],
        "network": [StrOptions(set(regression.PRESETS))],
        "perplexity": [Interval(Real, 1, None, closed="neither")],
        "jitter": [Interval(Real, 0, None, closed="left")],
        "exaggeration": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 4, None, closed="left"), _AUTO],
        "epochs": [Interval(Integral, 1, None, closed="left"), _AUTO],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        *,
        objective: str = "neighbors",
        map_weight: float = 1.0,
        network: str = "gelu",
        perplexity: float = 15.0,
        jitter: float = 0.5,
        exaggeration: float = 1.5,
        batch_size: int | str = "auto",
        epochs: int | str = "auto",
        patience: int = 20,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.objective = objective
        self.map_weight = map_weight
        self.network = network
        self.perplexity = perplexity
        self.jitter = jitter
        self.exaggeration = exaggeration
        self.batch_size = batch_size
        self.epochs = epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, *, callbacks: Sequence[keras.callbacks.Callback] = ()) -> Self:
        """Learn to place rows X [N, D], given the places y [N, d] of all of them.

        Parameters
        ----------
        X : array, sparse rows or `np.memmap` [N, D]
            Five rows at least. A `np.memmap` is read batch by batch with objective="squares"; else
            100 principal components of each row are held in memory, and not the rows.
        y : array [N, d]
            Map coordinates in any units; see `maps.read`.
        callbacks : sequence of keras.callbacks.Callback
            Of the training; one may end it early by `model.stop_training`.

        Raises
        ------
        ValueError
            If X or y is not finite numeric rows, or they are not as many; rows are named.

        Warns
        -----
        UserWarning
            If training rows are met and held-out rows are not.
        """
        self._validate_params()
        if self.objective == "neighbors" and self.network != "gelu":
            raise ValueError(
                'network should be "gelu" with objective="neighbors"; the others are for '
                f'objective="squares". Received: {self.network!r}.'
            )
        X, Y = self._checked_pairs(X, y)
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=2).tolist()
        found = self._fitted(X, Y, seeds[0], callbacks)
        self.encoder_, self.history_, self.held_out_ = found
        for callback in callbacks:
            if isinstance(callback, FitMeter):
                callback.finish()
        train = np.setdiff1d(np.arange(X.shape[0]), self.held_out_)
        held_out = X[self.held_out_]
        placed = self._place(held_out)
        self._measure(X, Y, regression.thinned(train, _MEASURED), placed)
        chosen = regression.thinned(train, _REFERENCES)
        self._reference = confidence.Reference.of(
            X[chosen], Y[chosen], held_out, placed, seed=seeds[1]
        )
        return self

    def _checked_pairs(self, X: Any, y: Any) -> tuple[Any, FloatArray]:
        """Check rows and places; nothing is kept of them where they do not fit."""
        if y is None:
            raise ValueError(
                "y should be the places [N, d] of the rows on a map: MapRegressor requires y to be "
                "passed, but the target y is None."
            )
        if hasattr(y, "Y") and hasattr(y, "ids"):
            raise ValueError("y should be an array: of a map that was read, its Y or of(names).")
        n = validation.count(X)
        if n is not None and n < _LEAST:
            self._checked(X, reset=True)  # says so; there can be no places for no rows
        Y = np.asarray(y)
        if Y.dtype.kind == "c":
            raise ValueError("y should be real. Complex data not supported.")
        single = Y.ndim == 1
        with np.errstate(over="ignore"):
            Y = validation.check_rows(Y[:, None] if single else Y, name="y").astype(np.float32)
        validation.check_rows(Y, name="y, as float32,")
        if n is not None and len(Y) != n:
            raise ValueError(
                f"y should have a place for each of the {n} rows of X; match them by maps.Map.of "
                f"if they have names. Received: {len(Y)}."
            )
        X = self._checked(X, reset=True)
        self._single = single
        return X, Y

    def _fitted(
        self, X: Any, Y: FloatArray, seed: int, callbacks: Sequence[keras.callbacks.Callback]
    ) -> regression.Fitted:
        n = X.shape[0]

        def watching(title: str, epochs: int, rows: int) -> list[Any]:
            for callback in callbacks:
                if isinstance(callback, FitMeter):
                    callback.stage(title, epochs, rows)
            return [*([StageBar(title, epochs, _CURVES)] if self.verbose else []), *callbacks]

        preset = regression.PRESETS[self.network]
        epochs: Any = self.epochs
        size: Any = self.batch_size
        if self.objective == "squares":
            size = max(8, n // 64) if size == "auto" else size
            epochs = _EPOCHS if epochs == "auto" else epochs
            return regression.fit(
                X,
                Y,
                preset=preset,
                batch_size=size,
                epochs=epochs,
                patience=self.patience,
                fraction=self.validation_fraction,
                seed=seed,
                callbacks=watching("Regression", epochs, n),
            )
        return placing.fit(
            X,
            Y,
            preset=preset,
            map_weight=self.map_weight,
            perplexity=self.perplexity,
            jitter=self.jitter,
            exaggeration=self.exaggeration,
            batch_size=1024 if size == "auto" else size,
            epochs=None if epochs == "auto" else epochs,
            patience=self.patience,
            fraction=self.validation_fraction,
            seed=seed,
            bar=lambda epochs, rows: watching("Rows by their neighbours", epochs, rows),
        )

    def _measure(self, X: Any, Y: FloatArray, train: Any, placed: FloatArray) -> None:
        """Compare training rows with the held-out rows placed; warn if only the former are met."""
        spread = math.sqrt(np.var(Y, axis=0, dtype=np.float64).mean()) or 1.0
        self.correlation_ = {}
        met = {}
        parts = {"train": (train, self._place(X[train])), "held_out": (self.held_out_, placed)}
        for name, (chosen, found) in parts.items():
            self.correlation_[name] = regression.correlations(Y[chosen], found)
            error = np.square((found - Y[chosen]) / spread, dtype=np.float64).mean()
            met[name] = float(1 - error)
        self.r2_ = met
        gap = met["train"] - met["held_out"]
        if len(self.held_out_) < _TELLING or met["train"] < _FITTED or gap < _BY_HEART:
            return
        mend = 'objective="neighbors" places rows by their neighbours instead.'
        if self.objective == "neighbors":
            mend = "A smaller map_weight leans more on what the rows themselves tell."
        warnings.warn(
            "New rows will be smeared: the network has learned the map by heart. It meets "
            f"{met['train']:.0%} of the variance of the training rows' places and "
            f"{max(met['held_out'], 0):.0%} of that of held-out rows. {mend}",
            stacklevel=3,
        )

    def transform(self, X: Any) -> FloatArray:
        """Place rows X [N, D] on the map, in its own units: [N, d].

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            If X is not finite numeric rows of `n_features_in_` columns.
        """
        check_is_fitted(self, "encoder_")
        return self._place(self._checked(X))

    def predict(self, X: Any) -> FloatArray:
        """Place rows, as `transform`, in float64 as regressors do; [N] if y was [N]."""
        Y = self.transform(X).astype(np.float64)
        return Y[:, 0] if self._single else Y

    def placement_error(self, X: Any) -> FloatArray:
        """How far rows are from those that they were placed among: [N].

        The distance to the nearest, in the data, of the 15 training rows that are nearest on the
        map, as a multiple of what is usual (the median over held-out rows). 1 is usual; well above
        it a row was put among others than its like, or is like none of them.

        Examples
        --------
        >>> regressor = MapRegressor(epochs=2, random_state=0).fit(X, Y)
        >>> most_doubtful_first = np.argsort(-regressor.placement_error(X_new))
        """
        check_is_fitted(self, "encoder_")
        X = self._checked(X)
        return self._reference.errors(X, self._place(X))

    def confidence(self, X: Any) -> FloatArray:
        """Part of the held-out rows whose `placement_error` is larger: [N].

        0 for rows that are like nothing on the map, and 0.5 for the usual row. With h held-out rows
        its steps are of 1/h. It tells strangers well, and rows of a known kind that were put into a
        wrong cluster less well: these have neighbours that are like them there.

        Examples
        --------
        >>> regressor = MapRegressor(epochs=2, random_state=0).fit(X, Y)
        >>> doubtful = X_new[regressor.confidence(X_new) < 0.01]
        """
        check_is_fitted(self, "encoder_")
        X = self._checked(X)
        return self._reference.confidence(X, self._place(X))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator into the folder `path`; a model there is replaced or stays.

        A `random_state` that is not an int is saved as None.
        """
        check_is_fitted(self, "encoder_")
        state = persistence.state(self) | {
            "history": self.history_,
            "correlation": self.correlation_,
            "r2": self.r2_,
            "single": self._single,
        }
        arrays = {"held_out": self.held_out_, **self._reference.arrays()}
        models = {"encoder": self.encoder_}
        persistence.save(path, kind=type(self).__name__, state=state, models=models, arrays=arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote: it places as before, to the bit, and can be fitted again.

        Raises
        ------
        FileNotFoundError
            If there is no model in `path`.
        ValueError
            If it is of a newer version, truncated, altered, or not of this class.
        """
        state, models, arrays = persistence.load(path, kind=cls.__name__)
        regressor: Self = persistence.estimator(cls, state)
        regressor.encoder_ = models["encoder"]
        regressor.history_, regressor.r2_ = state["history"], state["r2"]
        regressor.correlation_, regressor._single = state["correlation"], state["single"]
        regressor.held_out_ = arrays["held_out"]
        regressor._reference = confidence.Reference.from_arrays(arrays)
        return regressor

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = ["float32"]  # places are float32 always
        return tags

    @property
    def _n_features_out(self) -> int:
        return int(self._reference.Y.shape[1])

    def _place(self, X: Any) -> FloatArray:
        blocks = arrays.row_blocks(X, rows=_BLOCK)
        maps = [np.asarray(self.encoder_(np.float32(x), training=False)) for x in blocks]
        return np.concatenate(maps)

    def _checked(self, X: Any, *, reset: bool = False) -> Any:
        """Check rows; those of a file are looked at block by block, and not held."""
        if not isinstance(X, np.memmap):
            return validation.estimator_rows(self, X, reset=reset, least=_LEAST if reset else 1)
        sources.source(X)
        if reset and len(X) < _LEAST:
            raise ValueError(f"X should have at least {_LEAST} rows. Received: {len(X)}.")
        if reset:
            self.n_features_in_ = X.shape[1]
            self.__dict__.pop("feature_names_in_", None)  # of a fit before
        else:
            validation.check_width(self, X.shape[1])
        return X.view(np.uint8) if X.dtype.kind == "b" else X
