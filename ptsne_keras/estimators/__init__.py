"""The scikit-learn estimators, and what finds them in a folder."""

from ptsne_keras.estimators._folders import (
    CHECKPOINT,
    MAP,
    Model,
    is_model,
    load,
    newest,
    save_with_map,
    sweep,
    unfinished,
)
from ptsne_keras.estimators.map_regressor import MapRegressor
from ptsne_keras.estimators.parametric_tsne import ParametricTSNE

__all__ = [
    "CHECKPOINT",
    "MAP",
    "MapRegressor",
    "Model",
    "ParametricTSNE",
    "is_model",
    "load",
    "newest",
    "save_with_map",
    "sweep",
    "unfinished",
]
