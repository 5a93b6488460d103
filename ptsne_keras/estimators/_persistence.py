"""A model folder: a JSON manifest and the files it names. Loading it runs no code from it.

Files are written first, under names of their own. Replacing the manifest is the one step that makes
them the model: before it the old model is whole, after it the new one. Maps of training rows have
such names too while the manifest is replaced, so that none is in its place beside another's model;
whoever opens the folder next moves it there if the process that wrote it could not.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import uuid
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ptsne_keras._version import __version__
from ptsne_keras.utils import files

FORMAT = 1
"""The version of the folder's layout; a reader refuses a higher one."""
MANIFEST = "model.json"
MAP = "map.csv"
"""The map of the training rows, where there is one."""

_KEYS = {"format", "kind", "state", "files", "sha256"}
_ROLES = {"encoder", "initial_encoder", "decoder", "initial_decoder", "arrays"}
_REQUIRED = {"encoder", "arrays"}
# What the roles of models that are parameters begin with.
_INITIAL = "initial_"
# The most bytes of a manifest, and of a file whose manifest does not state its size; the most
# characters of another library's words.
_MANIFEST_BYTES, _FILE_BYTES, _WORDS = 1 << 28, 1 << 32, 200
# Names of the files of a model; no other program gives such names.
_OURS = re.compile(r"((initial_)?(encoder|decoder)|arrays|map)-[0-9a-f]{12}\.(keras|npz|csv)")


