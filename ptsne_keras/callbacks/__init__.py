"""Keras callbacks: schedules, pictures of the growing map, progress, checkpoints."""

from ptsne_keras.callbacks.progress import EpochSeconds, FitMeter, Meter, StageBar
from ptsne_keras.callbacks.schedule import Schedule, geometric
from ptsne_keras.callbacks.snapshots import MapSnapshots, Projector

__all__ = [
    "EpochSeconds",
    "FitMeter",
    "MapSnapshots",
    "Meter",
    "Projector",
    "Schedule",
    "StageBar",
    "geometric",
]
