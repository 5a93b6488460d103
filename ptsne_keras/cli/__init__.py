"""The command line, `ptsne`."""

from ptsne_keras.cli.arguments import parser
from ptsne_keras.cli.main import main

__all__ = ["main", "parser"]
