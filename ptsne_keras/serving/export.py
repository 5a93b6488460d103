"""SavedModel export for TensorFlow Serving."""

import math
import os
import pickle
import subprocess
import sys
from numbers import Real
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ptsne_keras import networks
from ptsne_keras.networks.encoder import metric_of
from ptsne_keras.serving import _saved_model, signatures
from ptsne_keras.serving._saved_model import Options
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays, files, pca, validation

# Training rows that the map error is measured on, and that warm up a server.
_SAMPLE = 2000
# Training rows that tell the novelty for an encoder without placement, and their components.
_LANDMARKS, _DIMS = 4096, 50
# Characters that TensorFlow reads as a file name pattern.
_PATTERN = set("*?[]")


def export_saved_model(
    encoder: keras.Model,
    directory: str | os.PathLike[str],
    version: int | None = None,
    *,
    reference: Any = None,
    reference_size: int = 65_536,
    precision: str = "float32",
    dof: float | None = None,
    decoder: keras.Model | None = None,
    feature_names_out: Any = None,
) -> Path:
    """Write an encoder as `<directory>/<version>/saved_model.pb` for TensorFlow Serving.

    Signatures, for any number of rows N:

    - `serving_default`: `features` float32 [N, D] → `embedding` float32 [N, d].
    - `embed_examples`: `examples` string [N], serialised `tf.train.Example` with the feature
      "features", a float list of D numbers → `embedding`.
    - `embed_fast`, if the encoder places rows from where a network puts them: `features` →
      `embedding` of the network alone.
    - `embed_with_novelty`, if the encoder places rows or there is a `reference`: `features` →
      `embedding` and `novelty` float32 [N], the distance to the nearest training rows as a quantile
      of the distances that training rows have: 0.5 is usual, 1 is farther than any, or not finite.
    - `inverse`, if there is a `decoder`: `embedding` float32 [N, d] → `features` float32 [N, D].

    The encoder's standardisation is included, and warm-up records for each signature. :func:`check`
    inspects the model, and only then does the version appear, in one rename.

    Parameters
    ----------
    encoder : keras.Model
        A model with one input [N, D] and one output [N, d], such as `ParametricTSNE.encoder_`, or
        `network_` for an export without reference rows.
    directory : path-like
        The model's base path, created if it is missing.
    version : int, default=None
        A number of at least 0. By default one more than the highest version there is, or 1.
    reference : array-like or sparse matrix of shape (n_samples, n_features), default=None
        Raw training rows; `np.memmap` is fine. They warm up the server and measure `precision`. A
        network without placement needs them for novelty: 50 principal components of at most 4,096
        means of nearby rows are served.
    reference_size : int, default=65536
        The most reference rows that an encoder with placement keeps; each takes 220 bytes. Of more,
        nearby ones are averaged, and the map of new rows is coarser.
    precision : {"float32", "bfloat16"}, default="float32"
        "bfloat16" stores and computes all layers but the last in half the memory. It requires a
        `reference`; how far its rows move is noted in `assets.extra/ptsne_keras.json`.
    dof : float, default=None
        Degrees of freedom α of the map, such as `ParametricTSNE.dof_`, noted in the same file for
        whoever computes Q on the map.
    decoder : keras.Model, default=None
        A model from places [N, d] back to rows [N, D], such as `ParametricTSNE.decoder_`.
    feature_names_out : sequence of str, default=None
        Names of the coordinates, such as of `get_feature_names_out`, noted in the same file.

    Returns
    -------
    pathlib.Path
        The version's directory.

    Raises
    ------
    FileExistsError
        If the version exists: a server may be using it.
    NotADirectoryError
        If `directory` is a file.
    ValueError
        If an argument is not as described, if `directory` contains one of * ? [ ], or if the
        encoder needs operations that a stock server does not have.
    RuntimeError
        If the encoder cannot be rebuilt on TensorFlow, for instance because of custom layers. On
        another backend a second process does so: JAX's XLA programs run on few servers.

    Examples
    --------
    >>> export_saved_model(tsne.encoder_, "saved_models/digits", reference=X, dof=tsne.dof_)
    PosixPath('saved_models/digits/1')
    """
    features = signatures.feature_count(encoder)
    base = Path(directory).expanduser()
    _check(base, version, precision, reference, dof)
    _check_back(encoder, decoder, feature_names_out)
    validation.check_integer(reference_size, "reference_size", 2)
    judge, sample = None, None
    if isinstance(encoder.layers[-1], networks.Placement):
        encoder = judge = networks.smaller(encoder, reference_size)
    if reference is not None:
        X = _rows(reference, features)
        order = np.random.default_rng(0).permutation(X.shape[0])
        sample = _chosen(X, order, _SAMPLE)
        judge = judge or _judge(encoder, X, order)
    facts: dict[str, Any] = {} if dof is None else {"dof": float(dof)}
    if feature_names_out is not None:
        facts["feature_names_out"] = [str(name) for name in feature_names_out]
    options = Options(
        model=base.resolve().name,
        sample=sample,
        bfloat16=precision == "bfloat16",
        facts=facts,
        decoder=decoder,
    )
    # Servers read integer names only, so they never look into this folder.
    with files.made(base), files.scratch(base) as beside:
        _write(encoder, judge, beside / "1", options)
        return _appear(beside / "1", base, version)


