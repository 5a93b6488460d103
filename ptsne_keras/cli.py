"""The command `ptsne`: arguments in, calls out."""

import argparse
import os
from collections.abc import Sequence

# TensorFlow's start-up notices are no part of the answer. Before its first import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ptsne` with these arguments (by default the process's) and return its exit status."""
    options = _parser().parse_args(arguments)
    return int(options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ptsne", description="Parametric t-SNE: a map of your rows, and of rows to come."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="all three stages on handwritten digits",
        description="Fit scikit-learn's digits with the default settings, print how good the map "
        "of the test rows is, draw it, and export it for TensorFlow Serving.",
    )
    demo.add_argument("--picture", default="map.png", help="the map (default: %(default)s)")
    demo.add_argument(
        "--export",
        default="saved_models/digits",
        help="base path of the SavedModel (default: %(default)s)",
    )
    demo.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    demo.set_defaults(run=_demo)
    return parser


def _demo(options: argparse.Namespace) -> int:
    # Here, so that --help answers at once.
    from ptsne_keras import demo

    print(demo.table(demo.run(options.picture, options.export, seed=options.seed)))
    return 0
