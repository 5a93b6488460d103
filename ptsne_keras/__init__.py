"""Parametric t-SNE for Keras: learn the map as a network, place new rows on it, serve it."""

import importlib
from typing import Any

from ptsne_keras._version import __version__

_SUBPACKAGES = {
    "affinities",
    "callbacks",
    "data",
    "datasets",
    "estimators",
    "evaluation",
    "io",
    "losses",
    "metrics",
    "networks",
    "plotting",
    "serving",
    "training",
}
_NAMES = {
    "MapRegressor": "estimators",
    "ParametricTSNE": "estimators",
    "evaluate": "evaluation",
    "load": "estimators",
}
_WITHOUT_TENSORFLOW = {"datasets", "io", "plotting"}

__all__ = ["MapRegressor", "ParametricTSNE", "__version__", "evaluate", "load"]
__all__ += sorted(_SUBPACKAGES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, since TensorFlow takes seconds to import."""
    module = name if name in _SUBPACKAGES else _NAMES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if module not in _WITHOUT_TENSORFLOW:
        from ptsne_keras.utils.optional import check_tensorflow

        check_tensorflow()
    loaded = importlib.import_module(f"{__name__}.{module}")
    return loaded if name in _SUBPACKAGES else getattr(loaded, name)


def __dir__() -> list[str]:
    return sorted(__all__)
