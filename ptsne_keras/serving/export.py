"""SavedModel export for TensorFlow Serving."""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from numbers import Integral, Real
from pathlib import Path

import keras

from ptsne_keras.serving import signature


def export_saved_model(
    encoder: keras.Model,
    directory: str | os.PathLike[str],
    version: int | None = None,
    *,
    dof: float | None = None,
) -> Path:
    """Write an encoder as `<directory>/<version>/saved_model.pb` for TensorFlow Serving.

    `serving_default` takes `features` float32 [N, D], any N, and returns `embedding` float32
    [N, d]. Everything the encoder holds, its standardisation too, is inside; the weights are
    written once. The version appears whole or not at all: it is written beside, then renamed, so
    that a server polling the directory never sees half a model.

    Parameters
    ----------
    encoder : keras.Model
        One input [N, D], one output [N, d].
    directory : path
        The model's base path, made if it is missing.
    version : int, optional
        At least 0; by default one more than the highest there, beginning at 1.
    dof : float, optional
        Degrees of freedom α that the map was trained with, such as `ParametricTSNE.dof_`. Nothing
        that is served needs them; whoever computes Q on the map does. They are kept beside the
        model, in `assets.extra/ptsne_keras.json`, as {"dof": α}.

    Returns
    -------
    pathlib.Path
        The version's directory.

    Raises
    ------
    FileExistsError
        If that version exists: a server may be using it.
    NotADirectoryError
        If `directory` is a file.
    ValueError
        If the encoder's input or output is not one matrix, `version` is not an integer ≥ 0, or
        `dof` is not a number above 0.
    RuntimeError
        If, on another backend than TensorFlow, the encoder cannot be rebuilt on TensorFlow, as with
        layers of one's own.

    Notes
    -----
    On another backend a second process rebuilds the encoder on TensorFlow and writes it, so that
    what is served is TensorFlow's own operations: Keras would export XLA programs of JAX, which
    only servers with XLA for the same kind of device run.

    Examples
    --------
    >>> export_saved_model(tsne.encoder_, "saved_models/digits", dof=tsne.dof_)
    PosixPath('saved_models/digits/1')
    """
    features = signature.feature_count(encoder)
    base = Path(directory).expanduser()
    if base.exists() and not base.is_dir():
        raise NotADirectoryError(f"directory should be a folder. Received: the file {base}.")
    version = _next_version(base) if version is None else version
    if isinstance(version, bool) or not isinstance(version, Integral) or version < 0:
        raise ValueError(f"version should be an integer of at least 0. Received: {version!r}.")
    if dof is not None and not (isinstance(dof, Real) and 0 < dof < math.inf):
        raise ValueError(f"dof should be a number above 0, or None. Received: {dof!r}.")
    target = base / str(int(version))
    _refuse_existing(target)
    base.mkdir(parents=True, exist_ok=True)
    # A server reads integer names only, so it never looks into this one.
    beside = base / f".{version}-{uuid.uuid4().hex}"
    try:
        _write(encoder, features, beside)
        if dof is not None:
            extra = beside / "assets.extra"
            extra.mkdir()
            (extra / "ptsne_keras.json").write_text(json.dumps({"dof": float(dof)}))
        _refuse_existing(target)
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def _next_version(base: Path) -> int:
    names = [path.name for path in base.iterdir()] if base.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=0) + 1


def _write(encoder: keras.Model, features: int, path: Path) -> None:
    """Write the SavedModel, on TensorFlow whatever the backend."""
    if keras.backend.backend() == "tensorflow":
        _write_archive(encoder, features, path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "encoder.keras"
        encoder.save(file)
        done = subprocess.run(
            [sys.executable, "-c", _REBUILD, file, str(features), path],
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


# Write the encoder of a file, in a process of its own.
_REBUILD = """
import sys
from pathlib import Path
import keras
from ptsne_keras.serving import export
encoder = keras.saving.load_model(sys.argv[1], compile=False)
export._write_archive(encoder, int(sys.argv[2]), Path(sys.argv[3]))
"""


def _write_archive(encoder: keras.Model, features: int, path: Path) -> None:
    """Write the SavedModel with its one signature."""
    archive = keras.export.ExportArchive()
    # No track(): it writes every weight a second time, and a server then holds both.
    archive.add_endpoint(
        "serving_default",
        signature.embedding(encoder),
        input_signature=[signature.spec(features)],
    )
    archive.write_out(str(path), verbose=False)


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise FileExistsError(
            f"version should be a new one; a server may be using {target}. "
            "Choose another, or leave it out to take the next free one."
        )
