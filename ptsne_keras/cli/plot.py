"""The command `ptsne plot`: which rows, which axes, which file."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ptsne_keras import plotting
from ptsne_keras.cli._common import Answer, check_output, load_model, reader_for
from ptsne_keras.estimators import MAP, Model
from ptsne_keras.io import maps
from ptsne_keras.io.maps import Map
from ptsne_keras.io.rows import Rows
from ptsne_keras.utils import files
from ptsne_keras.utils.arrays import dense
from ptsne_keras.utils.optional import require

PICTURES = (".png", ".svg", ".pdf")
"""Endings of pictures."""


def plot(options: Namespace) -> Answer:
    """Draw a map, or how good it is: `ptsne plot`."""
    import matplotlib.pyplot as plt

    kind = options.kind or ("overlay" if options.test else "map")
    if options.test and kind not in ("overlay", "recall"):
        raise ValueError(f"--test should be with --kind overlay or recall. Received: {kind}.")
    if not options.out and not options.html:
        raise ValueError("--out should name a picture, or --html a page. Received: neither.")
    if options.html and kind != "map":
        raise ValueError(f"--html should be with --kind map. Received: {kind}.")
    facts = {"command": "plot", "of": str(options.of), "kind": kind}
    if options.out:
        facts["out"] = str(check_output(options.out, PICTURES))
    if options.html:
        facts["html"] = str(check_output(options.html, (".html",), option="--html"))
        require("bokeh", extra="plots", purpose="--html")
    subject = Subject(options, kind)
    if options.out:
        ax = _DRAW[kind](subject)
        if options.title:
            ax.set_title(options.title)
        with files.replacing(facts["out"], make_parents=True) as beside:
            ax.figure.savefig(beside, dpi=options.dpi)
        plt.close(ax.figure)
    if options.html:
        found, title = subject.map, options.title or "Map"
        file = Path(facts["html"])
        with files.made(file.parent):  # errors name this file, and not one beside it
            plotting.html(found.Y, file, found.labels, names=found.ids, title=title)
    return Answer(facts, "\n".join(f"{k:<7}{facts[k]}" for k in ("out", "html") if k in facts))


class Subject:
    """What is drawn: a model or a map alone, with rows if they are given."""

    def __init__(self, options: Namespace, kind: str) -> None:
        self.options, self.kind = options, kind
        of = Path(options.of).expanduser()
        self.model: Model | None = None
        self.rows: Rows | None = None
        if not of.is_dir() and of.suffix:
            if options.rows or options.test:
                raise ValueError(
                    f"--rows and --test should be with a model folder. Received: {of}."
                )
            self.map = maps.read(
                of, columns=options.columns, ids=options.id, labels=options.label,
                obsm=options.obsm, header=options.header,
            )  # fmt: skip
            return
        self.model = load_model(options.of)
        columns = [f"--{name}" for name in ("id", "label") if getattr(options, name)]
        if columns and not (options.rows or options.test):
            raise ValueError(
                f"{columns[0]} should be with --rows or --test, whose columns it names; the map in "
                f"{of} has its own."
            )
        if options.rows:
            self.rows = reader_for(self.model, options.rows, options).read()
            self.map = Map(self.model.transform(self.rows.X), self.rows.ids, self.rows.labels)
        else:
            self.map = training_map(self.model, of)

    def test(self) -> tuple[Rows, Any]:
        """Return the test rows and their places."""
        if not self.options.test or self.model is None:
            raise ValueError(f"--test should give rows, for --kind {self.kind}.")
        rows = reader_for(self.model, self.options.test, self.options).read()
        return rows, self.model.transform(rows.X)

    def X(self) -> Any:
        """Return the rows that the map is of, dense."""
        if self.rows is None:
            raise ValueError(f"--rows should give the rows, for --kind {self.kind}.")
        return dense(self.rows.X)


def training_map(model: Model, folder: Path) -> Map:
    """Return the map of the training rows, with ids and labels if the folder has them."""
    file = folder.expanduser() / MAP
    Y = getattr(model, "embedding_", None)
    if file.is_file():
        found = maps.read(file)
        # It may be the map of an older model.
        if Y is None or (np.shape(Y) == found.Y.shape and np.allclose(found.Y, Y, rtol=1e-4)):
            return found
    if Y is None:
        raise ValueError(f"{folder} should have {MAP} in it; give the rows by --rows instead.")
    return Map(np.asarray(Y))


def _overlay(subject: Subject) -> Any:
    rows, Y = subject.test()
    labels, labels_test = subject.map.labels, rows.labels
    if labels is None or labels_test is None:  # one colour, without classes on both
        labels, labels_test = np.zeros(len(subject.map.Y), int), np.zeros(len(Y), int)
    return plotting.overlay(subject.map.Y, labels, Y, labels_test)


def _kl(subject: Subject) -> Any:
    history = getattr(subject.model, "history_", None)
    if history is None:
        raise ValueError("--kind kl should be of a model folder, which has the curves.")
    if not history["finetune"]:
        raise ValueError("--kind kl should be of a model that was trained; this one places rows.")
    draw = plotting.learning_curve if "error" in history["finetune"] else plotting.kl_curve
    return draw(history)


def _recall(subject: Subject) -> Any:
    X = subject.X()
    if subject.options.test is None:
        return plotting.recall_curve(X, subject.map.Y)
    rows, Y_test = subject.test()
    return plotting.recall_curve(X, subject.map.Y, X_test=dense(rows.X), Y_test=Y_test)


_DRAW: dict[str, Callable[[Subject], Any]] = {
    "map": lambda subject: plotting.scatter(subject.map.Y, subject.map.labels),
    "overlay": _overlay,
    "kl": _kl,
    "shepard": lambda subject: plotting.shepard(subject.X(), subject.map.Y),
    "recall": _recall,
    "quality": lambda subject: plotting.point_quality(subject.X(), subject.map.Y),
}
