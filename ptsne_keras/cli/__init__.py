"""The command line, `ptsne`."""

from ptsne_keras.cli.main import main
from ptsne_keras.cli.parser import make_parser

__all__ = ["main", "make_parser"]
