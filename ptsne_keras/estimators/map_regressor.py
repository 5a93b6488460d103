"""`MapRegressor`: new rows on a map that exists, as a scikit-learn estimator."""

import math
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import keras
import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from ptsne_keras.estimators import _fit_anchored, _fit_graph, _fit_regression
from ptsne_keras.estimators._base import MapEstimator
from ptsne_keras.estimators._settings import check_learning_rate, resolve_map
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import validation
from ptsne_keras.utils.novelty import Landmarks, scale_of

_AUTO = StrOptions({"auto"})
_LEAST_ROWS = 5
# The largest weight; beyond it the divergence counts for nothing.
_MOST_WEIGHT = 1e6
# The most training rows that are compared with their places.
_MEASURED = 10_000
# The network has learned the map by heart if it explains this part of the variance of training
# rows' places, and this much less of held-out rows', of which there are at least as many.
_FITTED, _BY_HEART, _TELLING = 0.8, 0.1, 10


class MapRegressor(RegressorMixin, MapEstimator):
    """Places new rows on a map that exists, whoever made it.

    A network learns from rows and their coordinates. By default it keeps each row's *neighbours*
    and its place at once, by KL(P‖Q) + λ · ‖y - t‖² / variance of the map. ``objective="squares"``
    is plain regression, which easily learns a map by heart and then smears new rows; held-out rows
    tell, and a warning says so.

    Parameters
    ----------
    objective : {"neighbors", "squares"}, default="neighbors"
        What is minimised: the divergence of neighbourhoods plus the distance from the given places,
        or the latter alone.
    map_weight : float, default=1.0
        λ for objective="neighbors": the nats that it costs to miss the places by as much as they
        vary. With 10 every cluster keeps its form, too. With 1 new rows land in the right cluster
        more often (see docs/maps.md). 0 makes a map of its own.
    encoder : keras.Model, default=None
        A network of your own in place of the default one, as in `ParametricTSNE`. Its output is
        scaled to the units of the map by a fixed last layer: for objective="squares" from the unit
        square, for "neighbors" from coordinates with a variance of about 1. The default is three
        GELU layers of 256, on 100 principal components for objective="neighbors" and on
        standardised columns for "squares".
    perplexity : float, default=15.0
        The effective number of neighbours for objective="neighbors"; at most a third of the rows
        that are not held out.
    jitter : float, default=0.5
        Noise on the rows that training sees, as in `ParametricTSNE`.
    exaggeration : float, default=1.5
        The weight of the attraction, as in `ParametricTSNE`.
    batch_size : int or "auto", default="auto"
        The most rows in an update. "auto" is 1,024, or n_samples / 64 for objective="squares".
    epochs : int or "auto", default="auto"
        The most passes over the rows. "auto" is 8,000 to 16,000 updates, by n_samples, or 1,000
        passes for objective="squares".
    learning_rate : float or "auto", default="auto"
        The learning rate of Adam. "auto" is 0.003, or 0.001 for an `encoder` of your own. It is
        constant for objective="neighbors", where the weights are averaged over the last sixteenth
        of the steps, and falls linearly to a hundredth for "squares".
    optimizer : "adam" or keras.optimizers.Optimizer, default="adam"
        The optimizer; one of your own brings its own learning rate.
    patience : int, default=20
        Training ends after this many epochs of the history without a gain on held-out rows.
    validation_fraction : float, default=0.1
        The part of the rows that is held out, at most 2,500 rows. With objective="neighbors" fewer
        than eight do not end the training early.
    random_state : int, RandomState instance or None, default=None
        An int makes two fits on one machine equal.
    verbose : int, default=0
        1 shows the progress on stderr.

    Attributes
    ----------
    encoder_ : keras.Model
        The encoder from raw rows to coordinates in the map's own units.
    history_ : dict
        As in `ParametricTSNE`: "pretrain", which is empty; "finetune", the curves of training, per
        epoch, or per several where epochs are many and short; "seconds" of each stage. The curves
        "error" and "val_error" are the mean squared distance of training and held-out rows from
        their places, as a part of the map's variance. For objective="neighbors" they are taken
        before the map is scaled to lie on the given one, and "loss" and "val_loss", in nats, are
        what is minimised.
    held_out_ : ndarray of int
        The indices of the rows that took no part in training.
    correlation_ : dict
        Pearson's correlation of each coordinate for "train" and "held_out" rows, of at most 10,000.
    r2_ : dict
        The part of the variance of the places that is explained, for "train" and "held_out" rows.
    n_features_in_ : int
        The number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        The names of the columns, if X has any.

    References
    ----------
    van der Maaten (2009), Learning a parametric embedding by preserving local structure, for the
    divergence; Poličar et al. (2023), Embedding to reference t-SNE space addresses batch effects,
    for new rows on a map that stays.

    Examples
    --------
    >>> regressor = MapRegressor(epochs=2, random_state=0).fit(X, Y)
    >>> Y_new = regressor.transform(X_new)
    >>> regressor.save("placed")
    >>> Y_again = MapRegressor.load("placed").transform(X_new)  # equal to the bit
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "objective": [StrOptions({"neighbors", "squares"})],
        "map_weight": [Interval(Real, 0, _MOST_WEIGHT, closed="both")],
        "encoder": [keras.Model, None],
        "perplexity": [Interval(Real, 1, None, closed="neither")],
        "jitter": [Interval(Real, 0, None, closed="left")],
        "exaggeration": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 4, None, closed="left"), _AUTO],
        "epochs": [Interval(Integral, 1, None, closed="left"), _AUTO],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), _AUTO],
        "optimizer": [StrOptions({"adam"}), keras.optimizers.Optimizer],
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
        encoder: keras.Model | None = None,
        perplexity: float = 15.0,
        jitter: float = 0.5,
        exaggeration: float = 1.5,
        batch_size: int | str = "auto",
        epochs: int | str = "auto",
        learning_rate: float | str = "auto",
        optimizer: Any = "adam",
        patience: int = 20,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.objective = objective
        self.map_weight = map_weight
        self.encoder = encoder
        self.perplexity = perplexity
        self.jitter = jitter
        self.exaggeration = exaggeration
        self.batch_size = batch_size
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, *, callbacks: Sequence[keras.callbacks.Callback] = ()) -> Self:
        """Learn to place rows, given the places of all of them.

        Parameters
        ----------
        X : array-like, sparse matrix or np.memmap of shape (n_samples, n_features)
            At least five rows. With objective="squares" a `np.memmap` is read batch by batch; else
            100 principal components of each row are held in memory, or the rows themselves with an
            `encoder` of your own.
        y : array-like of shape (n_samples, n_components)
            Map coordinates in any units; `io.maps.read` reads them from a file.
        callbacks : sequence of keras.callbacks.Callback, default=()
            Callbacks of the training; one may end it early by setting `model.stop_training`.

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
            If the network has learned the map by heart.
        """
        self._validate_params()
        check_learning_rate(self)
        _fit_graph.fresh(self.optimizer)
        X, Y = self._checked_pairs(X, y)
        seeds = self._seeds(2)
        settings = resolve_map(self.get_params(), X.shape[0])
        fit = _fit_regression.fit if self.objective == "squares" else _fit_anchored.fit
        self.encoder_, self.history_, self.held_out_ = fit(
            X, Y, settings, seed=seeds[0], callbacks=callbacks, verbose=self.verbose
        )
        self._settings = settings
        self._measure(X, Y)
        scale = scale_of(self.encoder_)
        self._landmarks = Landmarks.of(X, scale=scale, seed=seeds[1]).arrays()
        return self

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
        Y = self.transform(X).astype(np.float64)
        return Y[:, 0] if self._single else Y

    def novelty(self, X: Any) -> FloatArray:
        """Return how new rows are, compared with the training rows.

        The distance of a row to the nearest of at most 4,096 training rows, scaled as the encoder
        scales them, as a quantile of these distances among training rows. It tells strangers well.
        Rows of a known kind that land in the wrong cluster are told less well: they land there
        because they resemble its rows.

        Parameters
        ----------
        X : array-like, sparse matrix or np.memmap of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            0 for a training row, about 0.5 for a usual row, and 1 for a row that is farther away
            than any training row.

        Examples
        --------
        >>> regressor = MapRegressor(epochs=2, random_state=0).fit(X, Y)
        >>> strangers = X_new[regressor.novelty(X_new) > 0.99]
        """
        check_is_fitted(self, "encoder_")
        landmarks = Landmarks.from_arrays(self._landmarks, scale=scale_of(self.encoder_))
        return landmarks.novelty(self._checked(X))

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
        Y = np.asarray(y)
        if Y.dtype.kind == "c":
            raise ValueError("y should be real. Complex data not supported.")
        single = Y.ndim == 1
        Y = validation.check_rows(Y[:, None] if single else Y, name="y", dtype=np.float32)
        if n is not None and len(Y) != n:
            raise ValueError(
                f"y should have a place for each of the {n} rows of X; match them by "
                f"io.maps.Map.of if they have names. Received: {len(Y)}."
            )
        X = self._checked(X, reset=True, least=_LEAST_ROWS)
        self._single = single
        return X, Y

    def _measure(self, X: Any, Y: FloatArray) -> None:
        """Compare rows with their places, and warn if only training rows are explained."""
        train = np.setdiff1d(np.arange(len(Y)), self.held_out_)
        parts = {"train": _fit_regression.thinned(train, _MEASURED), "held_out": self.held_out_}
        spread = math.sqrt(np.var(Y, axis=0, dtype=np.float64).mean()) or 1.0
        self.correlation_, self.r2_ = {}, {}
        for name, rows in parts.items():
            found = self._map(X[rows])
            self.correlation_[name] = _fit_regression.correlations(Y[rows], found)
            error = np.square((found - Y[rows]) / spread, dtype=np.float64).mean()
            self.r2_[name] = float(1 - error)
        train_r2, held_out_r2 = self.r2_["train"], self.r2_["held_out"]
        few = len(self.held_out_) < _TELLING
        if few or train_r2 < _FITTED or train_r2 - held_out_r2 < _BY_HEART:
            return
        advice = 'Use objective="neighbors", which places rows by their neighbours.'
        if self.objective == "neighbors":
            advice = "Use a smaller map_weight, which relies more on the rows themselves."
        warnings.warn(
            "New rows will be smeared: the network has learned the map by heart. It explains "
            f"{train_r2:.0%} of the variance of training rows' places, but "
            f"{max(held_out_r2, 0):.0%} of that of held-out rows'. {advice}",
            stacklevel=3,
        )

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        state = {"correlation": self.correlation_, "r2": self.r2_, "single": self._single}
        return state, {"held_out": self.held_out_, **self._landmarks}

    def _restore(self, state: dict[str, Any], saved: dict[str, Any]) -> None:
        self.correlation_, self.r2_ = state["correlation"], state["r2"]
        self._single, self.held_out_ = state["single"], saved["held_out"]
        self._landmarks = {name: saved[name] for name in saved if name != "held_out"}
