"""`ParametricTSNE`: parametric t-SNE as a scikit-learn estimator."""

import os
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import keras
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from ptsne_keras import losses, metrics
from ptsne_keras.callbacks import checkpoint
from ptsne_keras.callbacks.progress import FitMeter, StageBar
from ptsne_keras.estimators import persistence, recipes
from ptsne_keras.typing import Dof, FloatArray
from ptsne_keras.utils import arrays, validation

_AUTO = StrOptions({"auto"})
# Rows embedded at a time: 130 MB a layer of 2,000 units.
_BLOCK = 1 << 14


class ParametricTSNE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Parametric t-SNE: a network that maps rows to a t-SNE map, new rows too.

    By default a network of three GELU layers learns from pairs drawn along the neighbourhood graph
    of all rows. With ``pretraining="rbm"`` it is the method of 2009: a greedy
    stack of RBMs, unrolled into an encoder, fine-tuned on KL(P‖Q) of random batches;
    `ParametricTSNE.paper()` has all of the paper's settings.

    Parameters
    ----------
    n_components : int
        d, dimensions of the map.
    perplexity : float, tuple of float or "auto"
        Effective number of neighbours, above 1 and below N - 1 (for batches: the batch's rows - 1).
        "auto" is 15, or 30 for batches, and at most (N - 1) / 3. Of several, P is the mean
        over them.
    sampling : "auto", "graph", "batch" or "fixed"
        "graph": neighbours are sought among all rows once, and a batch is rows with one neighbour
        each. "batch": a batch is random rows, P is calibrated among them, and perplexity u acts
        like u N / B on the whole set. "fixed": one random split into batches is kept, and P is
        computed once; this holds N · batch_size numbers in memory. "auto" is "graph", or "batch"
        with RBMs.
    jitter : float
        Noise on the rows that training sees, in proportion to how the data vary around each: see
        `batches.from_graph`. New rows then land among their neighbours more often. Graph only.
    initial_dims : int, None or "auto"
        Principal components that the network starts from, by a fixed layer of the encoder; None
        for the columns themselves, which as many components as rows or columns also mean. "auto" is
        100, and None with RBMs.
    pretraining : "none", "rbm-cd1" or "rbm-pcd"
        "none" starts fine-tuning from random weights; the others from a stack of RBMs, trained by
        one step of contrastive divergence or by persistent chains. "rbm" is short for "rbm-cd1".
    hidden_units : tuple of int or "auto"
        Widths of the hidden layers. "auto" is (256, 256, 256), or (500, 500, 2000) with RBMs.
    activation : str
        Of the hidden layers: any Keras activation. "auto" is "gelu", or "sigmoid" with RBMs, which
        allow no other.
    visible : "auto", "bernoulli" or "gaussian"
        How rows reach the first layer where there is no projection. "bernoulli": moved and scaled
        by two numbers into [0, 1]. "gaussian": columns centred and divided by one number, their
        root mean square deviation. Neither changes which rows are neighbours. "auto" is "bernoulli"
        for values in [0, 1] and for integers in 0 … 255, "gaussian" otherwise.
    dof : float, "auto" or "learn"
        Degrees of freedom α of the Student-t kernel; "auto" is max(d - 1, 1). "learn" trains them
        with the weights, after one epoch there: it wants two epochs at least.
    exaggeration : float
        Weight c of the attraction in the loss. 1 is plain t-SNE; above 1 clusters are tighter, and
        new rows land in the right one more often.
    batch_size : int or "auto"
        Most rows in a batch; Q takes batch_size² numbers, and P too unless sampling is "graph".
        "auto" is 1,024, or 2,500 for sampling="batch" and "fixed".
    epochs : int or "auto"
        Passes over the rows in fine-tuning; "auto" comes to 8,000 to 16,000 steps, by N, and at
        least 8 passes, or 500 steps for sampling="batch" and "fixed"; by conjugate gradients 30
        passes, and at least 120 batches.
    pretraining_epochs : int or "auto"
        Passes over the rows for each RBM, in batches of 100; the top one does 5/3 as many. "auto"
        is the paper's 30, or 100 for PCD, or more where N is so small that these are fewer than
        1,300 updates.
    learning_rate : float or "auto"
        Adam's in fine-tuning. "auto" is 0.003, or 0.02 for sigmoids, or 0.001 for an encoder of
        your own. For graphs it is steady and the weights are averaged over the last sixteenth of
        the steps; for batches it falls to 0 along a cosine.
    optimizer : "adam", "cg" or keras.optimizers.Optimizer
        Of fine-tuning. "cg": nonlinear conjugate gradients, three line searches a batch, for large
        batches that stay, sampling="fixed". It has no learning rate, and an optimizer of your own
        brings its own.
    encoder : keras.Model, optional
        A network of your own in place of the default one: any Keras model from rows [B, D] to the
        map [B, d], with whatever weights it has. The columns of X go to its inputs in their order,
        reshaped to what each expects, so that images and several inputs work. It takes the rows as
        they are; a copy is trained. `hidden_units`, `activation` and
        `visible` then have no effect, and d is the model's.
    random_state : int, RandomState or None
        An int makes two fits on one machine equal; layers of an `encoder` of your own that draw
        random numbers, such as dropout, have seeds of their own.
    verbose : int
        1 shows a progress bar for each stage.

    Attributes
    ----------
    encoder_ : keras.Model
        From raw rows [B, D] to the map [B, d]; standard Keras layers only.
    embedding_ : ndarray [N, d]
        Map of the training rows.
    history_ : dict
        "pretrain": the curves of each RBM; "finetune": "loss", in nats, which is KL(P‖Q) only at
        exaggeration 1, and "seconds", per epoch, or per several where there are many short ones,
        "dof" where it is learned, and by conjugate gradients, whose loss is that before a pass,
        "line_searches" that found a better point and "evaluations" of loss and gradient;
        "seconds": of each stage; "stopped", where a callback stopped the fit early: passes over the
        rows that are done.
    dof_ : float
        Degrees of freedom α, as they were given or learned.
    kl_divergence_ : float
        Mean KL(P‖Q), in nats, over at most ten random batches of the training rows: not those that
        the fit has drawn, nor those that sampling="fixed" keeps.
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
        "perplexity": [Interval(Real, 1, None, closed="neither"), "array-like", _AUTO],
        "sampling": [StrOptions({"auto", "graph", "batch", "fixed"})],
        "jitter": [Interval(Real, 0, None, closed="left")],
        "initial_dims": [Interval(Integral, 1, None, closed="left"), None, _AUTO],
        "pretraining": [StrOptions({"rbm", "rbm-cd1", "rbm-pcd", "none"})],
        "hidden_units": ["array-like", _AUTO],
        "activation": [str],
        "visible": [StrOptions({"auto", "bernoulli", "gaussian"})],
        "dof": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto", "learn"})],
        "exaggeration": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 4, None, closed="left"), _AUTO],
        "epochs": [Interval(Integral, 1, None, closed="left"), _AUTO],
        "pretraining_epochs": [Interval(Integral, 1, None, closed="left"), _AUTO],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), _AUTO],
        "optimizer": [StrOptions({"adam", "cg"}), keras.optimizers.Optimizer],
        "encoder": [keras.Model, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components: int = 2,
        *,
        perplexity: float | tuple[float, ...] | str = "auto",
        sampling: str = "auto",
        jitter: float = 0.5,
        initial_dims: int | str | None = "auto",
        pretraining: str = "none",
        hidden_units: tuple[int, ...] | str = "auto",
        activation: str = "auto",
        visible: str = "auto",
        dof: Dof | Literal["learn"] = 1.0,
        exaggeration: float = 1.5,
        batch_size: int | str = "auto",
        epochs: int | str = "auto",
        pretraining_epochs: int | str = "auto",
        learning_rate: float | str = "auto",
        optimizer: Any = "adam",
        encoder: keras.Model | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.perplexity = perplexity
        self.sampling = sampling
        self.jitter = jitter
        self.initial_dims = initial_dims
        self.pretraining = pretraining
        self.hidden_units = hidden_units
        self.activation = activation
        self.visible = visible
        self.dof = dof
        self.exaggeration = exaggeration
        self.batch_size = batch_size
        self.epochs = epochs
        self.pretraining_epochs = pretraining_epochs
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.encoder = encoder
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def paper(cls, n_components: int = 2, **changes: Any) -> Self:
        """Make the estimator of the 2009 paper: every setting is its own; `changes` exchange some.

        A sigmoid network D-500-500-2000-d, pretrained as a stack of RBMs by CD-1 for 30 epochs
        (the linear top one for 50; 100 by PCD), then 30 passes of conjugate gradients, three line
        searches a batch, over fixed batches of 5,000 rows with P at perplexity 30; plain KL(P‖Q).
        Epochs and perplexity are "auto", which is that for MNIST's 60,000 rows; few rows get more
        epochs and a lower perplexity. Other activations or an `encoder` of your own want
        pretraining="none" too.

        Examples
        --------
        >>> tsne = ParametricTSNE.paper(random_state=0)
        >>> tsne = ParametricTSNE.paper(30, dof="learn", pretraining="none", optimizer="adam")

        References
        ----------
        van der Maaten (2009), sections 3 and 4.1.
        """
        settings: dict[str, Any] = {
            "pretraining": "rbm-cd1",
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
        return cls(n_components, **settings | changes)

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        resume: bool = False,
    ) -> Self:
        """Learn the map of the rows X [N, D]; y is ignored.

        Parameters
        ----------
        X : array or sparse rows [N, D]
        callbacks : sequence of keras.callbacks.Callback
            Of fine-tuning. One that sets `model.stop_training` leaves a fitted estimator that knows
            how much is left to do: `history_["stopped"]` has the passes over the rows that are
            done.
        resume : bool
            Whether to go on with such a fit, on the same rows and with the same parameters, by the
            epochs that are left.

        Raises
        ------
        ValueError
            If X is not finite numeric rows, N is too small for the perplexity, or a parameter is
            out of its range; or if `resume` is asked for where nothing is left to do, or of other
            rows or parameters.
        """
        self._validate_params()
        self._validate_network()
        start = self._start() if resume else None
        # The columns of a fit that goes on are what they were.
        X = validation.estimator_rows(self, X, reset=start is None, least=4)
        if start and start.left:
            self._check_rows(X)
            seed = start.left.seed
        else:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        settings = recipes.resolve(self.get_params(), *X.shape)
        meters = [callback for callback in callbacks if isinstance(callback, FitMeter)]
        found = recipes.fit(
            X,
            settings,
            seed=seed,
            bar=lambda title, epochs, values, rows: [
                *([StageBar(title, epochs, values)] if self.verbose else []),
                *(meter.stage(title, epochs, rows) for meter in meters),
            ],
            callbacks=[callback for callback in callbacks if callback not in meters],
            start=start,
        )
        self.encoder_, self.dof_, self.history_, left = found
        self._left = left and left._replace(parameters=self._plain_parameters())
        for meter in meters:
            meter.finish()
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
        return self._embed(self._checked(X))

    def score(self, X: Any, y: Any = None) -> float:
        """Return minus the KL divergence, in nats, of the map of X: higher is better.

        P is calibrated among the rows of X, in at most ten batches of at most 2,500 rows, or
        `batch_size` for sampling="batch", so that scores compare at equal perplexity and about
        equal numbers of rows.

        Raises
        ------
        ValueError
            As `transform`, and if X has too few rows for the perplexity.
        """
        check_is_fitted(self)
        return -self._mean_divergence(self._checked(X))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator into the folder `path`; a model there is replaced or stays.

        A `random_state` that is not an int is saved as None.
        """
        check_is_fitted(self)
        state = persistence.state(self, without={"encoder"}) | {
            "kl_divergence": self.kl_divergence_,
            "dof": self.dof_,
            "history": self.history_,
            **checkpoint.state(self._left),
        }
        persistence.save(
            path,
            kind=type(self).__name__,
            state=state,
            models={"encoder": self.encoder_}
            | ({} if self.encoder is None else {"initial_encoder": self.encoder}),
            arrays={"embedding": self.embedding_, **checkpoint.arrays(self._left)},
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
        state, models, arrays = persistence.load(path, kind=cls.__name__)
        initial = models.get("initial_encoder")
        estimator: Self = persistence.estimator(cls, state, encoder=initial)
        estimator.encoder_ = models["encoder"]
        estimator.embedding_ = arrays["embedding"]
        estimator.kl_divergence_ = state["kl_divergence"]
        d = estimator.embedding_.shape[1]
        # A folder from before degrees of freedom could be learned does not name them.
        estimator.dof_ = state.get("dof") or losses.degrees_of_freedom(estimator.dof, d)
        estimator.history_ = state["history"]
        estimator._left = checkpoint.loaded(state, arrays)
        return estimator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float32"]  # the map is float32 always
        return tags

    def _checked(self, X: Any) -> Any:
        return validation.estimator_rows(self, X, reset=False)

    def _start(self) -> recipes.Fitted:
        """Give what an unfinished fit goes on from, or raise where there is none."""
        check_is_fitted(self)
        if self._left is None:
            raise ValueError(
                "resume should be False: the fit came to its end, and nothing is left to do. "
                "Received: True."
            )
        now = self._plain_parameters()
        changed = sorted(
            name for name, value in self._left.parameters.items() if now[name] != value
        )
        if changed:
            raise ValueError(
                "resume should be with the parameters that the fit began with. "
                f"Received: another {', '.join(changed)}."
            )
        return recipes.Fitted(self.encoder_, self.dof_, self.history_, self._left)

    def _check_rows(self, X: Any) -> None:
        """Raise unless the rows are those that the unfinished fit is of, by their places."""
        close = X.shape[0] == len(self.embedding_) and np.allclose(
            self._embed(X), self.embedding_, atol=1e-3 * np.ptp(self.embedding_)
        )
        if not close:
            raise ValueError(
                "X should be the rows that the unfinished fit is of, in their order. "
                f"Received: {X.shape[0]} rows that are others; it has {len(self.embedding_)}."
            )

    def _plain_parameters(self) -> dict[str, Any]:
        """Parameters that a fit depends on, as JSON can hold them."""
        without = {"encoder", "random_state", "verbose"}
        found = persistence.state(self, without=without)["parameters"]
        return dict(found)

    def _validate_network(self) -> None:
        """Check what the constraints of one parameter cannot say."""
        automatic = isinstance(self.hidden_units, str)
        widths: list[Any] = [1] if automatic else list(self.hidden_units)
        if not widths or not all(isinstance(w, Integral) and int(w) >= 1 for w in widths):
            raise ValueError(
                'hidden_units should be "auto" or one or more integers of at least 1. '
                f"Received: {self.hidden_units!r}."
            )
        if self.encoder is not None and self.initial_dims not in ("auto", None):
            raise ValueError(
                "initial_dims should be None with an encoder of your own, which takes the columns "
                f"themselves. Received: {self.initial_dims!r}."
            )
        if self.learning_rate != "auto" and self.optimizer != "adam":
            raise ValueError(
                'learning_rate should be "auto" unless optimizer is "adam"; conjugate gradients '
                f"have none, other optimizers their own. Received: {self.learning_rate!r}."
            )
        if self.pretraining == "none":
            return
        if self.encoder is not None:
            raise ValueError(
                'encoder should be None with RBMs, which make their own; set pretraining="none" '
                f"for yours. Received: {self.encoder.name!r}."
            )
        if self.activation not in ("auto", "sigmoid"):
            raise ValueError(
                'activation should be "sigmoid" with RBMs; set pretraining="none" for '
                f"others. Received: {self.activation!r}."
            )
        if self.initial_dims not in ("auto", None):
            raise ValueError(
                "initial_dims should be None with RBMs, which are trained on the rows "
                f"themselves. Received: {self.initial_dims!r}."
            )

    @property
    def _n_features_out(self) -> int:
        return int(self.embedding_.shape[1])

    def _mean_divergence(self, X: Any) -> float:
        settings = recipes.resolve(self.get_params(), *X.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `fit` has warned of duplicates
            model, data = recipes.score_batches(self.encoder_, X, settings)
        return metrics.mean_kl_divergence(model, data, dof=self.dof_)

    def _embed(self, X: FloatArray) -> FloatArray:
        blocks = arrays.row_blocks(X, rows=_BLOCK)
        # float32 whatever the policy that an encoder of one's own was built under.
        maps = [np.asarray(self.encoder_(x, training=False), np.float32) for x in blocks]
        return np.concatenate(maps)
