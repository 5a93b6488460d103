"""The scikit-learn estimators, and what finds them in a folder."""

from ptsne_keras.estimators._fit_anchored import natural_scale
from ptsne_keras.estimators._folders import Model, is_model, load, unfinished
from ptsne_keras.estimators.map_regressor import MapRegressor
from ptsne_keras.estimators.parametric_tsne import ParametricTSNE

__all__ = [
    "MapRegressor",
    "Model",
    "ParametricTSNE",
    "is_model",
    "load",
    "natural_scale",
    "unfinished",
]
