"""`ParametricTSNE`: parametric t-SNE as a scikit-learn estimator."""

import os
import time
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import keras
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from ptsne_keras import batches, metrics, networks, persistence, stages
from ptsne_keras.losses import TSNE
from ptsne_keras.progress import StageBar
from ptsne_keras.typing import Dof, FloatArray, Scaling, Units

# Rows embedded at a time: enough to fill the matrix units, 32 MB of activations at 2,000 units.
_TRANSFORM_ROWS = 4096
# What "auto" epochs come to, about: steps of fine-tuning, and the least updates of an RBM.
_AUTO_STEPS = 500
_AUTO_UPDATES = 1300
# Of each RBM; the paper's.
_PRETRAINING_ROWS = 100
_PRETRAINING_EPOCHS = 30


class ParametricTSNE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Parametric t-SNE: a network that maps rows to a t-SNE map, new rows too.

    Three stages: a greedy stack of RBMs is trained on the rows, unrolled into an encoder, and
    fine-tuned by backprop on KL(P‖Q), Q from Student-t similarities on the map.

    Parameters
    ----------
    n_components : int
        d, dimensions of the map.
    perplexity : float
        Effective number of neighbours, above 1 and below the batch's rows - 1.
    hidden_units : tuple of int
        Widths of the hidden layers.
    pretraining : "rbm" or "none"
        "none" starts fine-tuning from random weights.
    activation : str
        Of the hidden layers; "sigmoid" with RBM pretraining, any Keras activation without.
    visible : "auto", "bernoulli" or "gaussian"
        How rows reach the first layer. "bernoulli": moved and scaled by two numbers into [0, 1].
        "gaussian": columns centred and divided by one number, their root mean square deviation.
        Neither changes which rows are neighbours. "auto" is "bernoulli" for values in [0, 1] and
        for integers in 0 … 255, "gaussian" otherwise.
    dof : float or "auto"
        Degrees of freedom α of the Student-t kernel; "auto" is max(d - 1, 1).
    exaggeration : float
        Weight c of the attraction in the loss. 1 is plain t-SNE; above 1 clusters are tighter, and
        new rows land in the right one more often.
    batch_size : int
        Most rows in a batch; P and Q take batch_size² numbers each.
    epochs : int or "auto"
        Passes over the rows in fine-tuning; "auto" comes to about 500 steps.
    pretraining_epochs : int or "auto"
        Passes over the rows for each RBM, in batches of 100; the top one does 5/3 as many. "auto"
        is the paper's 30, or more where N is so small that 30 are fewer than 1,300 updates.
    learning_rate : float
        Adam's in fine-tuning, falling to 0 along a cosine.
    random_state : int, RandomState or None
        An int makes two fits on one machine equal.
    verbose : int
        1 shows a progress bar for each stage.

    Attributes
    ----------
    encoder_ : keras.Model
        From raw rows [B, D] to the map [B, d]; standard Keras layers only.
    embedding_ : ndarray [N, d]
        Map of the training rows.
    history_ : dict
        "pretrain": the curves of each RBM; "finetune": "loss" per epoch, in nats, which is KL(P‖Q)
        only at exaggeration 1, and "seconds" per epoch; "seconds": of each stage.
    kl_divergence_ : float
        Mean KL(P‖Q) over batches of the training rows, nats.
    n_features_in_ : int
        D.
    feature_names_in_ : ndarray [D]
        Column names, if X had any.

    Examples
    --------
    >>> tsne = ParametricTSNE(random_state=0).fit(X_train)
    >>> Y = tsne.transform(X_new)
    >>> tsne.save("map")
    >>> ParametricTSNE.load("map").transform(X_new)

    References
    ----------
    van der Maaten (2009), Learning a parametric embedding by preserving local structure, AISTATS.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "perplexity": [Interval(Real, 1, None, closed="neither")],
        "hidden_units": ["array-like"],
        "pretraining": [StrOptions({"rbm", "none"})],
        "activation": [str],
        "visible": [StrOptions({"auto", "bernoulli", "gaussian"})],
        "dof": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "exaggeration": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 3, None, closed="left")],
        "epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "pretraining_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components: int = 2,
        *,
        perplexity: float = 30.0,
        hidden_units: tuple[int, ...] = (500, 500, 2000),
        pretraining: str = "rbm",
        activation: str = "sigmoid",
        visible: str = "auto",
        dof: Dof = 1.0,
        exaggeration: float = 2.0,
        batch_size: int = 2500,
        epochs: int | str = "auto",
        pretraining_epochs: int | str = "auto",
        learning_rate: float = 0.02,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.perplexity = perplexity
        self.hidden_units = hidden_units
        self.pretraining = pretraining
        self.activation = activation
        self.visible = visible
        self.dof = dof
        self.exaggeration = exaggeration
        self.batch_size = batch_size
        self.epochs = epochs
        self.pretraining_epochs = pretraining_epochs
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the map of the rows X [N, D]; y is ignored.

        Raises
        ------
        ValueError
            If X is not finite numeric rows, N is too small for the perplexity, or a parameter is
            out of its range.
        """
        self._validate_params()
        widths = list(self.hidden_units)
        if not widths or not all(isinstance(w, Integral) and w >= 1 for w in widths):
            raise ValueError(
                "hidden_units should be one or more integers of at least 1. "
                f"Received: {self.hidden_units!r}."
            )
        if self.pretraining == "rbm" and self.activation != "sigmoid":
            raise ValueError(
                'activation should be "sigmoid" with pretraining="rbm"; set pretraining="none" for '
                f"others. Received: {self.activation!r}."
            )
        X = validate_data(self, X, dtype=np.float32, ensure_min_samples=3)
        random = check_random_state(self.random_state)
        seeds = {name: int(random.randint(2**31 - 1)) for name in ("encoder", "batches")}
        # Before any training, so that a perplexity that cannot work costs no time.
        data = self._batches(X, shuffle=True, seed=seeds["batches"])
        encoder, pretrained = self._start(X, seeds["encoder"])
        start = time.perf_counter()
        finetuned = self._finetune(encoder, data)
        seconds = {**pretrained.pop("seconds"), "finetune": time.perf_counter() - start}
        self.history_ = {**pretrained, "finetune": finetuned, "seconds": seconds}
        self.encoder_ = encoder
        self.embedding_ = self._embed(X)
        self.kl_divergence_ = self._mean_divergence(X)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> FloatArray:
        """Learn the map of the rows X [N, D] and return it [N, d]."""
        return self.fit(X).embedding_

    def transform(self, X: Any) -> FloatArray:
        """Place rows X [N, D] on the map: [N, d].

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            If X is not finite numeric rows of `n_features_in_` columns.
        """
        check_is_fitted(self)
        return self._embed(validate_data(self, X, dtype=np.float32, reset=False))

    def score(self, X: Any, y: Any = None) -> float:
        """Return minus the KL divergence, in nats, of the map of X: higher is better.

        P is calibrated among the rows of X, in batches of at most `batch_size`, so that scores
        compare at equal perplexity and about equal numbers of rows.

        Raises
        ------
        ValueError
            As `transform`, and if X has too few rows for the perplexity.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return -self._mean_divergence(X)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator into the folder `path`; a model there is replaced or stays.

        A `random_state` that is not an int is saved as None.
        """
        check_is_fitted(self)
        state = {
            "parameters": {k: _plain(v) for k, v in self.get_params(deep=False).items()},
            "n_features_in": self.n_features_in_,
            "kl_divergence": self.kl_divergence_,
            "history": self.history_,
            "feature_names": _plain(getattr(self, "feature_names_in_", None)),
        }
        persistence.save(
            path,
            kind=type(self).__name__,
            state=state,
            encoder=self.encoder_,
            arrays={"embedding": self.embedding_},
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote: it transforms as before, to the bit, and can be fitted again.

        Raises
        ------
        FileNotFoundError
            If there is no model in `path`.
        ValueError
            If it is of a newer version, truncated, altered, or not of this class.
        """
        state, encoder, arrays = persistence.load(path, kind=cls.__name__)
        parameters = state["parameters"]
        parameters["hidden_units"] = tuple(parameters["hidden_units"])
        estimator = cls(**parameters)
        estimator.n_features_in_ = state["n_features_in"]
        if state["feature_names"] is not None:
            estimator.feature_names_in_ = np.asarray(state["feature_names"], dtype=object)
        estimator.encoder_ = encoder
        estimator.embedding_ = arrays["embedding"]
        estimator.kl_divergence_ = state["kl_divergence"]
        estimator.history_ = state["history"]
        return estimator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]  # the map is float32 always
        return tags

    @property
    def _n_features_out(self) -> int:
        return int(self.embedding_.shape[1])

    def _start(self, X: FloatArray, seed: int) -> tuple[keras.Model, dict[str, Any]]:
        """Give an encoder to fine-tune, and the history of how it came about."""
        visible, scaling = _scaling(X, self.visible)
        if self.pretraining == "rbm":
            return self._pretrain_and_unroll(X, visible, scaling, seed)
        encoder = networks.encoder(
            X.shape[1],
            self.n_components,
            hidden_units=self.hidden_units,
            activation=self.activation,
            scaling=scaling,
            seed=seed,
        )
        return encoder, {"pretrain": [], "seconds": {}}

    def _pretrain_and_unroll(
        self, X: FloatArray, visible: Units, scaling: Scaling | None, seed: int
    ) -> tuple[keras.Model, dict[str, Any]]:
        """Stages 1 and 2."""
        start = time.perf_counter()
        epochs = self.pretraining_epochs
        if isinstance(epochs, str):
            updates = -(-len(X) // _PRETRAINING_ROWS)
            epochs = max(_PRETRAINING_EPOCHS, -(-_AUTO_UPDATES // updates))
        top_epochs = round(epochs * 5 / 3)
        total = epochs * len(self.hidden_units) + top_epochs
        rbms = stages.pretrain(
            X if scaling is None else (X - scaling[0]) / scaling[1],
            (*self.hidden_units, self.n_components),
            visible=visible,
            epochs=epochs,
            top_epochs=top_epochs,
            batch_size=_PRETRAINING_ROWS,
            seed=seed,
            callbacks=self._bar("Stage 1, RBM pretraining", total, ("reconstruction_error",)),
        )
        middle = time.perf_counter()
        bar = self._bar("Stage 2, unrolling the RBMs into an encoder", 1, ())
        encoder = stages.unroll(rbms, scaling=scaling)
        for callback in bar:
            callback.on_epoch_end(0)
        seconds = {"pretrain": middle - start, "unroll": time.perf_counter() - middle}
        return encoder, {"pretrain": [r.history.history for r in rbms], "seconds": seconds}

    def _finetune(self, encoder: keras.Model, data: Any) -> dict[str, list[float]]:
        """Stage 3, in place; returns its curves."""
        automatic = -(-_AUTO_STEPS // int(data.cardinality()))
        epochs = automatic if isinstance(self.epochs, str) else self.epochs
        history = stages.finetune(
            encoder,
            data,
            loss=TSNE(dof=self.dof, exaggeration=self.exaggeration),
            epochs=epochs,
            learning_rate=self.learning_rate,
            callbacks=self._bar("Stage 3, fine-tuning on KL(P||Q)", epochs, ("loss",)),
        )
        return history.history

    def _batches(self, X: FloatArray, **options: Any) -> Any:
        return batches.from_array(X, self.perplexity, self.batch_size, **options)

    def _mean_divergence(self, X: FloatArray) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `fit` has warned of duplicates
            data = self._batches(X, shuffle="once", seed=0)
        return metrics.mean_kl_divergence(self.encoder_, data, dof=self.dof)

    def _embed(self, X: FloatArray) -> FloatArray:
        parts = [
            np.asarray(self.encoder_(X[i : i + _TRANSFORM_ROWS], training=False))
            for i in range(0, len(X), _TRANSFORM_ROWS)
        ]
        return np.concatenate(parts)

    def _bar(self, title: str, epochs: int, values: tuple[str, ...]) -> list[StageBar]:
        return [StageBar(title, epochs, values)] if self.verbose else []


def _scaling(X: FloatArray, visible: str) -> tuple[Units, Scaling | None]:
    """Resolve `visible`, and the (shift, scale) that suits it, if any is needed."""
    low, high = float(X.min()), float(X.max())
    if visible == "auto":
        pixels = low >= 0 and (high <= 1 or (high <= 255 and bool((np.rint(X) == X).all())))
        visible = "bernoulli" if pixels else "gaussian"
    if visible == "bernoulli":
        inside = low >= 0 and high <= 1
        return "bernoulli", None if inside else (low, (high - low) or 1.0)
    # One scale for all columns: dividing a nearly constant column by its own deviation would let
    # a new row with an ordinary value there land anywhere.
    mean = X.mean(axis=0, dtype=np.float64)
    scale = float(np.sqrt(np.mean(np.square(X - mean)))) or 1.0
    return "gaussian", (mean.astype(np.float32), scale)


def _plain(value: Any) -> Any:
    """Return a parameter as JSON can hold it."""
    if isinstance(value, np.random.RandomState):
        return None
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
