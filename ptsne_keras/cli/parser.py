"""The arguments of `ptsne`, and library errors in terms of its options."""

import argparse
import csv
import re
from collections.abc import Callable
from typing import Any, NoReturn

from ptsne_keras import __version__
from ptsne_keras.cli._help import HELP

_Group = argparse.ArgumentParser | argparse._ArgumentGroup
_Parameter = tuple[str, Callable[[str], Any], str]
_KINDS = ("map", "overlay", "kl", "shepard", "recall", "quality")
_OPTIONS = {"n_components": "dimensions", "random_state": "seed"}


class Usage(Exception):
    """Words that are not a command."""

    def __init__(self, program: str, message: str) -> None:
        super().__init__(message)
        self.program = program


class _Parser(argparse.ArgumentParser):
    """A parser whose errors `main` reports, in one line and in JSON."""

    def error(self, message: str) -> NoReturn:
        """Raise the error."""
        raise Usage(self.prog, message)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    layout = argparse.RawDescriptionHelpFormatter
    description, epilog = HELP["ptsne"]
    top = _Parser(prog="ptsne", description=description, epilog=epilog, formatter_class=layout)
    top.add_argument("--version", action="version", version=f"ptsne {__version__}")
    commands = top.add_subparsers(
        required=True, metavar="COMMAND", dest="command", title="commands"
    )
    for name, summary, add_arguments in (
        ("fit", "learn the map of rows", _fit),
        ("transform", "place new rows on it", _transform),
        ("evaluate", "measure it on training and test rows", _evaluate),
        ("export", "write it for a server or another runtime", _export),
        ("plot", "draw it", _plot),
        ("demo", "all of it on handwritten digits", _demo),
    ):
        command = commands.add_parser(
            name, help=summary, formatter_class=layout, allow_abbrev=False
        )
        command.description, command.epilog = HELP[name]
        _flag(command, "--json", "one JSON object on stdout")
        _flag(command, "--quiet", "no progress")
        add_arguments(command)
    return top


def _fit(command: _Group) -> None:
    _add(command, "rows", "ROWS", "file of rows; see ptsne --help")
    _add(command, "--out", "MODEL", "folder of the model", required=True)
    _add(command, "--embedding", "FILE", "map of the rows (MODEL/map.csv)")
    _flag(command, "--spreadsheet-safe", "quote what a spreadsheet would run in a .csv map")
    _write_obsm(command)
    _flag(command, "--force", "replace a model in the folder")
    _flag(command, "--resume", "go on with an interrupted fit")
    text = "seconds between two checkpoints in MODEL (%(default)s)"
    _add(command, "--checkpoint", "N", text, type=float, default=300.0)
    _rows_options(command)
    group = command.add_argument_group("a map that you have")
    _add(group, "--map", "MAP", ".csv .tsv .npy .parquet or .h5ad: see maps.md")
    _add(group, "--map-id", "COLUMN", "its column with names of the rows")
    _add(group, "--map-columns", "A,B", "its coordinates", type=_names)
    _add(group, "--match", None, "rows and map (id, if both have them)", choices=("id", "position"))
    group = command.add_argument_group("the map and the network", "default: what suits the rows")
    _add_parameters(group, "parameters", _PARAMETERS)
    placement = {"dest": "parameters:placement", "action": "store_false"}
    text = "the network alone: smaller, and coarser"
    _flag(group, "--no-placement", text, **placement, default=argparse.SUPPRESS)
    back = {"dest": "parameters:decoder", "default": argparse.SUPPRESS}
    _flag(group, "--decoder", "also learn the way back: transform --inverse", **back)
    _flag(group, "--paper", "all settings of the 2009 paper")
    _add_parameters(command.add_argument_group("with --map"), "map_parameters", _MAP_PARAMETERS)


def _add_parameters(group: _Group, into: str, parameters: list[_Parameter]) -> None:
    for name, kind, text in parameters:
        metavar = "N" if kind is int else "NAME" if kind is str else "VALUE"
        own = {"dest": f"{into}:{name}", "default": argparse.SUPPRESS}
        _add(group, option(name), metavar, text, type=kind, **own)


def _transform(command: _Group) -> None:
    _add(command, "model", "MODEL", "folder of a model")
    _add(command, "rows", "ROWS", "file of rows; see ptsne --help")
    _add(command, "--out", "FILE", ".csv, .npy or .parquet", required=True)
    _flag(command, "--inverse", "ROWS are places on the map: write the rows that lie there")
    _flag(command, "--novelty", "add a column: 0 is a training row, 0.5 a usual one, 1 a stranger")
    text = "the network alone: quick, and coarser"
    _flag(command, "--no-placement", text, dest="network")
    _flag(command, "--spreadsheet-safe", "quote what a spreadsheet would run in a .csv file")
    _write_obsm(command)
    _rows_options(command)


