"""The command `ptsne fit`: rows in, a model folder out."""

import contextlib
import csv
import functools
import io
import itertools
import shlex
import shutil
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ptsne_keras.callbacks import Interruption
from ptsne_keras.callbacks.progress import duration
from ptsne_keras.cli import parser
from ptsne_keras.cli._common import Answer, check_output, choice
from ptsne_keras.estimators import (
    CHECKPOINT,
    MAP,
    MapRegressor,
    Model,
    ParametricTSNE,
    is_model,
    load,
    newest,
    save_with_map,
    sweep,
    unfinished,
)
from ptsne_keras.io import maps
from ptsne_keras.io.rows import Reader, Rows
from ptsne_keras.utils import files

# Parameters of a MapRegressor among the options that do not need --map.
_OF_MAPS = {
    *("perplexity", "metric", "dof", "batch_size", "epochs", "learning_rate"),
    *("n_jobs", "random_state"),
}

# Options that say which rows are meant, and where their map goes.
_OF_ROWS = [*("id", "label", "columns", "drop", "array", "layer", "obsm"), "delimiter"]
_OF_ROWS += ["decimal", "thousands", "embedding"]


def fit(options: Namespace) -> Answer:
    """Fit a model and write it with the map of its rows: `ptsne fit`."""
    out = Path(options.out).expanduser()
    sweep(out)
    _check_folder(out, force=options.force, resume=options.resume)
    if options.embedding:
        endings = maps.endings(options.rows)
        written = check_output(options.embedding, endings, option="--embedding")
        if options.spreadsheet_safe and written.suffix.lower() != ".csv":
            raise ValueError("--spreadsheet-safe should be with an --embedding that ends in .csv.")
    elif (out / MAP).exists() and not is_model(out):
        raise FileExistsError(
            f"--out should be a folder without a {MAP} that is not a model's; give another, "
            f"or --embedding FILE. Received: {out}."
        )
    model = _model(options, out, parser.given(options, "parameters"))
    model.set_params(verbose=0 if options.quiet else 1)
    reader = Reader(options.rows, choice(options))
    rows = reader.read()
    if rows.ids is not None and len(np.unique(rows.ids)) < len(rows.ids):
        warnings.warn("Some ids name several rows; the map keeps them all.", stacklevel=2)
    if not options.quiet:
        n, columns = rows.X.shape
        print(f"ptsne: {options.rows}: {n:,} rows of {columns:,} columns", file=sys.stderr)
    own = options.map_id, options.map_columns, options.match
    if rows.labels is None and isinstance(model, ParametricTSNE) and model.label_weight:
        raise ValueError("label_weight should be left out without --label COLUMN.")
    Y = places(options.map, rows, *own) if options.map else None
    start = time.perf_counter()
    finished, folder = _fit_and_save(options, model, rows, reader.names, Y, out)
    return _answer(options, model, rows, finished, time.perf_counter() - start, folder)


def _check_folder(out: Path, *, force: bool, resume: bool) -> None:
    """Raise unless a model may be written into a folder."""
    files.check_writable(out)
    if resume:
        if not is_model(newest(out)):
            raise FileNotFoundError(
                f"--resume should be of a model folder. Received: {out}, without a model."
            )
    elif not force and out.is_dir() and any(map(_is_foreign, out.iterdir())):
        fix = "give --force to replace the model there, or --resume to go on with it"
        if not is_model(out):
            fix = "give --force to put the model beside what is there"
        raise FileExistsError(f"--out should be a new folder; {fix}. Received: {out}.")


def _is_foreign(path: Path) -> bool:
    """Return whether a file in a folder is more than what a fit under way has there."""
    return path.name != CHECKPOINT.parent.name and not path.name.startswith(files.TEMPORARY)


def _model(options: Namespace, out: Path, parameters: dict[str, Any]) -> Model:
    """Return the estimator that the options describe, or the unfinished one in the folder."""
    if options.resume:
        for given, option in ((options.map, "--map"), (options.paper, "--paper")):
            if given:
                raise ValueError(f"{option} should be left out with --resume.")
        return _unfinished(out, parameters)
    _check_activation(parameters.get("activation", "auto"))
    parameters.setdefault("random_state", 0)
    of_maps = parser.given(options, "map_parameters")
    if not options.map:
        names = [n for n in ("map_id", "map_columns", "match") if getattr(options, n)]
        for name in [*of_maps, *names]:
            raise ValueError(f"{name} should be left out without --map MAP.")
        return (ParametricTSNE.paper if options.paper else ParametricTSNE)(**parameters)
    foreign = sorted(set(parameters) - _OF_MAPS) + ["--paper"] * bool(options.paper)
    if foreign:
        raise ValueError(f"{foreign[0]} should be left out with --map.")
    if isinstance(parameters.get("perplexity"), tuple):
        raise ValueError("perplexity should be one number with --map.")
    return MapRegressor(**parameters, **of_maps)


