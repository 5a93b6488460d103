"""Model folders of either estimator, and the map of the training rows that lies in them."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptsne_keras.estimators._folders import Model
from ptsne_keras.io import inputs, outputs
from ptsne_keras.typing import FloatArray

MAP = "map.csv"
"""The training rows' map in a model folder."""


class TrainingMap(NamedTuple):
    """The map of rows, as `ptsne fit` and `ptsne transform` write it."""

    Y: FloatArray
    ids: Any
    labels: Any


def read_map(
    file: str | os.PathLike[str], *, ids: str | None = None, labels: str | None = None
) -> TrainingMap:
    """Read a map in CSV, Parquet or .npy: columns x and y, and id and label, if there are any."""
    path = Path(file).expanduser()
    header = inputs.Reading(path).source.names
    if path.suffix == ".npy":
        return TrainingMap(*inputs.Reading(path, inputs.Choice(ids=ids, labels=labels)).read())
    ids = ids or ("id" if "id" in header else None)
    labels = labels or ("label" if "label" in header else None)
    names = [name for name in header if name not in (ids, labels, "novelty")]
    if names != outputs.columns(len(names)) or not names:
        raise ValueError(
            f"{path} should be a map with the columns x and y, as `ptsne transform` writes it. "
            f"Received: {', '.join(map(repr, header)) or 'no columns'}."
        )
    choice = inputs.Choice(columns=names, ids=ids, labels=labels)
    return TrainingMap(*inputs.Reading(path, choice).read())


def training_map(model: Model, folder: str | os.PathLike[str]) -> TrainingMap:
    """Give the map of the training rows that a model folder has."""
    file = Path(folder).expanduser() / MAP
    Y = getattr(model, "embedding_", None)
    if file.is_file():
        found = read_map(file)
        # One of an older model may lie there.
        if Y is None or (np.shape(Y) == found.Y.shape and np.allclose(found.Y, Y, rtol=1e-4)):
            return found
    if Y is None:
        raise ValueError(f"{folder} should have {MAP} in it; give the rows by --rows instead.")
    return TrainingMap(np.asarray(Y), None, None)
