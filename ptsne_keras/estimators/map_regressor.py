"""`MapRegressor`: new rows on a map that exists, as a scikit-learn estimator."""

import math
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import keras
import numpy as np
import sklearn
from sklearn.base import RegressorMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from ptsne_keras import affinities
from ptsne_keras.estimators import _fit_graph, _fit_placement, _fit_regression
from ptsne_keras.estimators._base import MapEstimator, flat, without_retracing_warnings
from ptsne_keras.estimators._settings import JOBS, MapSettings, check_learning_rate, resolve_map
from ptsne_keras.typing import Callbacks, FloatArray
from ptsne_keras.utils import arrays, validation

_AUTO = StrOptions({"auto"})
_LEAST_ROWS = 5
# The most training rows that are compared with their places.
_MEASURED = 10_000
# The network has learned the map by heart if it explains this part of the variance of training
# rows' places, and this much less of held-out rows', of which there are at least as many.
_FITTED, _BY_HEART, _TELLING = 0.8, 0.1, 10
# Rows whose nearest is looked up on the map, and how near it is there, compared with any other row,
# if rows and map belong together.
_TOO_FEW, _COMPARED = 10, 2000
_BY_CHANCE = 0.8


class MapRegressor(RegressorMixin, MapEstimator):
    """Places new rows on a map that exists, whoever made it.

    `fit` indexes the rows and trains nothing. A new row finds its nearest rows, weights them as
    t-SNE does, and goes to the Student-t weighted mode of their places; see `networks.Placement`.
    Their mean, which every regression comes to, lies between clusters and is a smear.
    ``objective="squares"`` is such a regression: a network without a reference, for a small export
    or to see the smear.

    Parameters
    ----------
    objective : {"placement", "squares"}, default="placement"
        Whether rows are placed among their neighbours, or by a network that learns the coordinates.
    n_neighbors : int, default=15
        The number of rows that a new row is placed among.
    perplexity : float, default=5.0
        The effective number of these neighbours, below `n_neighbors`.
    metric : {"euclidean", "cosine", "correlation"}, default="euclidean"
        The distance between rows; with another than "euclidean", they are held in memory.
    dof : float, default=1.0
        The degrees of freedom α of the Student-t kernel, in the units in which the map has the
        least t-SNE loss; so the units of the map do not matter.
    encoder : keras.Model, default=None
        For objective="squares", a network of your own in place of three GELU layers of 256 on
        standardised columns. Its output is scaled from the unit square to the units of the map.
    batch_size : int or "auto", default="auto"
        For objective="squares", the most rows in an update; "auto" is n_samples / 64.
    epochs : int or "auto", default="auto"
        For objective="squares", the most passes over the rows; "auto" is 1,000.
    learning_rate : float or "auto", default="auto"
        For objective="squares", the learning rate of Adam, which falls linearly to a hundredth.
        "auto" is 0.003, or 0.001 for an `encoder` of your own.
    optimizer : "adam" or keras.optimizers.Optimizer, default="adam"
        For objective="squares"; an optimizer of your own brings its own learning rate.
    patience : int, default=20
        For objective="squares": training ends after this many epochs without a gain on held-out
        rows.
    validation_fraction : float, default=0.1
        For objective="squares", the part of the rows that is held out, at most 2,500 rows.
    n_jobs : int or None, default=None
        The most threads of the neighbour search; -1 is as many as there are cores, -2 one fewer.
        None leaves it to OMP_NUM_THREADS, by default also all cores.
    random_state : int, RandomState instance or None, default=None
        An int makes two fits on one machine equal.
    verbose : int, default=0
        1 shows the progress of training on stderr.

    Attributes
    ----------
    encoder_ : keras.Model
        The model from raw rows to coordinates in the map's own units. For objective="placement" it
        contains the reference, 50 principal components of each row at most, and needs this package
        to be loaded.
    history_ : dict
        As in `ParametricTSNE`: "pretrain", which is empty; "finetune", the curves of training,
        "error" and "val_error", the mean squared distance of training and held-out rows from their
        places as a part of the map's variance, empty for objective="placement"; "seconds" of each
        step.
    held_out_ : ndarray of int
        The indices of the rows that were held out: those that took no part in training, or at most
        10,000 that were placed among all others.
    correlation_ : dict
        Pearson's correlation of each coordinate for "held_out" rows, and for "train" rows if a
        network was trained.
    r2_ : dict
        The part of the variance of the places that is explained, for the same rows.
    n_features_in_ : int
        The number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        The names of the columns, if X has any.

    References
    ----------
    Poličar et al. (2023), Embedding to reference t-SNE space addresses batch effects, for new rows
    on a map that stays; Kent & Tyler (1991), Redescending M-estimates of multivariate location and
    scatter, for the mode.

    Examples
    --------
    >>> regressor = MapRegressor(random_state=0).fit(X, Y)
    >>> Y_new = regressor.transform(X_new)
    >>> regressor.save("placed")
    >>> Y_again = MapRegressor.load("placed").transform(X_new)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "objective": [StrOptions({"placement", "squares"})],
        "n_neighbors": [Interval(Integral, 2, None, closed="left")],
        "perplexity": [Interval(Real, 1, None, closed="neither")],
        "metric": [StrOptions({"euclidean", "cosine", "correlation"})],
        "dof": [Interval(Real, 0, None, closed="neither")],
        "encoder": [keras.Model, None],
        "batch_size": [Interval(Integral, 4, None, closed="left"), _AUTO],
        "epochs": [Interval(Integral, 1, None, closed="left"), _AUTO],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), _AUTO],
        "optimizer": [StrOptions({"adam"}), keras.optimizers.Optimizer],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_jobs": JOBS,
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        *,
        objective: str = "placement",
        n_neighbors: int = 15,
        perplexity: float = 5.0,
        metric: str = "euclidean",
        dof: float = 1.0,
        encoder: keras.Model | None = None,
        batch_size: int | str = "auto",
        epochs: int | str = "auto",
        learning_rate: float | str = "auto",
        optimizer: Any = "adam",
        patience: int = 20,
        validation_fraction: float = 0.1,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.objective = objective
        self.n_neighbors = n_neighbors
        self.perplexity = perplexity
        self.metric = metric
        self.dof = dof
        self.encoder = encoder
        self.batch_size = batch_size
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, *, callbacks: Callbacks = None) -> Self:
        """Take rows and the places of all of them on a map.

        Parameters
        ----------
        X : array-like, sparse matrix or np.memmap of shape (n_samples, n_features)
            At least five rows. Those of a `np.memmap` are read block by block: 50 principal
            components of each row at most are held in memory, or a batch with objective="squares".
        y : array-like of shape (n_samples, n_components)
            Map coordinates in any units; `io.maps.read` reads them from a file.
        callbacks : keras.callbacks.Callback or a sequence of them, default=None
            Callbacks of the training with objective="squares"; one may end it early by setting
            `model.stop_training`.

        Returns
        -------
        MapRegressor
            The estimator itself.

        Raises
        ------
        ValueError
            If X or y does not consist of finite numeric rows, if their numbers of rows differ, or
            if a parameter is out of its range.

        Warns
        -----
        UserWarning
            If rows that are neighbours in X are no nearer on the map than others, as where y is in
            another order; if a network has learned the map by heart.
        """
        self._validate_params()
        self._check_parameters()
        listed = flat(callbacks)
        X, Y = self._checked_pairs(X, y)
        X = self._of_metric(X)
        seed = self._seeds(1)[0]
        settings = resolve_map(self.get_params(), X.shape[0])
        # X and y have been checked.
        checked = sklearn.config_context(assume_finite=True)
        with checked, without_retracing_warnings(), self._threads():
            self._fit_checked(X, Y, settings, seed, listed)
        return self

    def _fit_checked(
        self,
        X: Any,
        Y: FloatArray,
        settings: MapSettings,
        seed: int,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> None:
        """Fit to rows and places, and measure the fit."""
        self._check_order(X, Y)
        placer = None
        if self.objective == "squares":
            self.encoder_, self.history_, self.held_out_ = _fit_regression.fit(
                X, Y, settings, seed=seed, callbacks=callbacks, verbose=self.verbose
            )
        else:
            fitted = _fit_placement.fit(X, Y, settings, seed=seed)
            self.encoder_, self.history_, placer = fitted
            n = len(Y)
            self.held_out_ = _fit_regression.thinned(np.arange(n), min(n, _MEASURED))
        self._settings, self._placer = settings, placer
        self._measure(X, Y)

    def predict(self, X: Any) -> FloatArray:
        """Return the map coordinates of rows in float64, as regressors do.

        Parameters
        ----------
        X : array-like, sparse matrix or np.memmap of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components) or (n_samples,)
            One-dimensional if y was.
        """
        check_is_fitted(self, "encoder_")
        Y = self._map(self._checked(X)).astype(np.float64)
        return Y[:, 0] if self._single else Y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _checked_pairs(self, X: Any, y: Any) -> tuple[Any, FloatArray]:
        """Return checked rows and places; the estimator does not change if one is refused."""
        if y is None:
            raise ValueError(
                "y should be the places [N, d] of the rows on a map: MapRegressor requires y to be "
                "passed, but the target y is None."
            )
        if hasattr(y, "Y") and hasattr(y, "ids"):
            raise ValueError("y should be an array: give a map's Y or of(names).")
        n = validation.count(X)
        if n is not None and n < _LEAST_ROWS:
            self._checked(X, reset=True, least=_LEAST_ROWS)  # raises
        Y = np.asarray(validation.unmasked(y, "y"))
        if Y.dtype.kind == "c":
            raise ValueError("y should be real. Complex data not supported.")
        single = Y.ndim == 1
        given = Y[:, None] if single else Y
        Y = validation.check_rows(given, name="y", dtype=np.float32)
        if n is not None and len(Y) != n:
            raise ValueError(
                f"y should have a place for each of the {n} rows of X; match them by "
                f"io.maps.Map.of if they have names. Received: {len(Y)}."
            )
        X = self._checked(X, reset=True, least=_LEAST_ROWS)
        validation.warn_of_rounding(given, "y")
        self._single = single
        return X, Y

    def _check_parameters(self) -> None:
        """Raise for what the constraints of a single parameter cannot express."""
        check_learning_rate(self)
        _fit_graph.fresh(self.optimizer)
        if not self.perplexity < self.n_neighbors:
            raise ValueError(
                f"perplexity should be below n_neighbors = {self.n_neighbors}. "
                f"Received: {self.perplexity!r}."
            )
        if self.encoder is not None and self.objective == "placement":
            raise ValueError(
                'encoder should be None with objective="placement", which trains no network. '
                f"Received: {self.encoder.name!r}."
            )

    def _measure(self, X: Any, Y: FloatArray) -> None:
        """Compare held-out rows with their places, and warn if a network knows only the others."""
        rows = self.held_out_
        if self._placer is not None:
            parts = {"held_out": (rows, self._placer.place(arrays.rows_at(X, rows), skip=rows))}
        else:
            others = _fit_regression.thinned(np.setdiff1d(np.arange(len(Y)), rows), _MEASURED)
            parts = {
                "held_out": (rows, self._map(X[rows])),
                "train": (others, self._map(X[others])),
            }
        spread = math.sqrt(np.var(Y, axis=0, dtype=np.float64).mean()) or 1.0
        self.correlation_, self.r2_ = {}, {}
        for name, (rows, found) in parts.items():
            self.correlation_[name] = _fit_regression.correlations(Y[rows], found)
            error = np.square((found - Y[rows]) / spread, dtype=np.float64).mean()
            self.r2_[name] = float(1 - error)
        train, held_out = self.r2_.get("train", 0.0), self.r2_["held_out"]
        if train >= _FITTED and train - held_out >= _BY_HEART and len(self.held_out_) >= _TELLING:
            warnings.warn(
                "New rows will be smeared: the network has learned the map by heart. It explains "
                f"{train:.0%} of the variance of training rows' places, but "
                f"{max(held_out, 0):.0%} of that of held-out rows'. "
                'Use objective="placement", which places rows among their neighbours.',
                stacklevel=4,
            )

    @staticmethod
    def _check_order(X: Any, Y: FloatArray) -> None:
        """Warn if rows that are neighbours are no nearer on the map than others."""
        most = arrays.block_size(X.shape[1], rows=_COMPARED)
        chosen = _fit_regression.thinned(np.arange(len(Y)), min(len(Y), most))
        if len(chosen) < _TOO_FEW:
            return
        near = affinities.nearest(arrays.rows_at(X, chosen), 1).indices[:, 0]
        found, others = Y[chosen].astype(float), np.random.default_rng(0).permutation(len(chosen))
        own, chance = (
            float(np.median(np.linalg.norm(found - found[i], axis=1))) for i in (near, others)
        )
        if own > _BY_CHANCE * chance:
            warnings.warn(
                "X and y should be in the same order: rows that are neighbours in X are no nearer "
                "on the map than others. Match them by their names: io.maps.Map.of. Received: "
                f"a median distance of {own:.3g} to the place of the nearest row, and of "
                f"{chance:.3g} to that of any other.",
                stacklevel=4,
            )

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        state = {"correlation": self.correlation_, "r2": self.r2_, "single": self._single}
        return state, {"held_out": self.held_out_}

    def _restore(self, state: dict[str, Any], saved: dict[str, Any]) -> None:
        self.correlation_, self.r2_ = state["correlation"], state["r2"]
        self._single, self.held_out_ = state["single"], saved["held_out"]
