"""SavedModel export for TensorFlow Serving."""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ptsne_keras.serving import _graphs, checks, signatures
from ptsne_keras.serving._graphs import Reference
from ptsne_keras.utils import arrays, files, novelty, validation

# Rows of the reference that the map error is measured by, and that warm a server up.
_SAMPLE = 2000
# Servers count versions in int64.
_LAST_VERSION = 2**63 - 1
# What TensorFlow takes as a pattern for file names.
_PATTERN = set("*?[]")


def export_saved_model(
    encoder: keras.Model,
    directory: str | os.PathLike[str],
    version: int | None = None,
    *,
    reference: Any = None,
    precision: str = "float32",
    dof: float | None = None,
) -> Path:
    """Write an encoder as `<directory>/<version>/saved_model.pb` for TensorFlow Serving.

    Signatures, for any number of rows N:

    - `serving_default`: `features` float32 [N, D] → `embedding` float32 [N, d]
    - `embed_examples`: `examples` string [N], serialised `tf.train.Example` with the feature
      "features", a float list of D → `embedding`
    - `embed_with_novelty`, with a `reference`: `features` → `embedding` and `novelty` float32
      [N], how far the row is from the nearest of at most 4,096 training rows, as a quantile of what
      is usual for training rows: 0.5 is usual, 1 as far as any, or no finite row

    Everything the encoder holds, its standardisation too, is inside; the weights are written once;
    warm-up records of each signature lie beside. :func:`check` looks the model over before it
    appears, whole or not at all: it is written beside, then renamed, so that a server polling the
    directory never sees half a model.

    Parameters
    ----------
    encoder : keras.Model
        One input [N, D], one output [N, d].
    directory : path
        The model's base path, made if it is missing.
    version : int, optional
        At least 0; by default one more than the highest there, beginning at 1.
    reference : array, `np.memmap` or sparse rows [N, D], optional
        Training rows, raw. At most 64 MB of them are served as landmarks.
    precision : "float32" or "bfloat16"
        "bfloat16": weights and products of all layers but the last in half the memory; how far that
        moves the rows of the reference, which it needs, is kept as "map_error" in
        `assets.extra/ptsne_keras.json`.
    dof : float, optional
        Degrees of freedom α that the map was trained with, such as `ParametricTSNE.dof_`. Nothing
        that is served needs them; whoever computes Q on the map does. They are kept in
        `assets.extra/ptsne_keras.json`, as {"dof": α}.

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
        If `directory` has a character that TensorFlow takes as a pattern: * ? [ ].
        If the encoder's input or output is not one matrix, or it needs what a stock server has not;
        if `reference` is not rows for it, `version` is not an integer ≥ 0, or `dof` is not a number
        above 0.
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
    >>> export_saved_model(tsne.encoder_, "saved_models/digits", reference=X, dof=tsne.dof_)
    PosixPath('saved_models/digits/1')
    """
    signatures.feature_count(encoder)  # raises where it has none
    base = Path(directory).expanduser()
    if base.exists() and not base.is_dir():
        raise NotADirectoryError(f"directory should be a folder. Received: the file {base}.")
    if _PATTERN & set(str(base)):
        raise ValueError(
            "directory should be without * ? [ and ], which TensorFlow takes as patterns. "
            f"Received: {base}."
        )
    if version is not None and not _is_version(version):
        raise ValueError(f"version should be an integer of at least 0. Received: {version!r}.")
    if dof is not None and not (isinstance(dof, Real) and 0 < dof < math.inf):
        raise ValueError(f"dof should be a number above 0, or None. Received: {dof!r}.")
    _check_precision(precision, reference)
    if version is not None:
        _refuse_existing(base, version)
    # A server reads integer names only, so it never looks into this one.
    beside = base / f".{uuid.uuid4().hex}"
    inside = beside / "1"
    with files.made(base):
        try:
            beside.mkdir()
            _write(
                encoder,
                inside,
                model=base.resolve().name,
                reference=None if reference is None else _reference(encoder, reference),
                bfloat16=precision == "bfloat16",
                facts={} if dof is None else {"dof": float(dof)},
            )
            return _appear(inside, base, version)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _appear(inside: Path, base: Path, version: int | None) -> Path:
    """Rename what was written to its version, or the next one that nobody has taken."""
    while True:
        number = max(_versions(base), default=0) + 1 if version is None else int(version)
        target = base / str(number)
        if version is not None:
            _refuse_existing(base, version)
        try:
            inside.rename(target)
        except OSError:
            if version is not None or not target.exists():
                raise
            continue  # another export has taken it in between
        return target


