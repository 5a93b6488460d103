"""A model folder: a JSON manifest and the files it names. Loading it runs no code from it.

Files are written first, under names derived from their contents. Replacing the manifest is the one
step that makes them the model: before it the old model is whole, after it the new one.
"""

import hashlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ptsne_keras._version import __version__
from ptsne_keras.utils import files

FORMAT = 1
"""The version of the folder's layout; a reader refuses a higher one."""

MANIFEST = "model.json"
_KEYS = {"format", "kind", "state", "files", "sha256"}


def save(
    path: str | os.PathLike[str],
    *,
    kind: str,
    state: Mapping[str, Any],
    models: Mapping[str, keras.Model],
    arrays: Mapping[str, Any],
) -> None:
    """Write a model folder; a model that is already there is replaced in one step, or stays."""
    folder = Path(path).expanduser()
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise NotADirectoryError(f"path should be a folder. Received: the file {folder}.")
    contents = {f"{role}-{{}}.keras": _keras_bytes(model) for role, model in models.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    contents["arrays-{}.npz"] = buffer.getvalue()
    old = _named_files(folder)
    written: dict[str, dict[str, str]] = {}
    with files.made(folder):
        try:
            for pattern, data in contents.items():
                digest = hashlib.sha256(data).hexdigest()
                name = pattern.format(digest[:16])
                written[pattern.partition("-")[0]] = {"name": name, "sha256": digest}
                files.write(folder / name, data)
            manifest = {
                "format": FORMAT,
                "kind": kind,
                "ptsne_keras": __version__,
                "state": state,
                "files": written,
                "sha256": manifest_digest(state, written),
            }
            files.write(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
            left_over = old - {entry["name"] for entry in written.values()}
        except BaseException:
            # Whichever manifest is there now, its files stay.
            left_over = {entry["name"] for entry in written.values()} - _named_files(folder)
            raise
        finally:
            for name in left_over:
                (folder / name).unlink(missing_ok=True)


def load(
    path: str | os.PathLike[str], *, kind: str
) -> tuple[dict[str, Any], dict[str, keras.Model], dict[str, Any]]:
    """Return the (state, models, arrays) of a model folder."""
    folder = Path(path).expanduser()
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"path should be a folder that `save` wrote. Received: {folder}, without {MANIFEST}."
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{folder / MANIFEST} is truncated or altered; restore it from a copy. {error}."
        ) from None
    except OSError as error:
        raise files.explained(error, folder / MANIFEST, "read") from error
    _check_manifest(manifest, folder, kind)
    data = {role: _read(folder, entry) for role, entry in manifest["files"].items()}
    with np.load(io.BytesIO(data["arrays"]), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    # Keras reads paths, not the bytes just checked; safe_mode refuses pickled lambdas.
    models = {
        role: keras.saving.load_model(folder / entry["name"], compile=False, safe_mode=True)
        for role, entry in manifest["files"].items()
        if role != "arrays"
    }
    return manifest["state"], models, arrays


def kind(path: str | os.PathLike[str]) -> str | None:
    """Return the class of the model in a folder, or None if the folder does not say."""
    try:
        return str(json.loads((Path(path).expanduser() / MANIFEST).read_text())["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def parameters(estimator: Any, *, without: Collection[str] = ("encoder",)) -> dict[str, Any]:
    """Return an estimator's parameters as JSON can hold them."""
    found = estimator.get_params(deep=False)
    return {name: _plain(value) for name, value in found.items() if name not in without}


def state(estimator: Any) -> dict[str, Any]:
    """Return an estimator's parameters and columns as JSON can hold them."""
    return {
        "parameters": parameters(estimator),
        "n_features_in": estimator.n_features_in_,
        "feature_names": _plain(getattr(estimator, "feature_names_in_", None)),
    }


def estimator(cls: type, state: Mapping[str, Any], **parameters: Any) -> Any:
    """Return an unfitted estimator from `state` and from parameters that were kept elsewhere."""
    kept: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value  # JSON has no tuples
        for name, value in state["parameters"].items()
    }
    if isinstance(kept.get("optimizer"), dict):
        kept["optimizer"] = _optimizer(kept["optimizer"])
    made = cls(**kept, **parameters)
    made.n_features_in_ = state["n_features_in"]
    if state["feature_names"]:
        made.feature_names_in_ = np.asarray(state["feature_names"], dtype=object)
    return made


def _optimizer(config: dict[str, Any]) -> Any:
    """Return the saved optimizer, or "adam" if its class is unknown: the map itself needs none."""
    try:
        return keras.saving.deserialize_keras_object(config)
    except (TypeError, ValueError) as error:
        warnings.warn(
            "optimizer should be of a class registered by "
            'keras.saving.register_keras_serializable; a new fit would use "adam". '
            f"Received: {config.get('class_name')!r}; {str(error).splitlines()[0]}",
            stacklevel=4,
        )
        return "adam"


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, np.random.RandomState):
        return None
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, keras.optimizers.Optimizer):
        return keras.saving.serialize_keras_object(value)
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _check_manifest(manifest: Any, folder: Path, kind: str) -> None:
    """Raise unless the manifest is whole, and that of a model of this kind and version."""
    file = folder / MANIFEST
    if not isinstance(manifest, dict) or not set(manifest) >= _KEYS:
        raise ValueError(f"{file} is not a model's manifest; restore it from a copy.")
    if not isinstance(manifest["format"], int) or manifest["format"] > FORMAT:
        raise ValueError(
            f"{folder} was written by ptsne_keras {manifest.get('ptsne_keras')}, in format "
            f"{manifest['format']}; this version reads up to {FORMAT}. Upgrade ptsne_keras."
        )
    if manifest["kind"] != kind:
        raise ValueError(
            f"{folder} should hold a {kind}. Received: a {manifest['kind']}, which "
            f"{manifest['kind']}.load reads."
        )
    if manifest["sha256"] != manifest_digest(manifest["state"], manifest["files"]):
        raise ValueError(f"{file} is truncated or altered; restore it from a copy.")


def manifest_digest(state: Any, written: Any) -> str:
    """Return the digest of what the manifest says, whatever its layout."""
    return hashlib.sha256(json.dumps([state, written], sort_keys=True).encode()).hexdigest()


def _read(folder: Path, entry: Mapping[str, str]) -> bytes:
    """Return the contents of a file of the model, checked against its digest."""
    file = folder / Path(entry["name"]).name  # only files of the folder itself
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{file} is missing; restore the folder from a copy.") from None
    except OSError as error:
        raise files.explained(error, file, "read") from error
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(f"{file} is truncated or altered; restore the folder from a copy.")
    return data


def _named_files(folder: Path) -> set[str]:
    """Return the names of the files of the model in the folder; none without a model."""
    try:
        named = json.loads((folder / MANIFEST).read_text())["files"]
        return {Path(entry["name"]).name for entry in named.values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _keras_bytes(model: keras.Model) -> bytes:
    # Keras writes only to a path; from memory it is then written like everything else.
    try:
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "model.keras"
            model.save(file)
            return file.read_bytes()
    except OSError as error:
        place = Path(tempfile.gettempdir())
        raise files.explained(error, place, "written (set TMPDIR to another place)") from error
