"""Write a saved encoder as a SavedModel, in a process of its own that runs TensorFlow.

    KERAS_BACKEND=tensorflow python -m ptsne_keras.serving._rebuild FOLDER SAVED_MODEL

`export_saved_model` runs it where Keras has another backend.
"""

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import keras

from ptsne_keras.serving import _saved_model
from ptsne_keras.serving._saved_model import Options


def run(encoder: keras.Model, path: Path, options: Options) -> None:
    """Start this module on an encoder; raise if it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        encoder.save(Path(scratch) / "encoder.keras")
        (Path(scratch) / "options").write_bytes(pickle.dumps(options))
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


if __name__ == "__main__":
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    loaded = keras.saving.load_model(folder / "encoder.keras", compile=False)
    _saved_model.write(loaded, target, pickle.loads((folder / "options").read_bytes()))
