"""`ParametricTSNE`: parametric t-SNE as a scikit-learn estimator."""

import functools
import os
import sys
from typing import Any, ClassVar, Literal, Self

import keras
from sklearn.utils.validation import check_is_fitted

from ptsne_keras import networks
from ptsne_keras.callbacks.checkpoint import Unfinished
from ptsne_keras.estimators import _fit, _fit_decoder, _fit_graph
from ptsne_keras.estimators._base import MapEstimator, flat
from ptsne_keras.estimators._encoders import mapped
from ptsne_keras.estimators._settings import CONSTRAINTS, PAPER, check_parameters, resolve
from ptsne_keras.estimators.scoring import scored_rows
from ptsne_keras.typing import Callbacks, Dof, FloatArray


class ParametricTSNE(MapEstimator):
    """Parametric t-SNE: a t-SNE map that places new rows, too.

    A network of three GELU layers learns from pairs of rows drawn along the neighbour graph of all
    rows. Its map is smooth, so the training rows are then freed: a short t-SNE moves each of them
    by itself. A new row starts where the network puts it and goes to the Student-t weighted mode of
    its neighbours' places; see `networks.Placement`.

    With ``placement=False`` the network alone is the map. With ``pretraining="cd1"`` it is trained
    by the method of 2009: a stack of RBMs is trained layer by layer, unrolled into an encoder, and
    fine-tuned on KL(P‖Q) of random batches. `ParametricTSNE.paper` has all settings of the paper.

    Parameters
    ----------
    n_components : int, default=2
        The dimensions of the map.
    perplexity : float, tuple of float or "auto", default="auto"
        The effective number of neighbours, above 1 and below n_samples - 1, or for batches below
        the batch's rows - 1. "auto" is 15, or 30 for batches and, with placement, up to
        5,000 rows; and at most (n_samples - 1) / 3. Of several perplexities, P is the mean.
    metric : {"euclidean", "cosine", "correlation"}, default="euclidean"
        The distance between rows. The encoder scales rows to one length, centred if need be.
    label_weight : float, default=0.0
        The weight of the classes y in [0, 1]: so much of the attraction of a labelled row comes
        from rows of its class in place of its neighbours. 0 ignores y.
    placement : bool, default=True
        Whether the training rows are freed, and new rows placed among them. The map is finer, and
        the network needs a fraction of the steps; `encoder_` then contains at most 50 principal
        components of each training row. Maps of more than three dimensions are not freed.
    sampling : {"auto", "graph", "batch", "fixed"}, default="auto"
        How a batch and its P are drawn. "graph": rows with one neighbour each, by one search among
        all rows. "batch": random rows, with P calibrated among them; perplexity u then acts like
        u · n_samples / batch_size on the whole set. "fixed": one random split into batches, whose
        P takes n_samples · batch_size numbers. "auto" is "graph", or "batch" with RBMs.
    jitter : float, default=0.5
        Noise on rows, as a part of the variation around each; see `data.batches.from_graph`.
    initial_dims : int, "auto" or None, default="auto"
        The number of principal components that a fixed layer hands to the trained ones. None, or a
        number not below n_samples and n_features, leaves the columns themselves. "auto" is 100, or
        None with RBMs or an `encoder` of your own.
    pretraining : {"cd1", "pcd"} or None, default=None
        None starts fine-tuning from random weights; "cd1" and "pcd" from a stack of RBMs, trained
        by one step of contrastive divergence or by persistent chains.
    hidden_units : tuple of int or "auto", default="auto"
        The widths of the hidden layers. "auto" is (256, 256, 256), or (500, 500, 2000) with RBMs.
    activation : str, default="auto"
        Any Keras activation. "auto" is "gelu", or "sigmoid" with RBMs, which need it.
    scaling : {"auto", "unit", "standard"}, default="auto"
        How rows are scaled if there is no projection. "unit" brings them into [0, 1] by two
        numbers, for Bernoulli visible units. "standard" centres the columns and divides them by
        one number, their root mean square deviation, for Gaussian visible units. "auto" is "unit"
        for values in [0, 1] and for integers in 0 … 255, and "standard" otherwise.
    dof : float, "auto" or "learn", default=1.0
        The degrees of freedom α of the Student-t kernel. "auto" is max(n_components - 1, 1), where
        "learn" starts, and trains α with the weights from the second epoch on.
    exaggeration : float or "auto", default="auto"
        The weight c of the attraction in the loss. 1 is plain t-SNE; with more, clusters are
        tighter, and new rows land in the right one more often. "auto" is 1.2, 1 up to 500 rows,
        or 1.5 without placement; less if the perplexity is nearly n_samples, where it would draw
        all rows to one point.
    batch_size : int or "auto", default="auto"
        The most rows in a batch. Q takes batch_size² numbers, and so does P unless sampling is
        "graph". "auto" is 1,024, or 256 up to 5,000 rows with placement, or 2,500 for
        sampling="batch" and "fixed".
    epochs : int or "auto", default="auto"
        The passes of fine-tuning over the rows. "auto" is 200 to 3,000 steps, by n_samples, and at
        least 4 passes; without placement 8,000 to 16,000 and at least 8; 500 steps on batches; and
        30 passes and at least 120 batches for "cg".
    pretraining_epochs : int or "auto", default="auto"
        The passes over the rows for each RBM, in batches of 100; 5/3 of it for the top one. "auto"
        is 30, or 100 for "pcd", or as many as make 1,300 updates.
    learning_rate : float or "auto", default="auto"
        The learning rate of Adam. "auto" is 0.003, 0.02 for sigmoid layers, or 0.001 for an
        `encoder` of your own. With sampling="graph" it is constant, and the weights are averaged
        over the last sixteenth of the steps; else it falls to 0 along a cosine.
    optimizer : {"adam", "cg"} or keras.optimizers.Optimizer, default="adam"
        The optimizer of fine-tuning. "cg" is nonlinear conjugate gradients with three line searches
        a batch, for large batches that stay the same: sampling="fixed".
    encoder : keras.Model, default=None
        A network of your own, any Keras model from rows [B, D] to map coordinates [B, d], in place
        of `hidden_units`, `activation` and `scaling`. A copy is trained, from its weights on. The
        columns of X go to its inputs in order, unscaled, reshaped to what each input expects.
    decoder : bool or keras.Model, default=False
        Whether a network then learns the rows by their places, for `inverse_transform`; or a
        network of your own, from [B, d] to [B, D], which is trained on standardised coordinates
        and columns.
    max_train_rows : int or None, default=1_000_000
        The most rows to learn from. Of more, so many are drawn at random, and the others are placed
        among them as new rows are. None learns from all.
    n_jobs : int or None, default=None
        The most threads of the neighbour search, and of the descent where more than 5,000 rows are
        freed; -1 is as many as there are cores, -2 one fewer. None leaves it to OMP_NUM_THREADS, by
        default also all cores. The threads of the network are TensorFlow's: `tf.config.threading`.
    random_state : int, RandomState instance or None, default=None
        An int makes two fits on one machine equal, unless layers of your own `encoder`, such as
        dropout, have seeds of their own.
    verbose : int, default=0
        1 shows the progress of each stage on stderr.

    Attributes
    ----------
    encoder_ : keras.Model
        The model from raw rows [B, D] to the map [B, d]: the network and a `Placement` layer, which
        needs this package to be loaded; or the network alone.
    network_ : keras.Model
        The network from raw rows to the map, of standard Keras layers only.
    decoder_ : keras.Model or None
        The model from the map [B, d] back to raw rows [B, D], if there is to be one.
    embedding_ : ndarray of shape (n_samples, n_components)
        The map of the training rows.
    history_ : dict
        "pretrain": the curves of each RBM. "finetune": the curves of fine-tuning, per epoch, or per
        several where they are many and short: "loss" in nats, which is KL(P‖Q) at exaggeration 1;
        "seconds"; "dof" if it is learned; those of `training.ConjugateGradientTrainer` with "cg".
        "refine", if rows are freed: "loss", KL(P‖Q) over the graph of all rows after as many
        "steps".
        "decoder", if there is one: the curves "error" and "val_error", its mean squared error on
        training and held-out rows as a part of their variance.
        "seconds": the seconds of each stage; "others" is the placing of rows that were not drawn.
        "stopped": the passes over the rows that are done, if a callback stopped the fit early.
    dof_ : float
        The degrees of freedom α, as given or as learned.
    kl_divergence_ : float
        The mean KL(P‖Q) in nats over at most ten random batches of the training rows.
    n_features_in_ : int
        The number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        The names of the columns, if X has any.

    References
    ----------
    van der Maaten (2009), Learning a parametric embedding by preserving local structure, AISTATS.

    Examples
    --------
    >>> tsne = ParametricTSNE(random_state=0).fit(X_train)
    >>> Y = tsne.transform(X_new)
    >>> tsne.save("map")
    >>> Y_again = ParametricTSNE.load("map").transform(X_new)
    """

    dof_: float
    kl_divergence_: float

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS

    def __init__(
        self,
        n_components: int = 2,
        *,
        perplexity: float | tuple[float, ...] | str = "auto",
        metric: str = "euclidean",
        label_weight: float = 0.0,
        placement: bool = True,
        sampling: str = "auto",
        jitter: float = 0.5,
        initial_dims: int | str | None = "auto",
        pretraining: str | None = None,
        hidden_units: tuple[int, ...] | str = "auto",
        activation: str = "auto",
        scaling: str = "auto",
        dof: Dof | Literal["learn"] = 1.0,
        exaggeration: float | str = "auto",
        batch_size: int | str = "auto",
        epochs: int | str = "auto",
        pretraining_epochs: int | str = "auto",
        learning_rate: float | str = "auto",
        optimizer: Any = "adam",
        encoder: keras.Model | None = None,
        decoder: bool | keras.Model = False,
        max_train_rows: int | None = 1_000_000,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_components, self.perplexity, self.metric = n_components, perplexity, metric
        self.label_weight, self.placement, self.sampling = label_weight, placement, sampling
        self.jitter, self.initial_dims, self.pretraining = jitter, initial_dims, pretraining
        self.hidden_units, self.activation, self.scaling = hidden_units, activation, scaling
        self.dof, self.exaggeration, self.batch_size = dof, exaggeration, batch_size
        self.epochs, self.pretraining_epochs = epochs, pretraining_epochs
        self.learning_rate, self.optimizer = learning_rate, optimizer
        self.encoder, self.decoder = encoder, decoder
        self.max_train_rows, self.n_jobs = max_train_rows, n_jobs
        self.random_state, self.verbose = random_state, verbose

    @classmethod
    def paper(cls, n_components: int = 2, **changes: Any) -> Self:
        """Return an estimator with the settings of the 2009 paper.

        A sigmoid network D-500-500-2000-d is pretrained as a stack of RBMs by CD-1, 30 epochs each
        and 50 for the linear top one, then fine-tuned on plain KL(P‖Q) by 30 passes of conjugate
        gradients over fixed batches of 5,000 rows at perplexity 30. Epochs and perplexity are
        "auto", which gives these numbers for MNIST's 60,000 rows.

        Parameters
        ----------
        n_components : int, default=2
            The dimensions of the map.
        **changes
            Parameters that differ. Another activation or encoder needs pretraining=None as well.

        References
        ----------
        van der Maaten (2009), sections 3 and 4.1.

        Examples
        --------
        >>> tsne = ParametricTSNE.paper(random_state=0)
        >>> tsne = ParametricTSNE.paper(30, dof="learn", pretraining=None, optimizer="adam")
        """
        return cls(n_components, **{**PAPER, **changes})

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        neighbors: Any = None,
        init: Any = None,
        callbacks: Callbacks = None,
        resume: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_seconds: float = 300.0,
        embedding_out: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Learn the map of rows.

        Parameters
        ----------
        X : array-like, sparse matrix or np.memmap of shape (n_samples, n_features)
            At least four rows. Of more than `max_train_rows`, a `np.memmap` is read block by block.
        y : array-like of shape (n_samples,), default=None
            Classes for `label_weight` above 0; -1, None and NaN are rows without one.
        neighbors : tuple (indices, distances) or sparse matrix, default=None
            Neighbours found elsewhere, from which the map is then made: two arrays of shape
            (n_samples, k) without the rows themselves, or a graph of distances, such as of
            scikit-learn's `kneighbors_graph` or scanpy's ``obsp["distances"]``. "auto" perplexity
            is then k / 3 at most. New rows are placed by `metric`. For sampling="graph" alone.
        init : ParametricTSNE, default=None
            Another fit of the same columns, from whose map this one starts: the picture stays.
        callbacks : keras.callbacks.Callback or a sequence of them, default=None
            Callbacks of fine-tuning; what one stops by `model.stop_training`, `resume` can finish.
        resume : bool, default=False
            Whether to continue a fit that a callback stopped early, or one loaded from its
            checkpoint. X and the parameters must be those of that fit.
        checkpoint : path-like, default=None
            A folder for the unfinished model, and for neighbours whose search takes 10 s. After the
            end of the process ``ParametricTSNE.load(checkpoint)`` goes on by
            ``fit(X, resume=True, checkpoint=checkpoint)``.
        checkpoint_seconds : float, default=300.0
            The least seconds of fine-tuning between two checkpoints; there is another at its end,
            30 s or more after the last.
        embedding_out : path-like, default=None
            A .npy file for the map of all rows; `embedding_` is then this file, memory-mapped.

        Returns
        -------
        ParametricTSNE

        Raises
        ------
        ValueError
            If X does not consist of finite numeric rows or has too few for the perplexity, a
            parameter is out of its range, or there is no such fit to resume.
        """
        self._validate_params()
        check_parameters(self)
        options = {"neighbors": neighbors, "init": init, "callbacks": flat(callbacks)}
        options |= {"resume": resume, "checkpoint": checkpoint, "seconds": checkpoint_seconds}
        with self._unless_refused(), self._threads():
            _fit.fit(self, X, y, embedding_out=embedding_out, **options)
        return self

    def transform(self, X: Any, *, placement: bool = True) -> FloatArray:
        """Return the map coordinates of rows.

        Parameters
        ----------
        X : array-like, sparse matrix or np.memmap of shape (n_samples, n_features)
            A `np.memmap` is read block by block.
        placement : bool, default=True
            False gives the answer of the network alone: quick, and coarser.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            float32. Training rows come back to their places in `embedding_`; copies of a row share
            one place.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        ValueError
            If X does not consist of finite numeric rows with `n_features_in_` columns.
        """
        if placement:
            return super().transform(X)
        check_is_fitted(self)
        return self._finite(mapped(self.network_, self._checked(X)))

    def inverse_transform(self, Y: Any) -> FloatArray:
        """Return the rows that the decoder expects at places of the map.

        Parameters
        ----------
        Y : array-like of shape (n_samples, n_components)
            Map coordinates, such as a grid of them.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Raw rows, float32: about the mean of those that lie there. Far from all rows they mean
            nothing.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        ValueError
            If there is no decoder, or Y does not consist of finite places of the map.

        Examples
        --------
        >>> tsne = ParametricTSNE(decoder=True, random_state=0).fit(X)
        >>> rows = tsne.inverse_transform([[0.0, 0.0], [5.0, -5.0]])
        """
        check_is_fitted(self)
        return _fit_decoder.decoded(self, Y)

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> FloatArray:
        """Learn the map of rows as `fit` does, with its parameters, and return `embedding_`."""
        return self.fit(X, y, **fit_params).embedding_

    def score(self, X: Any, y: Any = None) -> float:
        """Return minus the KL divergence, in nats, of the map of rows: higher is better.

        P is calibrated among at most ten batches of 2,500 rows of X, or of `batch_size` for
        sampling="batch" and "fixed": scores compare at equal perplexity and numbers of rows.

        Parameters
        ----------
        X : array-like, sparse matrix or np.memmap of shape (n_samples, n_features)
        y : Ignored

        Returns
        -------
        float

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        ValueError
            If X does not consist of finite rows of `n_features_in_` numbers, or has too few.
        """
        check_is_fitted(self)
        X = self._checked(X)
        return -scored_rows(self, X).divergence(self._map(X), self.dof_)

    def _free(self) -> Any:
        options: dict[str, Any] = {"dof": self.dof_, "verbose": self.verbose}
        return functools.partial(_fit_graph.freed, settings=self._settings, **options)

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        state: dict[str, Any] = {"kl_divergence": self.kl_divergence_, "dof": self.dof_}
        state |= {name: getattr(self._settings, name) for name in ("neighbors", "rows")}
        saved = {"embedding": self.embedding_}
        if self._left is not None:
            state["unfinished"] = self._left.state()
            saved |= self._left.arrays()
        return state, saved

    def _restore(self, state: dict[str, Any], saved: dict[str, Any]) -> None:
        self.embedding_ = saved["embedding"]
        self.network_ = networks.network(self.encoder_) or self.encoder_
        self.kl_divergence_, self.dof_ = float(state["kl_divergence"]), float(state["dof"])
        # Earlier versions do not state it; rows that came by `extend` are not among them.
        n = state.get("rows", min(len(self.embedding_), self.max_train_rows or sys.maxsize))
        k = state.get("neighbors")
        self._settings = resolve(self.get_params(), n, self.n_features_in_, k)
        unfinished = state.get("unfinished")
        self._left = unfinished and Unfinished.loaded(unfinished, saved)
