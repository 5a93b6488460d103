"""What both estimators share: checked rows, transform, save and load."""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, Self

import joblib
import keras
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ptsne_keras.affinities.neighbors import Index
from ptsne_keras.estimators import _encoders, _persistence, _placer
from ptsne_keras.typing import Callbacks, FloatArray
from ptsne_keras.utils import arrays, optional, validation


@contextlib.contextmanager
def without_retracing_warnings() -> Iterator[None]:
    """Keep TensorFlow from warning that steps are traced, as they are once in each fit."""
    logger = logging.getLogger("tensorflow")
    logger.addFilter(_is_no_retracing)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_retracing)


def flat(callbacks: Callbacks) -> list[keras.callbacks.Callback]:
    """Return callbacks as a list, or raise if Keras could not run them."""
    found: list[Any] = keras.tree.flatten(callbacks or [])
    for callback in found:
        if not isinstance(callback, keras.callbacks.Callback | keras.callbacks.CallbackList):
            raise ValueError(
                "callbacks should be a keras.callbacks.Callback or a sequence of them. "
                f"Received: {callback!r:.60}."
            )
    return found


def _is_no_retracing(record: logging.LogRecord) -> bool:
    return "retracing" not in str(record.msg)


class MapEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """An estimator whose `encoder_` takes rows to map coordinates."""

    encoder: keras.Model | None
    encoder_: keras.Model
    decoder_: keras.Model | None = None
    embedding_: FloatArray
    history_: dict[str, Any]
    metric: str
    random_state: Any
    n_features_in_: int
    n_jobs: int | None = None

    def transform(self, X: Any) -> FloatArray:
        """Return the map coordinates of rows.

        Parameters
        ----------
        X : array-like, sparse matrix or np.memmap of shape (n_samples, n_features)
            A `np.memmap` is read block by block.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            float32.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        ValueError
            If X does not consist of finite numeric rows with `n_features_in_` columns, or one is
            so far from the training rows that its place is not finite.
        """
        check_is_fitted(self, "encoder_")
        return self._finite(self._map(self._checked(X)))

    def novelty(self, X: Any) -> FloatArray:
        """Return how far rows are from their neighbours among the training rows.

        It is the distance to the nearest training rows, as many as place a row, as a quantile of
        the distances that training rows have to others. It recognises strangers well, and rows of a
        known kind in the wrong cluster less well: they land there because they resemble its rows.

        Parameters
        ----------
        X : array-like, sparse matrix or np.memmap of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            0 for a training row, about 0.5 for a usual row, and 1 for a row that is farther away
            than any training row.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        ValueError
            If rows are not placed among training rows, but by a network alone, or X is not as for
            `transform`.

        Examples
        --------
        >>> tsne = ParametricTSNE(random_state=0).fit(X)
        >>> strangers = X_new[tsne.novelty(X_new) > 0.99]
        """
        check_is_fitted(self, "encoder_")
        X = self._checked(X)
        with self._threads():
            return self._reference_for("novelty").novelty(X)

    def drift(self, X: Any, *, level: float = 0.99) -> float:
        """Return the part of rows whose `novelty` is above a level.

        Rows like those of the fit have a part of about 1 - level; a larger one says that the data
        have changed since.

        Parameters
        ----------
        X : array-like, sparse matrix or np.memmap of shape (n_samples, n_features)
        level : float, default=0.99

        Returns
        -------
        float

        Examples
        --------
        >>> tsne.drift(X_new) < 0.05
        True
        """
        return float(np.mean(self.novelty(X) > level))

    def extend(self, X: Any, *, refine_new: bool = False) -> FloatArray:
        """Take new rows into the reference, at the places where `transform` puts them.

        Later rows are placed among them as well. Places of earlier rows stay the same to the bit,
        and so do the network and the decoder.

        Parameters
        ----------
        X : array-like, sparse matrix or np.memmap of shape (n_samples, n_features)
            Rows that the reference does not contain.
        refine_new : bool, default=False
            Whether the new rows are then freed, as those of the fit were: they also attract and
            repel one another, so that many rows of a new kind get a place of their own. It takes as
            long as for all rows. Not for `MapRegressor`, which does not know how the map was made,
            nor for maps of more than three dimensions.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            Their places, which `ParametricTSNE` appends to `embedding_`.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        ValueError
            If rows are not placed among training rows, but by a network alone, or X is not as for
            `transform`.

        Examples
        --------
        >>> tsne = ParametricTSNE(random_state=0).fit(X)
        >>> Y_new = tsne.extend(X_new)
        >>> bool(np.array_equal(tsne.embedding_[len(X):], Y_new))
        True
        """
        check_is_fitted(self, "encoder_")
        X = self._checked(X)
        free = self._free() if refine_new else None
        with self._threads():
            Y = self._finite(self._reference_for("extend").place(X))
            self.encoder_ = _placer.extended(self.encoder_, X, Y, free)
        Y = self.encoder_.layers[-1].reference()[1][-len(Y) :]
        del self._placer
        if hasattr(self, "embedding_"):
            self.embedding_ = np.concatenate([self.embedding_, Y])
        return Y

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator into a folder.

        A model that is already there is replaced as a whole, or stays if writing fails. A
        `random_state` that is not an int is saved as None.

        Parameters
        ----------
        path : path-like
            The folder; it is created if need be.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        OSError
            If the folder cannot be written.
        ValueError
            If a weight or a place is not finite.
        """
        self._save(path)

    def _save(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Save with the options of `_persistence.save`."""
        check_is_fitted(self, "encoder_")
        state, saved = self._state()
        output = getattr(self, "_sklearn_output_config", {}).get("transform")
        own = self.get_params(deep=False).items()
        models = {f"initial_{n}": _encoders.copied(v) for n, v in own if isinstance(v, keras.Model)}
        models |= {"encoder": self.encoder_} | ({"decoder": self.decoder_} if self.decoder_ else {})
        _persistence.save(
            path,
            kind=type(self).__name__,
            state=_persistence.state(self) | {"history": self.history_, "output": output} | state,
            models=models,
            arrays=saved,
            **options,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return the estimator that `save` wrote into a folder.

        It maps rows exactly as before, and it can be fitted again.

        Parameters
        ----------
        path : path-like

        Raises
        ------
        FileNotFoundError
            If there is no model in the folder.
        ValueError
            If the model is of another class, was written by a newer version, or is damaged.
        """
        optional.check_process()
        state, models, saved = _persistence.load(path, kind=cls.__name__)
        with _persistence.whole(path):
            estimator: Self = _persistence.estimator(cls, state, models)
            estimator._restore(state, saved)
            estimator.set_output(transform=state.get("output"))  # None changes nothing
        return estimator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float32"]  # a map is always float32
        return tags

    @property
    def _n_features_out(self) -> int:
        return int(self.encoder_.output_shape[-1])

    def _free(self) -> Callable[[FloatArray, Index, int], FloatArray]:
        """Return what frees new rows of a map, or raise."""
        raise ValueError(
            "refine_new should be False for a map that exists, whose perplexity is not known. "
            "Received: True."
        )

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what else to save: a state that JSON can hold, and arrays."""
        raise NotImplementedError

    def _restore(self, state: dict[str, Any], saved: dict[str, Any]) -> None:
        """Set what `_state` returned."""
        raise NotImplementedError

    def _seeds(self, count: int) -> Any:
        """Draw seeds by `random_state`."""
        return check_random_state(self.random_state).randint(2**31 - 1, size=count).tolist()

    def _checked(self, X: Any, *, reset: bool = False, least: int = 1) -> Any:
        """Return float32 rows, dense or CSR; a `np.memmap` is checked and returned as it is."""
        optional.check_process()
        if not isinstance(X, np.memmap):
            found = validation.estimator_rows(self, X, reset=reset, least=least)
            validation.check_squares(found, self.metric)
            return found
        validation.check_shape(X)
        if len(X) < least:
            raise ValueError(f"X should have at least {least} rows. Received: {len(X)}.")
        if not reset:
            validation.check_width(self, X.shape[1])
        step = arrays.block_size(X.shape[1])
        for start in range(0, len(X), step):
            validation.check_rows(X[start : start + step], start=start, dtype=np.float32)
        validation.check_squares(X, self.metric)
        if reset:
            self.n_features_in_ = X.shape[1]
            self.__dict__.pop("feature_names_in_", None)  # left from an earlier fit
            validation.warn_of_rounding(X)
            validation.check_differ(X)
        return X.view(np.uint8) if X.dtype.kind == "b" else X

    def _of_metric(self, X: Any) -> Any:
        """Return checked rows of a fit as its metric knows them."""
        if self.metric == "euclidean":
            return X
        X = arrays.unit_rows(X, self.metric)
        validation.check_differ(X, metric=self.metric)
        return X

    @contextlib.contextmanager
    def _threads(self) -> Iterator[None]:
        """Hold the search and the freed rows to `n_jobs` threads."""
        if self.n_jobs is None:
            yield
            return
        import faiss

        cores, before = joblib.cpu_count(), faiss.omp_get_max_threads()
        jobs = self.n_jobs if self.n_jobs > 0 else max(1, cores + 1 + self.n_jobs)
        faiss.omp_set_num_threads(int(min(jobs, cores)))  # of this thread of Python alone
        try:
            yield
        finally:
            faiss.omp_set_num_threads(before)

    @contextlib.contextmanager
    def _unless_refused(self) -> Iterator[None]:
        """Restore what is known of the columns if a fit is refused."""
        names = ("n_features_in_", "feature_names_in_")
        before = {name: vars(self)[name] for name in names if name in vars(self)}
        try:
            yield
        except Exception:
            for name in names:
                self.__dict__.pop(name, None)
            self.__dict__.update(before)
            raise

    @staticmethod
    def _finite(Y: FloatArray) -> FloatArray:
        """Return the map coordinates Y, or raise if some are not finite."""
        bad = np.flatnonzero(~np.isfinite(Y).all(axis=1))
        if bad.size:
            raise ValueError(
                "X should have rows like those of fit, which have finite places; check their "
                f"units. Received: {bad.size} rows without one, the first at index {bad[0]}."
            )
        return Y

    def _reference_for(self, purpose: str) -> _placer.Placer:
        """Return what places rows among training rows, or raise."""
        if self._placer is None:
            raise ValueError(
                f"{purpose} needs the training rows, which a network alone does not keep: fit a "
                "model with placement."
            )
        return self._placer

    def _map(self, X: Any) -> FloatArray:
        """Return the map coordinates of checked rows."""
        with self._threads():
            if self._placer is not None:
                return self._placer.place(X)
            return _encoders.mapped(self.encoder_, X)

    @functools.cached_property
    def _placer(self) -> _placer.Placer | None:
        """What places rows in Python, unless a network does; built when it is first needed."""
        return _placer.placer(self.encoder_)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_placer"}
