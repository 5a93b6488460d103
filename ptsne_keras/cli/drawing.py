"""Pictures as the command draws them: whose rows, which axes, which file."""

import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from ptsne_keras import plotting
from ptsne_keras.estimators import models
from ptsne_keras.estimators.models import TrainingMap
from ptsne_keras.io import outputs
from ptsne_keras.io.inputs import Choice, Reading, Rows

PICTURES = (".png", ".svg", ".pdf")
"""What names of pictures end in."""


class Subject:
    """What is drawn: a model, or a map alone; and rows for it, if they are given."""

    def __init__(self, options: Namespace) -> None:
        self._options = options
        self.has_test = options.test is not None
        of = Path(options.of).expanduser()
        self.model: models.Model | None = None
        if of.is_dir() or not of.suffix:
            self.model = models.load(of)
        elif options.rows or options.test:
            raise ValueError(f"--rows and --test should be with a model folder. Received: {of}.")
        self.rows: Rows | None = self._read(options.rows)
        beside = [f"--{name}" for name in ("id", "label") if getattr(options, name)]
        if self.model is not None and beside and not (options.rows or options.test):
            raise ValueError(
                f"{beside[0]} should be with --rows or --test, whose columns it names; the map in "
                f"{of} has those that it was fitted with."
            )
        if self.model is None:
            self.map = models.read_map(of, ids=options.id, labels=options.label)
        elif self.rows is None:
            self.map = models.training_map(self.model, of)
        else:
            Y = self.model.transform(self.rows.X)
            self.map = TrainingMap(Y, self.rows.ids, self.rows.labels)

    def test(self) -> tuple[Rows, Any]:
        """Give the test rows and their places."""
        rows = self._read(self._options.test)
        if rows is None or self.model is None:
            raise ValueError(f"--test should give rows, for --kind {self._options.kind}.")
        return rows, self.model.transform(rows.X)

    def needed_rows(self) -> Any:
        """Give the rows X that the map is of, dense."""
        if self.rows is None:
            raise ValueError(f"--rows should give the rows, for --kind {self._options.kind}.")
        return _dense(self.rows.X)

    def _read(self, path: str | None) -> Rows | None:
        if path is None or self.model is None:
            return None
        return reading_for(self.model, path, self._options).read()


def picture(subject: Subject, options: Namespace) -> Path:
    """Draw what the options ask for into a .png, .svg or .pdf file."""
    import matplotlib.pyplot as plt

    file = outputs.check(options.out, PICTURES)
    ax = _DRAWN[options.kind](subject)
    if options.title:
        ax.set_title(options.title)
    with outputs.replaced(file) as beside:
        ax.figure.savefig(beside, dpi=options.dpi)
    plt.close(ax.figure)
    return file


def page(subject: Subject, options: Namespace) -> Path:
    """Write a page with the map, to look at in a browser."""
    file = outputs.check(options.html, (".html",), option="--html")
    Y, ids, labels = subject.map
    with outputs.replaced(file) as beside:
        plotting.html(Y, beside, labels, names=ids, title=options.title or "Map")
    return file


def _map(subject: Subject) -> Any:
    return plotting.scatter(subject.map.Y, subject.map.labels)


def _overlay(subject: Subject) -> Any:
    rows, Y = subject.test()
    labels, labels_test = subject.map.labels, rows.labels
    if labels is None or labels_test is None:
        # One colour then, for want of classes on both.
        labels, labels_test = np.zeros(len(subject.map.Y), int), np.zeros(len(Y), int)
    return plotting.overlay(subject.map.Y, labels, Y, labels_test)


def _kl(subject: Subject) -> Any:
    history = getattr(subject.model, "history_", None)
    if history is None:
        raise ValueError("--kind kl should be of a model folder, which has the curves.")
    return plotting.learning_curve(history) if "error" in history else plotting.kl_curve(history)


def _shepard(subject: Subject) -> Any:
    X = subject.needed_rows()
    return plotting.shepard(X, subject.map.Y)


def _recall(subject: Subject) -> Any:
    X = subject.needed_rows()
    if subject.has_test:
        rows, Y_test = subject.test()
        return plotting.recall_curve(X, subject.map.Y, X_test=_dense(rows.X), Y_test=Y_test)
    return plotting.recall_curve(X, subject.map.Y)


def _quality(subject: Subject) -> Any:
    X = subject.needed_rows()
    return plotting.point_quality(X, subject.map.Y)


_DRAWN = {
    "map": _map,
    "overlay": _overlay,
    "kl": _kl,
    "shepard": _shepard,
    "recall": _recall,
    "quality": _quality,
}


def choice(options: Namespace) -> Choice:
    """Give what the options say of the columns of a file."""
    return Choice(
        columns=options.columns,
        drop=options.drop or (),
        ids=options.id,
        labels=options.label,
        array=options.array,
        layer=options.layer,
        obsm=options.obsm,
    )


def reading_for(model: models.Model, path: str, options: Namespace) -> Reading:
    """Open rows for a model: columns by its names, as many as it knows."""
    like = getattr(model, "feature_names_in_", None)
    reading = Reading(path, choice(options), like=None if like is None else like.tolist())
    if reading.ignored:
        shown = ", ".join(map(repr, reading.ignored[:3]))
        warnings.warn(
            f"{path}: columns that the model was not fitted with are left, "
            f"{len(reading.ignored)} of them: {shown}",
            stacklevel=2,
        )
    wide = len(reading.features)
    if wide != model.n_features_in_:
        raise ValueError(
            f"{path} should have the {model.n_features_in_} columns that the model was fitted "
            f"with; --id, --label and --drop name those that are none. Received: {wide}."
        )
    return reading


def _dense(X: Any) -> Any:
    return X.toarray() if hasattr(X, "toarray") else X