def _check(
    base: Path, version: int | None, precision: str, reference: Any, dof: float | None
) -> None:
    """Raise unless the arguments of an export are as described."""
    if base.exists() and not base.is_dir():
        raise NotADirectoryError(f"directory should be a folder. Received: the file {base}.")
    if _PATTERN & set(str(base)):
        raise ValueError(
            "directory should not contain * ? [ or ], which TensorFlow reads as patterns. "
            f"Received: {base}."
        )
    if dof is not None and not (isinstance(dof, Real) and 0 < dof < math.inf):
        raise ValueError(f"dof should be a number above 0, or None. Received: {dof!r}.")
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f'precision should be "float32" or "bfloat16". Received: {precision!r}.')
    if precision == "bfloat16" and reference is None:
        raise ValueError(
            'reference should be given with precision="bfloat16": training rows, to measure how '
            "far the map moves. Received: None."
        )
    # Servers count versions in int64.
    if version is not None and validation.check_integer(version, "version", 0) >= 2**63:
        raise ValueError(f"version should be an integer below 2**63. Received: {version}.")
    _refuse_existing(base, version)


def _check_back(encoder: keras.Model, decoder: keras.Model | None, names: Any) -> None:
    """Raise unless the decoder and the names belong to the encoder's map."""
    if names is not None and len(names) != encoder.output_shape[-1]:
        raise ValueError(
            f"feature_names_out should be {encoder.output_shape[-1]} names, one for each "
            f"coordinate. Received: {len(names)}."
        )
    if decoder is None:
        return
    sides, found = ("output_shape", "input_shape"), (decoder.input_shape, decoder.output_shape)
    if found != (expected := tuple(getattr(encoder, side) for side in sides)):
        raise ValueError(
            f"decoder should be a model from places to rows, {expected[0]} to {expected[1]}. "
            f"Received: {decoder.name!r} from {found[0]} to {found[1]}."
        )


def _rows(X: Any, features: int) -> Any:
    """Return training rows as something with a shape, or raise if they do not fit the encoder."""
    X = validation.unmasked(X, "reference") if hasattr(X, "shape") else np.asarray(X)
    if len(X.shape) != 2 or X.shape[1] != features or X.shape[0] < 2:
        raise ValueError(
            f"reference should be two or more rows of {features} columns, as the encoder "
            f"takes. Received: shape {tuple(X.shape)}."
        )
    return X


def _chosen(X: Any, order: Any, most: int) -> FloatArray:
    rows = arrays.rows_at(X, np.sort(order[:most]))
    return validation.check_rows(rows, name="reference", dtype=np.float32)


def _judge(encoder: keras.Model, X: Any, order: Any) -> keras.Model:
    """Return a model whose placement tells the novelty of rows by some of the training rows."""
    m = max(1, min(_LANDMARKS, len(order) // 2))
    metric = metric_of(encoder)
    rows = arrays.unit_rows(_chosen(X, order, 2 * m), metric)
    reduced = pca.principal_components(rows, min(_DIMS, *rows.shape), seed=0)
    Z = reduced.apply(rows)
    Y = encoder.predict(rows, batch_size=1024, verbose=0)
    layer = networks.Placement.from_reference(Z, Y, reduced.outside2(rows, Z))
    fixed: dict[str, Any] = {"scaling": reduced[:2], "components": reduced.components}
    whole = networks.placed(layer, X.shape[1], metric=metric, **fixed)
    judge = networks.smaller(whole, m)
    farthest = float(np.max(judge.layers[-1].usual))
    if not 0 < farthest < np.inf:
        raise ValueError(
            "reference should have rows that differ, with squared distances within float32. "
            f"Received: distances up to {farthest:g}."
        )
    return judge


def _write(encoder: keras.Model, judge: keras.Model | None, path: Path, options: Options) -> None:
    """Write and check the SavedModel, with TensorFlow whatever the backend."""
    here = keras.backend.backend() == "tensorflow"
    (_saved_model.write if here else _write_elsewhere)(encoder, judge, path, options)


def _write_elsewhere(
    encoder: keras.Model, judge: keras.Model | None, path: Path, options: Options
) -> None:
    """Write the SavedModel in a process that runs TensorFlow."""
    with files.scratch() as scratch:
        encoder.save(scratch / "encoder.keras")
        if judge is not None:
            judge.save(scratch / "judge.keras")
        (scratch / "options").write_bytes(pickle.dumps(options))
        done = subprocess.run(
            [sys.executable, "-m", _saved_model.__name__, scratch, path],
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


def _appear(written: Path, base: Path, version: int | None) -> Path:
    """Flush what was written, and rename it to its version or to the next free one."""
    files.flush_all(written)
    with files.locked(base):
        target = base / str(max(_versions(base), default=0) + 1 if version is None else version)
        _refuse_existing(base, version)
        written.rename(target)
        files.flush_entries(base)
    return target


def _versions(base: Path) -> list[int]:
    return [int(path.name) for path in base.iterdir() if path.name.isdecimal()]


def _refuse_existing(base: Path, version: int | None) -> None:
    if base.is_dir() and version in _versions(base):  # 007 is version 7, too
        raise FileExistsError(
            f"version should be a new one; a server may be using {base / str(version)}. "
            "Choose another, or leave it out to take the next free one."
        )