def _check_activation(name: str) -> None:
    """Raise unless Keras has an activation of this name, or it is "auto"."""
    known = set(vars(keras.activations)) - {"deserialize", "get", "serialize"}
    names = ["auto", *sorted(name for name in known if not name.startswith("_"))]
    if name not in names:
        raise ValueError(f"activation should be one of {', '.join(names)}. Received: {name!r}.")


def _unfinished(out: Path, parameters: dict[str, Any]) -> ParametricTSNE:
    """Return the unfinished model of a folder; parameters that are given should be its own."""
    model = load(newest(out))
    if isinstance(model, MapRegressor):
        raise ValueError(
            f"--resume should be of a fit without --map; fit anew with --force. Received: {out}."
        )
    if not unfinished(model):
        raise ValueError(
            f"--resume should be of a fit that was interrupted. Received: {out}, which is finished."
        )
    if "n_jobs" in parameters:
        model.set_params(n_jobs=parameters.pop("n_jobs"))
    own = model.get_params()
    for name, value in parameters.items():
        if own[name] != value:
            raise ValueError(
                f"{name} should be left out with --resume, or be {own[name]!r} as it was. "
                f"Received: {value!r}."
            )
    return model


def places(file: str, rows: Rows, ids: str | None, columns: Any, match: Any = None) -> Any:
    """Return the map's places in the order of the rows: by names if both have them."""
    try:
        found = maps.read(file, columns=columns, ids=ids)
    except ValueError as error:
        raise ValueError(parser.in_options(str(error), parser.OF_MAP)) from None
    if match == "id" and (found.ids is None or rows.ids is None):
        raise ValueError("--match id should be with --id and a map that has names: --map-id.")
    if found.ids is None or rows.ids is None or match == "position":
        return found.Y
    return found.of(rows.ids, match=match or ("id" if ids else None))


def _fit_and_save(
    options: Namespace, model: Model, rows: Rows, names: Any, Y: Any, out: Path
) -> tuple[bool, Path]:
    """Fit a model and save it with the map; return whether it is finished, and its folder."""
    new = not (options.force or options.resume)
    with Interruption() as interruption, _place(out, new=new) as place:
        if isinstance(model, MapRegressor):
            model.fit(rows.X, Y, callbacks=[interruption])
            found = model.transform(rows.X)
        else:
            kept = {"checkpoint": place / CHECKPOINT, "checkpoint_seconds": options.checkpoint}
            given = {"y": rows.labels, "callbacks": [interruption], "resume": options.resume}
            model.fit(rows.X, **given, **kept)
            found = model.embedding_
        _check_finite(found, model)
        if names is not None:
            model.feature_names_in_ = np.asarray(names, dtype=object)
        write_map = functools.partial(
            maps.write,
            parts=[(found, beside(rows))],
            spreadsheet_safe=options.spreadsheet_safe,
            source=options.rows,
            obsm=options.write_obsm,
        )
        if options.embedding:
            # The map first, beside its place: then both are renamed, or neither.
            with files.replacing(options.embedding, make_parents=True) as beside_it:
                write_map(beside_it)
                out = _save(model, place, None, new=new)
        else:
            out = _save(model, place, write_map, new=new)
    trained = isinstance(model, MapRegressor) and model.objective == "squares"
    stopped = trained and interruption.requested
    return not (stopped or unfinished(model)), out


