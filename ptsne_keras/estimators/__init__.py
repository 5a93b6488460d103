"""The scikit-learn estimators."""

from ptsne_keras.estimators.map_regressor import MapRegressor
from ptsne_keras.estimators.models import load
from ptsne_keras.estimators.parametric_tsne import ParametricTSNE

__all__ = ["MapRegressor", "ParametricTSNE", "load"]
