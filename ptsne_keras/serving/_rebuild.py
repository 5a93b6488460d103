"""Write a saved encoder as a SavedModel, in a process of its own that runs TensorFlow.

    KERAS_BACKEND=tensorflow python -m ptsne_keras.serving._rebuild FOLDER SAVED_MODEL

`export_saved_model` runs it where Keras has another backend; FOLDER holds what it saved.
"""

import pickle
import sys
from pathlib import Path

import keras

from ptsne_keras.serving import _saved_model

if __name__ == "__main__":
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    loaded = keras.saving.load_model(folder / "encoder.keras", compile=False)
    _saved_model.write(loaded, target, pickle.loads((folder / "options").read_bytes()))
