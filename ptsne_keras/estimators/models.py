"""Model folders of either estimator."""

import json
import os
from pathlib import Path

from ptsne_keras.estimators.map_regressor import MapRegressor
from ptsne_keras.estimators.parametric_tsne import ParametricTSNE

Model = ParametricTSNE | MapRegressor


def load(path: str | os.PathLike[str]) -> Model:
    """Load the model of a folder, a `ParametricTSNE` or a `MapRegressor`.

    Raises
    ------
    FileNotFoundError, ValueError
        As `ParametricTSNE.load`.

    Examples
    --------
    >>> tsne.save("map")
    >>> type(load("map")).__name__
    'ParametricTSNE'
    """
    try:
        manifest = json.loads((Path(path).expanduser() / "model.json").read_text())
        kind = manifest["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = None  # the loader says what is wrong
    cls: type[Model] = MapRegressor if kind == MapRegressor.__name__ else ParametricTSNE
    return cls.load(path)


def is_model(path: str | os.PathLike[str]) -> bool:
    """Tell whether a folder has a model."""
    return (Path(path).expanduser() / "model.json").is_file()


def unfinished(model: Model) -> bool:
    """Tell whether the fit of a model was interrupted and can go on."""
    return "stopped" in getattr(model, "history_", {})
