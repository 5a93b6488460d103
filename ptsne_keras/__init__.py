"""Parametric t-SNE for Keras: learn the map as a network, embed new rows with it, serve it."""

import importlib
from typing import Any

from ptsne_keras._version import __version__

_MODULES = {
    "affinities",
    "batches",
    "datasets",
    "losses",
    "metrics",
    "networks",
    "plotting",
    "rbm",
    "serving",
    "stages",
}
_NAMES = {"ParametricTSNE": "estimator"}

__all__ = ["ParametricTSNE", "__version__", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: TensorFlow alone takes seconds."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
