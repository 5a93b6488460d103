"""The arguments of `ptsne`, and library errors in terms of its options."""

import argparse
import csv
import re
from collections.abc import Callable
from typing import Any, NoReturn

from ptsne_keras import __version__
from ptsne_keras.cli._help import HELP

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
        description, epilog = HELP[name]
        command = commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=epilog,
            formatter_class=layout,
            allow_abbrev=False,
        )
        command.add_argument("--json", action="store_true", help="one JSON object on stdout")
        command.add_argument("--quiet", action="store_true", help="no progress")
        add_arguments(command)
    return top


class _Into(argparse.Action):
    """Collects parameters of an estimator, so that only those that are given are set."""

    def __init__(self, *arguments: Any, into: str, key: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.into, self.key = into, key

    def __call__(self, parser: Any, namespace: Any, value: Any, option: Any = None) -> None:
        given = getattr(namespace, self.into, None) or {}
        setattr(namespace, self.into, {**given, self.key: value})


def _fit(command: argparse.ArgumentParser) -> None:
    command.add_argument("rows", metavar="ROWS", help="file of rows; see ptsne --help")
    command.add_argument("--out", required=True, metavar="MODEL", help="folder of the model")
    command.add_argument("--embedding", metavar="FILE", help="map of the rows (MODEL/map.csv)")
    command.add_argument("--force", action="store_true", help="replace a model in the folder")
    command.add_argument("--resume", action="store_true", help="go on with an interrupted fit")
    _rows_options(command)
    group = command.add_argument_group("a map that you have")
    group.add_argument("--map", metavar="MAP", help=".csv .tsv .npy .parquet or .h5ad: see maps.md")
    group.add_argument("--map-id", metavar="COLUMN", help="its column with names of the rows")
    group.add_argument("--map-columns", type=_names, metavar="A,B", help="its coordinates")
    command.set_defaults(parameters=None, map_parameters=None)
    group = command.add_argument_group("the map and the network", "default: what suits the rows")
    for name, kind, text in _PARAMETERS:
        _add_parameter(group, "parameters", name, kind, text)
    group.add_argument("--paper", action="store_true", help="all settings of the 2009 paper")
    group = command.add_argument_group("with --map")
    for name, kind, text in _MAP_PARAMETERS:
        _add_parameter(group, "map_parameters", name, kind, text)


def _add_parameter(
    group: argparse._ArgumentGroup, into: str, name: str, kind: Callable[[str], Any], text: str
) -> None:
    group.add_argument(
        option(name),
        action=_Into,
        into=into,
        key=name,
        type=kind,
        help=text,
        metavar="N" if kind is int else "NAME" if kind is str else "VALUE",
        dest=argparse.SUPPRESS,
    )


def _transform(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="folder of a model")
    command.add_argument("rows", metavar="ROWS", help="file of rows; see ptsne --help")
    command.add_argument("--out", required=True, metavar="FILE", help=".csv, .npy or .parquet")
    command.add_argument(
        "--novelty",
        action="store_true",
        help="add a column: 0 is as near as training rows, 1 a stranger (models fitted with --map)",
    )
    _rows_options(command)


def _evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="folder of a model")
    command.add_argument("--train", required=True, metavar="ROWS", help="training rows")
    command.add_argument("--test", metavar="ROWS", help="rows that the model has not seen")
    command.add_argument("--k", type=int, default=12, help="of T(k) (%(default)s)")
    command.add_argument(
        "--neighbors", type=int, default=10, help="of recall and accuracy (%(default)s)"
    )
    command.add_argument("--no-pca", dest="pca", action="store_false", help="without PCA")
    command.add_argument("--seed", type=int, default=0, help="of samples (%(default)s)")
    _rows_options(command)


def _export(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="folder of a model")
    command.add_argument("--out", required=True, metavar="PATH", help="base folder, or the file")
    command.add_argument(
        "--format", choices=("savedmodel", "onnx", "litert"), default="savedmodel",
        help="(%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--reference", metavar="ROWS", help="training rows: the server then tells novelty too"
    )
    command.add_argument(
        "--precision", choices=("float32", "bfloat16"), help="of a SavedModel (float32)"
    )
    command.add_argument("--version", type=int, help="of a SavedModel (the next one)")
    _rows_options(command)