def _versions(base: Path) -> list[int]:
    return [int(path.name) for path in base.iterdir() if path.name.isdecimal()]


def _is_version(version: Any) -> bool:
    whole = isinstance(version, Integral) and not isinstance(version, bool)
    return whole and 0 <= version <= _LAST_VERSION


def _reference(encoder: keras.Model, X: Any) -> Reference:
    features = signatures.feature_count(encoder)
    X = X if hasattr(X, "shape") else np.asarray(X)
    if len(X.shape) != 2 or X.shape[1] != features or X.shape[0] < 2:
        raise ValueError(
            f"reference should be two or more rows of {features} columns, as the encoder "
            f"takes. Received: shape {tuple(X.shape)}."
        )
    scale = novelty.scale_of(encoder)
    landmarks = novelty.Landmarks.of(X, scale=scale, name="reference")
    chosen = np.sort(np.random.default_rng(0).permutation(X.shape[0])[:_SAMPLE])
    sample = validation.check_rows(arrays.rows_at(X, chosen), name="reference", dtype=np.float32)
    return Reference(landmarks, sample)


def _write(
    encoder: keras.Model,
    path: Path,
    *,
    model: str,
    reference: Reference | None,
    bfloat16: bool,
    facts: Mapping[str, Any],
) -> None:
    """Write and check the SavedModel, on TensorFlow whatever the backend."""
    if keras.backend.backend() == "tensorflow":
        options = {"model": model, "reference": reference, "bfloat16": bfloat16, "facts": facts}
        _write_here(encoder, path, **options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        encoder.save(folder / "encoder.keras")
        if reference is not None:
            landmarks, sample = reference
            arrays_ = {"sample": sample, **landmarks.arrays()}
            np.savez(folder / "reference.npz", **arrays_)  # type: ignore[arg-type]
        options = {"model": model, "bfloat16": bfloat16, "facts": dict(facts)}
        (folder / "options.json").write_text(json.dumps(options))
        done = subprocess.run(
            [sys.executable, "-c", _REBUILD, scratch, path],
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
import json, sys
from pathlib import Path
import keras
import numpy as np
from ptsne_keras.serving import export, _graphs
from ptsne_keras.utils import novelty
folder = Path(sys.argv[1])
encoder = keras.saving.load_model(folder / "encoder.keras", compile=False)
options = json.loads((folder / "options.json").read_text())
reference = None
if (folder / "reference.npz").exists():
    arrays = dict(np.load(folder / "reference.npz"))
    sample = arrays.pop("sample")
    reference = _graphs.Reference(novelty.Landmarks.from_arrays(arrays), sample)
export._write_here(encoder, Path(sys.argv[2]), reference=reference, **options)
"""


def _write_here(encoder: keras.Model, path: Path, **options: Any) -> None:
    """Write the SavedModel by this process's TensorFlow; refuse what no stock server runs."""
    _graphs.write(encoder, path, **options)
    report = checks.check(path)
    if not report.ok:
        failed = [f"{f.what}: {f.found}" for f in report.findings if not f.ok]
        raise ValueError(
            "encoder should be of operations that a stock server has, and give finite answers. "
            f"Received: {encoder.name!r}; {'; '.join(failed)}"
        )


def _check_precision(precision: str, reference: Any) -> None:
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f'precision should be "float32" or "bfloat16". Received: {precision!r}.')
    if precision == "bfloat16" and reference is None:
        raise ValueError(
            'reference should be given with precision="bfloat16": training rows, so that it is '
            "known how far the map moves. Received: None."
        )


def _refuse_existing(base: Path, version: int) -> None:
    if base.is_dir() and version in _versions(base):  # 007 is version 7, too
        raise FileExistsError(
            f"version should be a new one; a server may be using {base / str(version)}. "
            "Choose another, or leave it out to take the next free one."
        )
