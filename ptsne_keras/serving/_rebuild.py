"""Write a saved encoder as a SavedModel, in a process of its own that runs TensorFlow.

    KERAS_BACKEND=tensorflow python -m ptsne_keras.serving._rebuild FOLDER SAVED_MODEL

`export_saved_model` runs it where Keras has another backend.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from ptsne_keras.serving import _saved_model
from ptsne_keras.serving._saved_model import Options, Reference
from ptsne_keras.utils.novelty import Landmarks


def run(encoder: keras.Model, path: Path, options: Options) -> None:
    """Start this module on an encoder; raise if it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        _save(encoder, Path(scratch), options)
        done = subprocess.run(
            [sys.executable, "-m", __name__, scratch, path],
            # No GPU: this process may hold all of its memory.
            env={
                **os.environ,
                "KERAS_BACKEND": "tensorflow",
                "CUDA_VISIBLE_DEVICES": "-1",
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            capture_output=True,
            text=True,
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(
            "encoder should be one that Keras loads on TensorFlow, of standard layers, or exported "
            f"under KERAS_BACKEND=tensorflow. Received: {encoder.name!r}; {reason}"
        )


def _save(encoder: keras.Model, folder: Path, options: Options) -> None:
    encoder.save(folder / "encoder.keras")
    if options.reference is not None:
        landmarks, sample = options.reference
        np.savez(folder / "reference.npz", sample=sample, **landmarks.arrays())  # type: ignore[arg-type]
    told = options._replace(reference=None, facts=dict(options.facts))._asdict()
    (folder / "options.json").write_text(json.dumps(told))


def _load(folder: Path) -> tuple[keras.Model, Options]:
    encoder = keras.saving.load_model(folder / "encoder.keras", compile=False)
    options = Options(**json.loads((folder / "options.json").read_text()))
    if (folder / "reference.npz").exists():
        with np.load(folder / "reference.npz") as saved:
            reference = Reference(Landmarks.from_arrays(saved), saved["sample"])
        options = options._replace(reference=reference)
    return encoder, options


if __name__ == "__main__":
    loaded, its_options = _load(Path(sys.argv[1]))
    _saved_model.write(loaded, Path(sys.argv[2]), its_options)