def _plot(command: argparse.ArgumentParser) -> None:
    command.add_argument("of", metavar="MODEL|MAP", help="folder of a model, or file of a map")
    command.add_argument("--out", metavar="FILE", help=".png, .svg or .pdf")
    command.add_argument("--html", metavar="FILE", help="a page with hover and zoom")
    command.add_argument("--kind", choices=_KINDS, help="(map, or overlay with --test)")
    command.add_argument("--rows", metavar="ROWS", help="instead of the training rows")
    command.add_argument("--test", metavar="ROWS", help="rows that the model has not seen")
    command.add_argument("--title", help="above the picture")
    command.add_argument("--dpi", type=int, default=150, help="(%(default)s)")
    _rows_options(command)


def _demo(command: argparse.ArgumentParser) -> None:
    command.add_argument("--picture", default="map.png", help="the map (%(default)s)")
    command.add_argument(
        "--export", default="saved_models/digits", help="base path of the SavedModel (%(default)s)"
    )
    command.add_argument("--seed", type=int, default=0, help="(%(default)s)")


def _rows_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("columns of the rows")
    group.add_argument("--id", metavar="COLUMN", help="names of the rows")
    group.add_argument("--label", metavar="COLUMN", help="their classes")
    group.add_argument("--columns", type=_names, metavar="A,B", help="take these alone")
    group.add_argument("--drop", type=_names, metavar="A,B", help="leave these out")
    group.add_argument("--array", metavar="NAME", help="of an .npz file: the one with the rows")
    group.add_argument("--layer", metavar="NAME", help="of an .h5ad file")
    group.add_argument("--obsm", metavar="NAME", help="of an .h5ad file")
    group = command.add_argument_group("text files", "default: what their first rows tell")
    group.add_argument(
        "--header", action=argparse.BooleanOptionalAction, help="the first line names the columns"
    )
    group.add_argument("--delimiter", metavar="MARK", help="between cells; a blank: any blanks")
    group.add_argument("--decimal", metavar="MARK", help="decimal point or comma")
    group.add_argument("--thousands", metavar="MARK", help="between groups of three digits")


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

_PARAMETERS: list[tuple[str, Callable[[str], Any], str]] = [
    ("n_components", int, "of the map (2)"),
    ("perplexity", _several, "effective number of neighbours; or several: 15,50"),
    ("epochs", _or_words(int, "auto"), "passes over the rows"),
    ("random_state", int, "of all random numbers (0)"),
    ("exaggeration", float, "weight of the attraction; 1 is plain t-SNE (1.5)"),
    ("dof", _or_words(float, "auto", "learn"), "degrees of freedom of the kernel (1)"),
    ("sampling", str, "graph, batch, fixed or auto"),
    ("batch_size", _or_words(int, "auto"), "rows in a batch"),
    ("learning_rate", _or_words(float, "auto"), "of Adam"),
    ("optimizer", str, "adam, or cg: conjugate gradients"),
    ("hidden_units", _units, "widths of the layers: 256,256,256"),
    ("activation", str, "of the layers"),
    ("jitter", float, "noise added to rows in training (0.5)"),
    ("initial_dims", _or_words(int, "auto", "none"), "principal components taken"),
    ("scaling", str, "auto, unit for rows in [0, 1], or standard"),
    ("pretraining", _or_words(str, "none"), "none, or of RBMs by cd1 or pcd"),
    ("pretraining_epochs", _or_words(int, "auto"), "for each RBM"),
]
_MAP_PARAMETERS: list[tuple[str, Callable[[str], Any], str]] = [
    ("objective", str, "neighbors or squares"),
    ("map_weight", float, "weight of the given places (1)"),
    ("patience", int, "epochs without a gain on held-out rows (20)"),
    ("validation_fraction", float, "of the rows, held out (0.1)"),
]


def option(name: str) -> str:
    """Return the option of a parameter."""
    return f"--{_OPTIONS.get(name, name).replace('_', '-')}"


# Arguments of the functions that the commands call, and their options.
_ARGUMENTS = {
    name: option(name)
    for name in (
        *(name for name, _, _ in (*_PARAMETERS, *_MAP_PARAMETERS)),
        *("columns", "drop", "array", "layer", "obsm", "header", "delimiter", "decimal"),
        *("thousands", "map_id", "map_columns", "k", "neighbors"),
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
    text = re.sub(rf"(?<![-\w'/.])({names})=(\w+|'[^']*')?", replace, text)
    names = "|".join(sorted(arguments, key=len, reverse=True))
    listed = rf"(?<![-\w'/.])({names})(?=(?:, (?:{names}))*(?: (?:and|or) (?:{names}))? should\b)"
    return re.sub(listed, lambda found: arguments[found[1]], text)
