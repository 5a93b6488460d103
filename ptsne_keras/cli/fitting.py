"""A fit as the command does it: rows in, a model folder out, whatever comes between."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptsne_keras.callbacks.checkpoint import Interruption
from ptsne_keras.estimators import is_model, load, models, unfinished
from ptsne_keras.estimators.map_regressor import MapRegressor
from ptsne_keras.estimators.parametric_tsne import ParametricTSNE
from ptsne_keras.io import maps, outputs
from ptsne_keras.io.inputs import Rows


class Fitted(NamedTuple):
    """How a fit ended, and where its model is."""

    ended: bool
    """False where Ctrl-C ended it."""
    folder: Path


def check_folder(out: Path, *, force: bool, resume: bool) -> None:
    """Raise unless a model may be written into a folder."""
    outputs.check_writable(out)
    if resume:
        if not is_model(out):
            raise FileNotFoundError(
                f"--resume should be of a model folder. Received: {out}, without a model."
            )
    elif not force and out.is_dir() and any(out.iterdir()):
        mend = "give --force to replace the model there, or --resume to go on with it"
        if not is_model(out):
            mend = "give --force to put the model beside what is there"
        raise FileExistsError(f"--out should be a new folder; {mend}. Received: {out}.")


def check_map(target: Path, out: Path, given: str | None) -> None:
    """Raise where the map of the rows would be written over one that is somebody's own."""
    if not target.exists():
        return
    if given is not None and target.samefile(Path(given).expanduser()):
        raise FileExistsError(
            f"--map should not be the file that the rows' places are written to, {target}; give "
            "another --out, or --embedding FILE."
        )
    if target == out / models.MAP and not is_model(out):
        raise FileExistsError(
            f"--out should be a folder without a {models.MAP} that is not a model's; give another, "
            f"or --embedding FILE. Received: {out}."
        )


def resumed(out: Path, parameters: dict[str, Any]) -> ParametricTSNE:
    """Load what an unfinished fit goes on from; these parameters should be those that it has."""
    model = load(out)
    if isinstance(model, MapRegressor):
        raise ValueError(
            f"--resume should be of a fit without --map; fit anew with --force. Received: {out}."
        )
    if not unfinished(model):
        raise ValueError(
            f"--resume should be of a fit that was interrupted. Received: {out}, which is finished."
        )
    own = model.get_params()
    for name, value in parameters.items():
        if own[name] != value:
            raise ValueError(
                f"{name} should be left out with --resume, or be {own[name]!r} as it was. "
                f"Received: {value!r}."
            )
    return model


def places(file: str, rows: Rows, ids: str | None, columns: Any) -> Any:
    """Read the map that rows have, in the order of the rows: by names if both have them."""
    path = Path(file).expanduser()
    own = path.suffix == ".csv" and path.is_file() and columns is None and ids is None
    if own:
        try:
            found: Any = models.read_map(path)
            found = maps.Map(found.Y, found.ids)
        except ValueError:  # of another program
            found = maps.read(path)
    else:
        try:
            found = maps.read(path, columns=columns, ids=ids)
        except ValueError as error:  # in the words of the command
            text = str(error)
            for name in ("columns", "ids"):
                option = {"columns": "--map-columns", "ids": "--map-id"}[name]
                text = text.replace(f"{name} should", f"{option} should")
            raise ValueError(text) from None
    if found.ids is not None and rows.ids is not None:
        return found.of(rows.ids)
    return found.Y


def fit(
    model: models.Model,
    rows: Rows,
    out: Path,
    *,
    names: list[str] | None = None,
    Y: Any = None,
    resume: bool = False,
    embedding: Path | None = None,
    replace: bool = False,
) -> Fitted:
    """Fit a model and save it with the map of its rows."""
    with Interruption() as interruption:
        callbacks = [interruption]
        if isinstance(model, MapRegressor):
            model.fit(rows.X, Y, callbacks=callbacks)
            found = model.transform(rows.X)
        else:
            found = model.fit(rows.X, callbacks=callbacks, resume=resume).embedding_
        _check_finite(found, model)
        if names is not None:
            model.feature_names_in_ = np.asarray(names, dtype=object)
        if not (replace or resume):
            out = unclaimed(out)
        # The map first, beside its place: then both are renamed, or neither.
        with outputs.replaced(embedding or out / models.MAP) as beside:
            outputs.fill(beside, [(found, named(rows))])
            model.save(out)
    ended = not unfinished(model)
    return Fitted(ended and not (isinstance(model, MapRegressor) and interruption.requested), out)


def _check_finite(found: Any, model: models.Model) -> None:
    """Raise where training diverged, be it to places that are only far away."""
    divergence = getattr(model, "kl_divergence_", 0.0)
    if not (np.isfinite(found).all() and np.isfinite(divergence)):
        raise ValueError(
            "Training diverged, and nothing was written: learning_rate should be smaller, or the "
            f"rows scaled. Received: places up to {np.abs(found).max():.3g}, KL {divergence}."
        )


def unclaimed(out: Path) -> Path:
    """Give the folder, or one beside it where another fit has put its model there meanwhile."""
    number, free = 1, out
    while is_model(free):
        number += 1
        free = out.with_name(f"{out.name}-{number}")
    if free != out:
        warnings.warn(
            f"{out} has got a model while this one was fitted; this one goes to {free}.",
            stacklevel=2,
        )
    return free


def named(rows: Rows) -> dict[str, Any]:
    """Give what a map's file has beside the coordinates."""
    beside = {"id": rows.ids, "label": rows.labels}
    return {name: values for name, values in beside.items() if values is not None}
