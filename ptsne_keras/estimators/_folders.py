"""Model folders of either estimator."""

import os
from pathlib import Path

from ptsne_keras.estimators import _persistence
from ptsne_keras.estimators.map_regressor import MapRegressor
from ptsne_keras.estimators.parametric_tsne import ParametricTSNE

Model = ParametricTSNE | MapRegressor


def load(path: str | os.PathLike[str]) -> Model:
    """Return the estimator that `save` wrote into a folder, of either class.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    FileNotFoundError
        If there is no model in the folder.
    ValueError
        If the model was written by a newer version, or is damaged.

    Examples
    --------
    >>> tsne.save("map")
    >>> type(load("map")).__name__
    'ParametricTSNE'
    """
    kind = _persistence.kind(path)
    cls: type[Model] = MapRegressor if kind == MapRegressor.__name__ else ParametricTSNE
    return cls.load(path)


def is_model(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds a model.

    Examples
    --------
    >>> is_model("nowhere")
    False
    """
    return (Path(path).expanduser() / _persistence.MANIFEST).is_file()


def unfinished(model: Model) -> bool:
    """Return whether the fit of a model was stopped early and can be resumed.

    Examples
    --------
    >>> unfinished(tsne)
    False
    """
    return "stopped" in getattr(model, "history_", {})
