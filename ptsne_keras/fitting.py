"""A fit as the command does it: rows in, a model folder out, whatever comes between."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ptsne_keras import maps, models, outputs
from ptsne_keras.estimator import ParametricTSNE
from ptsne_keras.inputs import Rows
from ptsne_keras.interruption import Interruption
from ptsne_keras.map_regressor import MapRegressor
from ptsne_keras.progress import FitMeter


def check_folder(out: Path, *, force: bool, resume: bool) -> None:
    """Raise unless a model may be written into a folder.

    Raises
    ------
    FileExistsError
        If something is there, and neither to be replaced nor to be gone on with.
    FileNotFoundError
        If there is nothing to go on with.

    Examples
    --------
    >>> check_folder(Path("new"), force=False, resume=False)
    """
    outputs.check_writable(out)
    if resume:
        if not models.is_model(out):
            raise FileNotFoundError(
                f"--resume should be of a model folder. Received: {out}, without a model."
            )
    elif not force and out.is_dir() and any(out.iterdir()):
        mend = "give --force to replace the model there, or --resume to go on with it"
        if not models.is_model(out):
            mend = "give --force to put the model beside what is there"
        raise FileExistsError(f"--out should be a new folder; {mend}. Received: {out}.")


def resumed(out: Path, parameters: dict[str, Any]) -> ParametricTSNE:
    """Load what an unfinished fit goes on from; these parameters should be those that it has.

    Raises
    ------
    ValueError
        If nothing is left to do, or a parameter is another.

    Examples
    --------
    >>> tsne.save("map")
    >>> resumed(Path("map"), {})
    Traceback (most recent call last):
    ValueError: --resume should be of a fit that was interrupted. Received: map, which is finished.
    """
    model = models.load(out)
    if isinstance(model, MapRegressor):
        raise ValueError(
            f"--resume should be of a fit without --map; fit anew with --force. Received: {out}."
        )
    if not models.unfinished(model):
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
    """Read the map that rows have, in the order of the rows: by names if both have them.

    Raises
    ------
    ValueError
        If a row has no place.

    Examples
    --------
    >>> np.save("map.npy", Y)
    >>> places("map.npy", Rows(X, None, None), None, None).shape
    (200, 2)
    """
    path = Path(file).expanduser()
    own = path.suffix == ".csv" and path.is_file() and columns is None and ids is None
    if own:
        try:
            found: Any = models.read_map(path)
            found = maps.Map(found.Y, found.ids)
        except ValueError:  # of another program
            found = maps.read(path)
    else:
        found = maps.read(path, columns=columns, ids=ids)
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
    meter: FitMeter | None = None,
) -> bool:
    """Fit a model and save it with the map of its rows; returns whether the fit came to its end.

    Ctrl-C in training saves what there is, too.

    Parameters
    ----------
    model : ParametricTSNE or MapRegressor
    rows : Rows
    out : Path
        The model folder.
    names : list of str, optional
        Of the columns.
    Y : array [N, d], optional
        For a `MapRegressor`.
    resume : bool
        Whether `model` goes on.
    embedding : Path, optional
        Where the map goes, by default into the folder.
    meter : FitMeter, optional
        Shows the progress.

    Examples
    --------
    >>> fit(ParametricTSNE(epochs=2), Rows(X, None, labels), Path("map"))
    True
    """
    with Interruption() as interruption:
        callbacks = [interruption, *([] if meter is None else [meter])]
        if isinstance(model, MapRegressor):
            model.fit(rows.X, Y, callbacks=callbacks)
            found = model.transform(rows.X)
        else:
            found = model.fit(rows.X, callbacks=callbacks, resume=resume).embedding_
        if names is not None:
            model.feature_names_in_ = np.asarray(names, dtype=object)
        made = not out.exists()
        try:
            model.save(out)
            file = out / models.MAP if embedding is None else embedding
            outputs.write(file, [(found, named(rows))])
            if embedding is not None:  # that of an older model may lie there
                (out / models.MAP).unlink(missing_ok=True)
        except BaseException:
            if made:
                shutil.rmtree(out, ignore_errors=True)
            raise
    ended = not models.unfinished(model)
    return ended and not (isinstance(model, MapRegressor) and interruption.requested)


def named(rows: Rows) -> dict[str, Any]:
    """Give what a map's file has beside the coordinates.

    Examples
    --------
    >>> list(named(Rows(X, None, labels)))
    ['label']
    """
    beside = {"id": rows.ids, "label": rows.labels}
    return {name: values for name, values in beside.items() if values is not None}
