"""Parametric t-SNE for Keras: learn the map as a network, place new rows on it, serve it."""

import importlib
import sys
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


def _register() -> None:
    """Let a Keras that is imported already know the classes that saved models may hold."""
    if sys.modules.get("keras"):
        importlib.import_module(f"{__name__}.losses")
        for name in ("metrics", "networks", "training") if sys.modules.get("tensorflow") else ():
            importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)


_register()