def save(
    path: str | os.PathLike[str],
    *,
    kind: str,
    state: Mapping[str, Any],
    models: Mapping[str, keras.Model],
    arrays: Mapping[str, Any],
    write_map: Callable[[Path], Any] | None = None,
    overwrite: bool = True,
) -> None:
    """Write a model folder; a model that is already there is replaced in one step, or stays.

    `write_map` writes the map of the training rows to a path; it changes together with the model.
    """
    folder = Path(path).expanduser()
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise NotADirectoryError(f"path should be a folder. Received: the file {folder}.")
    _check_finite(models, arrays, "a finite model; fit it anew, at a smaller learning rate")
    contents = {role: (".keras", _keras_bytes(model)) for role, model in models.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    contents["arrays"] = (".npz", buffer.getvalue())
    with files.made(folder), files.locked(folder):
        if not overwrite and os.path.lexists(folder / MANIFEST):
            raise FileExistsError(f"path should be a folder without a model. Received: {folder}.")
        _finish_map(folder)
        manifest: dict[str, Any] = {"format": FORMAT, "kind": kind, "ptsne_keras": __version__}
        old = _named_files(folder)
        try:
            written = {role: _written(folder, role, *file) for role, file in contents.items()}
            manifest |= {"state": state, "files": written}
            manifest["sha256"] = manifest_digest(state, written)
            if write_map is not None:
                name = _new_name("map", ".csv")
                with files.replacing(folder / name) as beside:
                    write_map(beside)
                manifest["map"] = _entry(name, (folder / name).read_bytes())
            _withdraw_map(folder)
            files.write(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
        finally:
            # Whichever manifest is there now, its map and files stay.
            _finish_map(folder)
            _remove_strays(folder, old or ())


def _written(folder: Path, role: str, suffix: str, data: bytes) -> dict[str, Any]:
    """Write a file of the model, and return its entry in the manifest."""
    name = _new_name(role, suffix)
    files.write(folder / name, data)
    return _entry(name, data)


def _new_name(role: str, suffix: str) -> str:
    return f"{role}-{uuid.uuid4().hex[:12]}{suffix}"


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def sweep(path: str | os.PathLike[str]) -> None:
    """Finish or remove what processes that died while they saved left in a folder."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        files.sweep(folder)
        with files.locked(folder, wait=False) as free:
            if free:
                _finish_map(folder)
                _remove_strays(folder)


def _remove_strays(folder: Path, old: Collection[str] = ()) -> None:
    """Remove files of models that the manifest does not name, in a folder that is locked."""
    named = _named_files(folder)
    if named is None:
        return
    found = {file.name for file in folder.iterdir() if _OURS.fullmatch(file.name)}
    for name in {*found, *old} - named:
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def _withdraw_map(folder: Path) -> None:
    """Move the map that the manifest names from its place, for no other manifest to have it."""
    with contextlib.suppress(FileNotFoundError):
        name, digest = _named_map(folder)
        if name and hashlib.sha256((folder / MAP).read_bytes()).hexdigest() == digest:
            (folder / MAP).replace(folder / name)
            files.flush_entries(folder)


def _finish_map(folder: Path) -> None:
    """Move a map to its place that has come with the manifest, in a folder that is locked."""
    if (waiting := _waiting_map(folder)) is not None:
        waiting.replace(folder / MAP)
        files.flush_entries(folder)


def _waiting_map(folder: Path) -> Path | None:
    """Return the map that has come with the manifest, if it is not in its place yet."""
    name, _ = _named_map(folder)
    return folder / name if name and (folder / name).is_file() else None


def _named_map(folder: Path) -> tuple[str | None, Any]:
    """Return the name of the map that the manifest has, if any, and its digest."""
    try:
        name, digest = (_manifest(folder)["map"][key] for key in ("name", "sha256"))
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
    return (name if isinstance(name, str) and _OURS.fullmatch(name) else None), digest


def load(
    path: str | os.PathLike[str], *, kind: str
) -> tuple[dict[str, Any], dict[str, keras.Model], dict[str, Any]]:
    """Return the (state, models, arrays) of a model folder."""
    folder = Path(path).expanduser()
    manifest = _manifest(folder)
    while True:
        _check_manifest(manifest, folder, kind)
        try:
            data = {role: _read(folder, entry) for role, entry in manifest["files"].items()}
            break
        except FileNotFoundError as error:
            before, manifest = manifest, _manifest(folder)
            if manifest == before:  # else another process has replaced the model meanwhile
                raise ValueError(
                    f"{error.filename} is missing; restore the folder from a copy."
                ) from None
    if _waiting_map(folder) is not None:
        with contextlib.suppress(OSError):  # such as a disk that is read-only
            sweep(folder)
    with whole(folder):
        arrays = _arrays(data.pop("arrays"))
        models = {role: _model(contents) for role, contents in data.items()}
        _check_finite(models, arrays, "finite")
    return manifest["state"], models, arrays


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[None]:
    """Explain, in one line that names the folder, whatever a damaged model raises."""
    folder = Path(path).expanduser()
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the system's; Keras has others
            if error.strerror is None:  # explained already
                raise
            raise files.explained(error, folder, "read") from error
        reason = (str(error).strip().splitlines() or [""])[0][:_WORDS] or type(error).__name__
        raise ValueError(
            f"{folder} should be a whole model; restore it from a copy, or fit again. "
            f"Received: {reason}"
        ) from error


def _manifest(folder: Path) -> Any:
    """Return what the manifest of a folder says."""
    try:
        return json.loads(files.read(folder / MANIFEST, _MANIFEST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"path should be a folder that `save` wrote. Received: {folder}, without {MANIFEST}."
        ) from None
    except OSError as error:
        raise files.explained(error, folder / MANIFEST, "read") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{folder / MANIFEST} is truncated or altered; restore it from a copy. {error}."
        ) from None


def _arrays(data: bytes) -> dict[str, Any]:
    """Return the arrays of an .npz file."""
    _check_expanded(data)
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _model(data: bytes) -> keras.Model:
    """Return the model of a .keras file; safe_mode refuses pickled lambdas."""
    _check_expanded(data)
    # Keras reads paths, not the bytes that were checked.
    with files.scratch() as folder:
        file = folder / "model.keras"
        file.write_bytes(data)
        return keras.saving.load_model(file, compile=False, safe_mode=True)


def _check_expanded(data: bytes) -> None:
    """Raise if the members of a zip file would take much more memory than the file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > (most := files.expanded_limit(len(data))):
        raise ValueError(
            f"a file of {len(data):,} bytes that expands to {size:,}, more than {most:,.0f}; set "
            f"{files.LIMIT}, in megabytes, to more if you trust it."
        )


def _check_finite(models: Mapping[str, keras.Model], arrays: Mapping[str, Any], what: str) -> None:
    """Raise unless all weights and arrays are finite."""
    parts = {role: model.get_weights() for role, model in models.items()}
    for name, values in {**parts, **{name: [array] for name, array in arrays.items()}}.items():
        numbers = (value for value in map(np.asarray, values) if value.dtype.kind in "fc")
        if not all(np.isfinite(value).all() for value in numbers):
            raise ValueError(f"The {name} should be {what}. Received: NaN or infinity.")


def kind(path: str | os.PathLike[str]) -> str | None:
    """Return the class of the model in a folder, or None if the folder does not say."""
    try:
        return str(_manifest(Path(path).expanduser())["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def parameters(estimator: Any, *, without: Collection[str] = ()) -> dict[str, Any]:
    """Return an estimator's parameters as JSON can hold them, and so without models."""
    found = estimator.get_params(deep=False).items()
    kept = {n: v for n, v in found if n not in without and not isinstance(v, keras.Model)}
    return {name: _plain(value) for name, value in kept.items()}


def state(estimator: Any) -> dict[str, Any]:
    """Return an estimator's parameters and columns as JSON can hold them."""
    return {
        "parameters": parameters(estimator),
        "n_features_in": estimator.n_features_in_,
        "feature_names": _plain(getattr(estimator, "feature_names_in_", None)),
    }


def estimator(cls: type, state: Mapping[str, Any], models: Mapping[str, keras.Model]) -> Any:
    """Return an estimator from what was saved, its own models among the parameters."""
    encoder_ = models["encoder"]
    kept: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value  # JSON has no tuples
        for name, value in state["parameters"].items()
    }
    if isinstance(kept.get("optimizer"), dict):
        kept["optimizer"] = _optimizer(kept["optimizer"])
    for role, model in models.items():
        if role.startswith(_INITIAL):
            kept[role.removeprefix(_INITIAL)] = model
    made = cls(**kept)
    made._validate_params()
    made.n_features_in_, made.history_ = state["n_features_in"], state["history"]
    if names := state["feature_names"]:
        made.feature_names_in_ = np.asarray(names, dtype=object)
    columns = [made.n_features_in_] if not names else [made.n_features_in_, len(names)]
    if columns != [encoder_.input_shape[-1]] * len(columns):
        raise ValueError(f"a model of {encoder_.input_shape[-1]} columns, and a state of {columns}")
    if not isinstance(made.history_, dict) or not {"finetune", "seconds"} <= set(made.history_):
        raise ValueError("a state without curves of training")
    made.encoder_ = encoder_
    if "decoder" in models:
        made.decoder_ = models["decoder"]
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
    named = manifest["files"]
    fits = isinstance(named, dict) and isinstance(manifest["state"], dict)
    fits = fits and _REQUIRED <= set(named) <= _ROLES
    if not (fits and all(map(_is_entry, named.values()))):
        raise ValueError(
            f"{file} should name files of its folder; restore it from a copy. "
            f"Received: {str(named)[:_WORDS]}."
        )


def _is_entry(entry: Any) -> bool:
    """Return whether an entry of a manifest has the bare name, size and digest of a file."""
    if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
        return False
    size = entry.get("bytes", 0)  # earlier versions do not state it
    bare = name not in ("", ".", "..") and not set(name) & {"/", "\\", ":", "\0"}
    return bare and type(size) is int and size >= 0 and isinstance(entry.get("sha256"), str)


def manifest_digest(state: Any, written: Any) -> str:
    """Return the digest of what the manifest says, whatever its layout."""
    return hashlib.sha256(json.dumps([state, written], sort_keys=True).encode()).hexdigest()


def _read(folder: Path, entry: Mapping[str, Any]) -> bytes:
    """Return the contents of a file of the model, checked against its size and digest."""
    file = folder / entry["name"]
    try:
        data = files.read(file, entry.get("bytes", _FILE_BYTES))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise files.explained(error, file, "read") from error
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(f"{file} is truncated or altered; restore the folder from a copy.")
    return data


def _named_files(folder: Path) -> set[str] | None:
    """Return the names of the model's files in the folder, or None if it does not say."""
    try:
        manifest = _manifest(folder)
    except FileNotFoundError:
        return set()
    except (OSError, ValueError):
        return None
    try:
        entries = [*manifest["files"].values(), manifest.get("map")]
        return {entry["name"] for entry in entries if entry is not None}
    except (KeyError, TypeError, AttributeError):
        return None


def _keras_bytes(model: keras.Model) -> bytes:
    # Keras writes only to a path; from memory it is then written like everything else.
    with files.scratch() as scratch:
        file = scratch / "model.keras"
        model.save(file)
        return file.read_bytes()
