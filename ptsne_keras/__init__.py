"""Parametric t-SNE for Keras: learn the map as a network, embed new rows with it, serve it."""

import importlib
from typing import Any

from ptsne_keras._version import __version__
from ptsne_keras.utils import requirements

requirements.install()

_MODULES = {
    "affinities",
    "callbacks",
    "data",
    "datasets",
    "evaluation",
    "io",
    "losses",
    "metrics",
    "networks",
    "plotting",
    "serving",
    "training",
}
_NAMES = {"MapRegressor": "estimators", "ParametricTSNE": "estimators"}

__all__ = ["MapRegressor", "ParametricTSNE", "__version__", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: TensorFlow alone takes seconds."""
    module = name if name in _MODULES else _NAMES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    loaded = importlib.import_module(f"{__name__}.{module}")
    return loaded if name in _MODULES else getattr(loaded, name)


def __dir__() -> list[str]:
    return sorted(__all__)