def _write_obsm(command: _Group) -> None:
    text = "of the map in a copy of an .h5ad file (%(default)s)"
    _add(command, "--write-obsm", "NAME", text, default="X_ptsne")


def _evaluate(command: _Group) -> None:
    _add(command, "model", "MODEL", "folder of a model")
    _add(command, "--train", "ROWS", "training rows", required=True)
    _add(command, "--test", "ROWS", "rows that the model has not seen")
    text = "of trustworthiness and continuity (%(default)s)"
    _add(command, "--n-neighbors", "K", text, type=int, default=12)
    _add(command, "--recall-neighbors", "K", "of recall (%(default)s)", type=int, default=10)
    text = "rows whose neighbours are sought; none: all (%(default)s)"
    _add(command, "--sample-size", "N", text, type=_or_words(int, "none"), default=10_000)
    _flag(command, "--no-pca", "without PCA", dest="pca", action="store_false")
    _add(command, "--seed", "SEED", "of samples (%(default)s)", type=int, default=0)
    _rows_options(command)


def _export(command: _Group) -> None:
    _add(command, "model", "MODEL", "folder of a model")
    _add(command, "--out", "PATH", "base folder, or the file", required=True)
    formats = ("savedmodel", "onnx", "litert")
    _add(command, "--format", None, "(%(default)s)", choices=formats, default=formats[0])
    _add(command, "--reference", "ROWS", "training rows, to warm up the server and for bfloat16")
    text = "the most training rows among which it places others (65536)"
    _add(command, "--reference-size", "N", text, type=int)
    text = "the network alone: small, and coarser"
    _flag(command, "--no-placement", text, dest="network")
    text = "of a SavedModel (float32)"
    _add(command, "--precision", None, text, choices=("float32", "bfloat16"))
    _add(command, "--version", "VERSION", "of a SavedModel (the next one)", type=int)
    _rows_options(command)


def _plot(command: _Group) -> None:
    _add(command, "of", "MODEL|MAP", "folder of a model, or file of a map")
    _add(command, "--out", "FILE", ".png, .svg or .pdf")
    _add(command, "--html", "FILE", "a page with hover and zoom")
    _add(command, "--kind", None, "(map, or overlay with --test)", choices=_KINDS)
    _add(command, "--rows", "ROWS", "instead of the training rows")
    _add(command, "--test", "ROWS", "rows that the model has not seen")
    _add(command, "--title", "TITLE", "above the picture")
    _add(command, "--dpi", "DPI", "(%(default)s)", type=int, default=150)
    _rows_options(command)


def _demo(command: _Group) -> None:
    _add(command, "--picture", "FILE", "the map (%(default)s)", default="map.png")
    text = "base path of the SavedModel (%(default)s)"
    _add(command, "--export", "PATH", text, default="saved_models/digits")
    _add(command, "--seed", "SEED", "(%(default)s)", type=int, default=0)


def _rows_options(command: _Group) -> None:
    group = command.add_argument_group("columns of the rows")
    _add(group, "--id", "COLUMN", "names of the rows")
    _add(group, "--label", "COLUMN", "their classes")
    _add(group, "--columns", "A,B", "take these alone", type=_names)
    _add(group, "--drop", "A,B", "leave these out", type=_names)
    _add(group, "--array", "NAME", "of an .npz file: the one with the rows")
    _add(group, "--layer", "NAME", "of an .h5ad file")
    _add(group, "--obsm", "NAME", "of an .h5ad file")
    group = command.add_argument_group("text files", "default: what their first rows tell")
    text = "the first line names the columns"
    group.add_argument("--header", action=argparse.BooleanOptionalAction, help=text)
    _add(group, "--delimiter", "MARK", "between cells; a blank: any blanks")
    _add(group, "--decimal", "MARK", "decimal point or comma")
    _add(group, "--thousands", "MARK", "between groups of three digits")


def _add(group: _Group, name: str, metavar: str | None, text: str, **options: Any) -> None:
    group.add_argument(name, metavar=metavar, help=text, **options)


def _flag(group: _Group, name: str, text: str, **options: Any) -> None:
    group.add_argument(name, help=text, **{"action": "store_true", **options})


def _names(text: str) -> list[str]:
    return [name for name in next(csv.reader([text], skipinitialspace=True), []) if name]


