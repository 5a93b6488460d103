"""Imports of packages that only some features need."""

import importlib
import importlib.util
import os
import sys
from typing import Any

# Whether this process was forked from one in which TensorFlow ran, whose threads it lacks.
_forked = False


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


def check_process() -> None:
    """Raise in a forked process, where TensorFlow would wait for threads that are not there."""
    if _forked:
        raise RuntimeError(
            "TensorFlow cannot run in a process forked from one that has used it: load the model "
            'in the child before the parent uses it, or start children by "spawn" '
            "(multiprocessing) or loky (joblib)."
        )


def _note_fork() -> None:
    """Note in a new child whether its parent had started TensorFlow."""
    global _forked
    context = sys.modules.get("tensorflow.python.eager.context")
    started = context and context.context_safe()
    _forked = _forked or bool(started and started._initialized)


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_note_fork)
