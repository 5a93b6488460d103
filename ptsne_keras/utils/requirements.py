"""Where TensorFlow is missing, the error says which extra of this package brings it."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_PACKAGE = "ptsne_keras."
MESSAGE = (
    "ptsne_keras needs TensorFlow: pip install 'ptsne_keras[cpu]', or 'ptsne_keras[gpu]' where "
    "there is an NVIDIA GPU."
)


class Finder(MetaPathFinder):
    """Finds this package's modules where they are, and has their errors of import say the mend."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Leave everything but this package's own modules to the finders after this one."""
        spec = PathFinder.find_spec(name, path, target) if name.startswith(_PACKAGE) else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """The loader that was found, but for the error."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:  # such as the source, that tracebacks show
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self._loader.exec_module(module)
        except ModuleNotFoundError as error:
            # Or Keras misses it first, whose backend it is unless told otherwise.
            if (error.name or "").split(".")[0] != "tensorflow":
                raise
            raise ModuleNotFoundError(MESSAGE, name="tensorflow") from None


def install() -> None:
    """Do so where there is no TensorFlow; elsewhere imports are Python's own affair.

    Examples
    --------
    >>> install()
    """
    if importlib.util.find_spec("tensorflow") is None:
        sys.meta_path.insert(0, Finder())
