"""Rows and maps in files."""

from ptsne_keras.io import maps, rows, tables

__all__ = ["maps", "rows", "tables"]