def _or_words(kind: type, *words: str) -> Callable[[str], Any]:
    """Return what parses a number, or one of some words; "none" is None."""

    def parse(text: str) -> Any:
        if text in words:
            return None if text == "none" else text
        return kind(text)

    parse.__name__ = " or ".join(["a number", *words])  # for argparse's error
    return parse


def _several(text: str) -> Any:
    if text == "auto":
        return text
    values = tuple(float(part) for part in text.split(","))
    return values if len(values) > 1 else values[0]


_several.__name__ = "number or numbers"


def _units(text: str) -> Any:
    return text if text == "auto" else tuple(int(part) for part in text.split(","))


_units.__name__ = "widths"

_PARAMETERS: list[_Parameter] = [
    ("n_components", int, "of the map (2)"),
    ("perplexity", _several, "effective number of neighbours; or several: 15,50"),
    ("metric", str, "euclidean, or cosine or correlation of rows"),
    ("epochs", _or_words(int, "auto"), "passes over the rows"),
    ("random_state", int, "of all random numbers (0)"),
    ("n_jobs", int, "threads of the search and of the freed rows (all)"),
    ("max_train_rows", _or_words(int, "none"), "rows to learn from; others are placed (10⁶)"),
    ("exaggeration", _or_words(float, "auto"), "weight of the attraction; 1 is plain t-SNE"),
    ("dof", _or_words(float, "auto", "learn"), "degrees of freedom of the kernel (1)"),
    ("sampling", str, "graph, batch, fixed or auto"),
    ("batch_size", _or_words(int, "auto"), "rows in a batch"),
    ("learning_rate", _or_words(float, "auto"), "of Adam"),
    ("optimizer", str, "adam, or cg: conjugate gradients"),
    ("hidden_units", _units, "widths of the layers: 256,256,256"),
    ("activation", str, "of the layers"),
    ("label_weight", float, "of the classes of --label in the map, 0 to 1 (0)"),
    ("jitter", float, "noise added to rows in training (0.5)"),
    ("initial_dims", _or_words(int, "auto", "none"), "principal components taken"),
    ("scaling", str, "auto, unit for rows in [0, 1], or standard"),
    ("pretraining", _or_words(str, "none"), "none, or of RBMs by cd1 or pcd"),
    ("pretraining_epochs", _or_words(int, "auto"), "for each RBM"),
]
_MAP_PARAMETERS: list[_Parameter] = [
    ("objective", str, "placement among neighbours, or squares: regression by a network"),
    ("n_neighbors", int, "rows that a new row is placed among (15)"),
    ("patience", int, "epochs without a gain on held-out rows (20)"),
    ("validation_fraction", float, "of the rows, held out (0.1)"),
]


def given(options: argparse.Namespace, into: str) -> dict[str, Any]:
    """Return the parameters of one group of options that are given, by their names in Python."""
    parts = ((name.partition(":"), value) for name, value in vars(options).items())
    return {name: value for (group, _, name), value in parts if group == into}


def option(name: str) -> str:
    """Return the option of a parameter."""
    return f"--{_OPTIONS.get(name, name).replace('_', '-')}"


# Arguments of the functions that the commands call, and their options.
_ARGUMENTS = {
    name: option(name)
    for name in (
        *(name for name, _, _ in (*_PARAMETERS, *_MAP_PARAMETERS)),
        *("columns", "drop", "array", "layer", "obsm", "header", "delimiter", "decimal"),
        *("thousands", "map_id", "map_columns", "n_neighbors", "recall_neighbors", "sample_size"),
        *("reference_size", "match", "spreadsheet_safe", "decoder"),
    )
} | {"ids": "--id", "labels": "--label", "header=True": "--header", "header=False": "--no-header"}
OF_MAP = {"columns": "--map-columns", "ids": "--map-id"}
"""Those of `io.maps.read`."""


def in_options(text: str, arguments: dict[str, str] = _ARGUMENTS) -> str:
    """Return an error of the library with options in place of "name should" and "name="."""

    def replace(found: re.Match[str]) -> str:
        name, value = found.groups()
        if value and f"{name}={value}" in arguments:
            return arguments[f"{name}={value}"]
        return arguments.get(name, name) + (f" {value}" if value else "")

    names = "|".join(sorted({name.split("=")[0] for name in arguments}, key=len, reverse=True))
    text = re.sub(rf"(?<![-\w'/.])({names})=(\w+|'[^']*'|\"[^\"]*\")?", replace, text)
    names = "|".join(sorted(arguments, key=len, reverse=True))
    listed = rf"(?<![-\w'/.])({names})(?=(?:, (?:{names}))*(?: (?:and|or) (?:{names}))? should\b)"
    return re.sub(listed, lambda found: arguments[found[1]], text)