@contextlib.contextmanager
def _place(out: Path, *, new: bool) -> Iterator[Path]:
    """Yield a folder that no other fit has, `out` or one beside it, with a place in it to keep."""
    for number in itertools.count(1):
        place = _numbered(out, number)
        kept = place / CHECKPOINT
        if number > 1 and is_model(place):
            continue
        with files.made(kept.parent), files.locked(kept.parent, wait=False) as free:
            if free:
                if new and is_model(kept):
                    warnings.warn(
                        f"{place} has an interrupted fit, which this one replaces in time; stop it "
                        "and give --resume to go on with that one.",
                        stacklevel=2,
                    )
                try:
                    yield place
                except BaseException:
                    if is_model(kept):
                        warnings.warn(f"{kept} is left; --resume goes on with it.", stacklevel=2)
                    with contextlib.suppress(OSError):
                        kept.parent.rmdir()
                    raise
                shutil.rmtree(kept.parent, ignore_errors=True)
                return
        if not new:
            raise FileExistsError(
                f"--out should be a folder that no other fit is writing; wait. Received: {out}."
            )


def _numbered(out: Path, number: int) -> Path:
    """Return the folder, or the one beside it with this number."""
    return out if number == 1 else out.with_name(f"{out.name}-{number}")


def _save(model: Model, out: Path, write_map: Callable[[Path], Any] | None, *, new: bool) -> Path:
    """Save a model, beside the folder if another has come into it meanwhile; return where."""
    for number in itertools.count(1):
        place = _numbered(out, number)
        try:
            save_with_map(model, place, write_map, overwrite=not new)
            break
        except FileExistsError:
            if not is_model(place):
                raise
    if place != out:
        warnings.warn(
            f"{out} received a model while this one was fitted; this one goes to {place}.",
            stacklevel=2,
        )
    return place


def _check_finite(found: Any, model: Model) -> None:
    """Raise if training diverged, or its places are too far away for a finite KL."""
    divergence = getattr(model, "kl_divergence_", 0.0)
    if not (np.isfinite(found).all() and np.isfinite(divergence)):
        raise ValueError(
            "Training diverged, and nothing was written: learning_rate should be smaller, or the "
            f"rows scaled. Received: places up to {np.abs(found).max():.3g}, KL {divergence}."
        )


def beside(rows: Rows | maps.Map) -> dict[str, Any]:
    """Return the columns that the file of a map has beside the coordinates."""
    columns = {"id": rows.ids, "label": rows.labels}
    return {name: values for name, values in columns.items() if values is not None}


def _answer(
    options: Namespace, model: Model, rows: Rows, finished: bool, seconds: float, folder: Path
) -> Answer:
    written = Path(options.embedding).expanduser() if options.embedding else folder / MAP
    facts: dict[str, Any] = {
        "command": "fit",
        "model": str(folder),
        "map": str(written),
        "kind": type(model).__name__,
        "rows": rows.X.shape[0],
        "columns": rows.X.shape[1],
        "finished": finished,
        "seconds": seconds,
    }
    hint = "to fit it to the end, fit anew with --force"
    if isinstance(model, ParametricTSNE):
        facts["dimensions"] = model.embedding_.shape[1]
        facts["kl_divergence"] = model.kl_divergence_
        facts["stages"] = model.history_["seconds"]
        result = f"KL(P||Q) {model.kl_divergence_:.3f} nats after {duration(seconds)}"
        if not finished:
            facts["stopped"] = model.history_["stopped"]
            facts["resume"] = _resume_command(options, folder)
            hint = f"to go on: {facts['resume']}"
    else:
        facts |= {"r2": model.r2_, "correlation": model.correlation_}
        explained = max(model.r2_["held_out"], 0.0)
        result = f"{explained:.0%} of the variance of held-out rows' places is explained"
    lines = [result, f"model  {folder}", f"map    {written}"]
    if finished:
        return Answer(facts, "\n".join(lines))
    return Answer(facts, "\n".join([*lines, f"interrupted: the model works; {hint}"]), 130)


def _resume_command(options: Namespace, folder: Path) -> str:
    """Return the command that goes on, with the options that say which rows are meant."""
    words = ["ptsne", "fit", options.rows, "--out", str(folder), "--resume"]
    for name in _OF_ROWS:
        value = getattr(options, name)
        if isinstance(value, list):
            line = io.StringIO()
            csv.writer(line, lineterminator="").writerow(value)
            value = line.getvalue()
        words += [f"--{name}", value] if value else []
    words += ["--spreadsheet-safe"] if options.spreadsheet_safe else []
    words += ["--write-obsm", options.write_obsm] if options.write_obsm != maps.OBSM else []
    if options.header is not None:
        words.append("--header" if options.header else "--no-header")
    return shlex.join(words)
