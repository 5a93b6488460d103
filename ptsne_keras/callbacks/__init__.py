"""Keras callbacks: schedules, snapshots of the growing map, interruption."""

from ptsne_keras.callbacks.checkpoint import Interruption
from ptsne_keras.callbacks.progress import EpochSeconds
from ptsne_keras.callbacks.schedule import Schedule, geometric
from ptsne_keras.callbacks.snapshots import MapSnapshots, Projector

__all__ = ["EpochSeconds", "Interruption", "MapSnapshots", "Projector", "Schedule", "geometric"]
