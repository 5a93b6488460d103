"""Imports of packages that only some features need."""

import importlib
import importlib.util
from typing import Any


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Import a module of an optional package, or raise an error that names the extra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).split(".")[0]
        raise ModuleNotFoundError(
            f"{purpose} needs {package}: pip install 'ptsne_keras[{extra}]'.", name=package
        ) from error


def found(module: str) -> Any | None:
    """Import a module of an optional package, or return None if it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return None


def check_tensorflow() -> None:
    """Raise an error that names the extras if TensorFlow is not installed."""
    if importlib.util.find_spec("tensorflow") is None:
        raise ModuleNotFoundError(
            "ptsne_keras needs TensorFlow: pip install 'ptsne_keras[cpu]', or 'ptsne_keras[gpu]' "
            "for an NVIDIA GPU.",
            name="tensorflow",
        )
