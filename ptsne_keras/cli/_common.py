"""What several commands need: models, rows that the options mean, output files, the answer."""

import dataclasses
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ptsne_keras.estimators import MAP, Model, is_model, load
from ptsne_keras.io.rows import Choice, Reader
from ptsne_keras.utils import files

_INPUTS = ("rows", "map", "train", "test", "reference", "of", "id", "label")
_OUTPUTS = ("out", "embedding", "html", "picture", "export")


class Answer(NamedTuple):
    """What a command has done."""

    facts: dict[str, Any]
    """For --json."""
    text: str
    code: int = 0
    """Exit status."""


def choice(options: Namespace) -> Choice:
    """Return which columns the options choose."""
    names = (field.name for field in dataclasses.fields(Choice))
    own = {"ids": options.id, "labels": options.label}
    return Choice(**{name: own[name] if name in own else getattr(options, name) for name in names})


def load_model(path: str) -> Model:
    """Return the model that the argument MODEL names."""
    if not is_model(path):
        raise FileNotFoundError(
            f"MODEL should be a folder that `ptsne fit` wrote. Received: {path}, without a model."
        )
    return load(path)


def reader_for(model: Model, path: str, options: Namespace) -> Reader:
    """Open rows for a model: columns by its names, and as many as it expects."""
    like = getattr(model, "feature_names_in_", None)
    reader = Reader(path, choice(options), like=None if like is None else like.tolist())
    if reader.ignored:
        shown = ", ".join(map(repr, reader.ignored[:3]))
        number = len(reader.ignored)
        columns = "1 column" if number == 1 else f"{number} columns"
        warnings.warn(
            f"{path}: ignoring {columns} that the model was not fitted with: {shown}",
            stacklevel=2,
        )
    width = len(reader.features)
    if width != model.n_features_in_:
        raise ValueError(
            f"{path} should have the {model.n_features_in_} columns that the model was fitted "
            f"with; --id, --label and --drop name the others. Received: {width}."
        )
    return reader


def check_output(path: str, endings: Sequence[str], *, option: str = "--out") -> Path:
    """Return a path that can be written, or raise before any work is done."""
    file = Path(path).expanduser()
    if file.suffix.lower() not in endings or file.is_dir():
        raise ValueError(
            f"{option} should be a file that ends in {', '.join(endings)}. Received: {file}."
        )
    files.check_writable(file.parent)
    return file


def check_inputs_stay(options: Namespace) -> None:
    """Raise where a command would write over one of the files that it reads."""
    given = vars(options)
    inputs = [Path(given[name]).expanduser() for name in _INPUTS if given.get(name)]
    outputs = {f"--{name}": Path(given[name]) for name in _OUTPUTS if given.get(name)}
    if options.command == "fit":
        outputs.setdefault("--embedding", outputs["--out"] / MAP)
    for option, path in outputs.items():
        file = path.expanduser()
        for source in inputs:
            part = file.suffix.lower() == ".parquet" and source.resolve() in file.resolve().parents
            if part or (file.is_file() and source.exists() and file.samefile(source)):
                raise FileExistsError(
                    f"{option} should not be a file that the command reads, {source}, or a "
                    "Parquet file in such a folder; give another."
                )
