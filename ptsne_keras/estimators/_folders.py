"""Model folders of either estimator."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptsne_keras.estimators import _persistence
from ptsne_keras.estimators.map_regressor import MapRegressor
from ptsne_keras.estimators.parametric_tsne import ParametricTSNE
from ptsne_keras.utils import files

Model = ParametricTSNE | MapRegressor
MAP = _persistence.MAP
CHECKPOINT = Path(".checkpoint") / "model"
"""Where in a model's folder `ptsne fit` keeps an unfinished fit, whose lock the parent has."""


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


def save_with_map(
    model: Model,
    path: str | os.PathLike[str],
    write_map: Callable[[Path], Any] | None,
    *,
    overwrite: bool,
) -> None:
    """Save a model and the map of its rows, which change together.

    Parameters
    ----------
    model : ParametricTSNE or MapRegressor
    path : path-like
        The folder; it is created if need be.
    write_map : callable, or None
        Writes the map to a path, which becomes `map.csv` in the folder.
    overwrite : bool
        Whether a model that is there may be replaced.

    Raises
    ------
    FileExistsError
        If a model is there, and may not be replaced.
    OSError
        If the folder cannot be written.

    Examples
    --------
    >>> import pandas
    >>> table = pandas.DataFrame(tsne.embedding_)
    >>> save_with_map(tsne, "map", table.to_csv, overwrite=True)
    """
    model._save(path, write_map=write_map, overwrite=overwrite)


def sweep(path: str | os.PathLike[str]) -> None:
    """Finish or remove what processes that died left in a folder, but a checkpoint of use.

    Examples
    --------
    >>> sweep("map")
    """
    _persistence.sweep(path)
    kept = Path(path).expanduser() / CHECKPOINT
    if is_model(path) and newest(path) != kept and kept.parent.is_dir():
        with files.locked(kept.parent, wait=False) as free:
            if free:
                shutil.rmtree(kept.parent, ignore_errors=True)


def newest(path: str | os.PathLike[str]) -> Path:
    """Return the folder of the model or of its checkpoint, whichever was written later.

    Examples
    --------
    >>> newest("map")
    PosixPath('map')
    """
    folder = Path(path).expanduser()
    written = {
        place: (place / _persistence.MANIFEST).stat().st_mtime_ns
        for place in (folder, folder / CHECKPOINT)
        if is_model(place)
    }
    return max(written, key=lambda place: written[place], default=folder)


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
