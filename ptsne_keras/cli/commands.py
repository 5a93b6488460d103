"""What each command does: options in; what was done out, for machines and for people."""

import json
import math
import shlex
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptsne_keras import serving
from ptsne_keras.callbacks.progress import Meter, duration
from ptsne_keras.cli import drawing, fitting
from ptsne_keras.cli.drawing import choice, reading_for
from ptsne_keras.estimators import load, models
from ptsne_keras.estimators.map_regressor import MapRegressor
from ptsne_keras.estimators.parametric_tsne import ParametricTSNE
from ptsne_keras.io import outputs
from ptsne_keras.io.inputs import Reading

# What a MapRegressor knows of the options of `ptsne fit`.
_OF_MAPS = {
    "perplexity", "jitter", "exaggeration", "batch_size", "epochs", "random_state",
}  # fmt: skip


class Report(NamedTuple):
    """What a command has done."""

    facts: dict[str, Any]
    """What JSON can hold."""
    text: str
    code: int = 0
    """Exit status."""


def fit(options: Namespace) -> Report:
    """Fit a model: `ptsne fit`."""
    out = Path(options.out).expanduser()
    fitting.check_folder(out, force=options.force, resume=options.resume)
    embedding = None
    if options.embedding:
        embedding = outputs.check(options.embedding, option="--embedding")
    fitting.check_map(embedding or out / models.MAP, out, options.map)
    parameters = dict(options.parameters or {})
    model = _model(options, out, parameters)
    reading = Reading(options.rows, choice(options))
    rows = reading.read()
    _note_duplicates(rows.ids)
    n, features = rows.X.shape
    if not options.quiet:
        _note(f"{options.rows}: {n:,} rows of {features:,} columns")
    Y = None
    if options.map:
        Y = fitting.places(options.map, rows, options.map_id, options.map_columns)
    start = time.perf_counter()
    found = fitting.fit(
        model,
        rows,
        out,
        names=reading.names,
        Y=Y,
        resume=options.resume,
        embedding=embedding,
        replace=options.force,
    )
    seconds = time.perf_counter() - start
    options.out = str(found.folder)
    return _fit_report(options, model, (n, features), found.ended, seconds, embedding)


def _model(options: Namespace, out: Path, parameters: dict[str, Any]) -> models.Model:
    """Make the estimator, or load the unfinished one."""
    if options.resume:
        if options.map:
            raise ValueError("--resume should be without --map, whose fits cannot go on.")
        if options.paper:
            raise ValueError("--resume should be without --paper; the folder has the settings.")
        return fitting.resumed(out, parameters)
    parameters.setdefault("random_state", 0)
    parameters["verbose"] = 0 if options.quiet else 1
    of_maps = dict(options.map_parameters or {})
    if not options.map:
        if of_maps or options.map_id or options.map_columns:
            name = next(iter([*of_maps, "map_id" if options.map_id else "map_columns"]))
            raise ValueError(f"{name} should be left out without --map MAP, which it is for.")
        maker = ParametricTSNE.paper if options.paper else ParametricTSNE
        return maker(**parameters)
    foreign = sorted(set(parameters) - _OF_MAPS - {"verbose"})
    if foreign or options.paper:
        name = foreign[0] if foreign else "--paper"
        raise ValueError(f"{name} should be left out with --map, whose network is a fixed one.")
    if isinstance(parameters.get("perplexity"), tuple):
        raise ValueError("perplexity should be one number with --map.")
    return MapRegressor(**parameters, **of_maps)


def _fit_report(
    options: Namespace,
    model: models.Model,
    shape: tuple[int, int],
    ended: bool,
    seconds: float,
    embedding: Path | None,
) -> Report:
    file = str(embedding or Path(options.out) / models.MAP)
    facts: dict[str, Any] = {
        "command": "fit",
        "model": str(options.out),
        "map": file,
        "kind": type(model).__name__,
        "rows": shape[0],
        "columns": shape[1],
        "finished": ended,
        "seconds": seconds,
    }
    lines = []
    if isinstance(model, ParametricTSNE):
        facts |= {
            "dimensions": int(model.embedding_.shape[1]),
            "kl_divergence": float(model.kl_divergence_),
            "stages": model.history_["seconds"],
        }
        lines.append(f"KL(P||Q) {model.kl_divergence_:.3f} nats after {duration(seconds)}")
    else:
        facts |= {"r2": model.r2_, "correlation": model.correlation_}
        met = max(model.r2_["held_out"], 0.0)
        lines.append(f"{met:.0%} of the variance of held-out rows' places is met")
    lines += [f"model  {options.out}", f"map    {file}"]
    if ended:
        return Report(facts, "\n".join(lines))
    if isinstance(model, ParametricTSNE):
        facts["stopped"] = model.history_["stopped"]
        facts["resume"] = _resume_command(options)
        lines.append(f"interrupted: the model works; to go on: {facts['resume']}")
    else:
        lines.append("interrupted: the model works; to fit it to the end, fit anew with --force")
    return Report(facts, "\n".join(lines), 130)


def _resume_command(options: Namespace) -> str:
    """Give the command that goes on, with what says which rows are meant."""
    words = ["ptsne", "fit", options.rows, "--out", options.out, "--resume"]
    named = ("id", "label", "array", "layer", "obsm", "embedding")
    for name in named:
        if getattr(options, name):
            words += [f"--{name}", getattr(options, name)]
    for name in ("columns", "drop"):
        if getattr(options, name):
            words += [f"--{name}", ",".join(getattr(options, name))]
    return shlex.join(map(str, words))


def transform(options: Namespace) -> Report:
    """Place new rows on a map: `ptsne transform`."""
    out = outputs.check(options.out)
    model = load(options.model)
    novelty = options.novelty
    if novelty and not isinstance(model, MapRegressor):
        raise ValueError("--novelty should be with a model that was fitted with --map.")
    if novelty and out.suffix == ".npy":
        raise ValueError("--novelty should be with an --out that ends in .csv or .parquet.")
    reading = reading_for(model, options.rows, options)
    meter = None if options.quiet else Meter("transform", reading.count)
    start = time.perf_counter()

    def parts() -> Iterator[tuple[Any, dict[str, Any]]]:
        done = 0
        for rows in reading.blocks():
            found = fitting.named(rows)
            if novelty and isinstance(model, MapRegressor):
                found["novelty"] = model.novelty(rows.X)
            yield model.transform(rows.X), found
            done += rows.X.shape[0]
            if meter is not None:
                meter.update(done)

    count = outputs.write(out, parts())
    if meter is not None:
        meter.close()
    seconds = time.perf_counter() - start
    facts = {
        "command": "transform",
        "model": str(options.model),
        "out": str(out),
        "rows": count,
        "ignored": reading.ignored,
        "seconds": seconds,
    }
    return Report(facts, f"{count:,} rows in {seconds:.1f} s: {out}")


def evaluate(options: Namespace) -> Report:
    """Measure a map on training and on test rows: `ptsne evaluate`."""
    from ptsne_keras import evaluation

    model = load(options.model)
    train = reading_for(model, options.train, options).read()
    test = None if options.test is None else reading_for(model, options.test, options).read()
    results = evaluation.evaluate(
        model,
        train.X,
        None if test is None else test.X,
        labels=train.labels,
        labels_test=None if test is None else test.labels,
        pca=options.pca,
        k=options.k,
        neighbors=options.neighbors,
        seed=options.seed,
    )
    facts = {"command": "evaluate", "model": str(options.model), **results}
    return Report(facts, evaluation.table(results))


def export(options: Namespace) -> Report:
    """Write a model for a server or another runtime: `ptsne export`."""
    model = load(options.model)
    form = options.format
    if form != "savedmodel":
        for name in ("reference", "precision", "version"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name} should be left out with --format {form}.")
        write = serving.export_onnx if form == "onnx" else serving.export_litert
        path = write(model.encoder_, options.out)
    else:
        reference = None
        if options.reference is not None:
            reference = reading_for(model, options.reference, options).read().X
        path = serving.export_saved_model(
            model.encoder_,
            options.out,
            options.version,
            reference=reference,
            precision=options.precision or "float32",
            dof=getattr(model, "dof_", None),
        )
    facts = {
        "command": "export", "model": str(options.model), "format": form, "path": str(path),
    }  # fmt: skip
    return Report(facts, f"{form}  {path}")


def plot(options: Namespace) -> Report:
    """Draw a map, or how good it is: `ptsne plot`."""
    if options.kind is None:
        options.kind = "map" if options.test is None else "overlay"
    if options.test and options.kind not in ("overlay", "recall"):
        raise ValueError(
            f"--test should be with --kind overlay or recall. Received: {options.kind}."
        )
    if not options.out and not options.html:
        raise ValueError("--out should name a picture, or --html a page. Received: neither.")
    if options.html and options.kind != "map":
        raise ValueError(f"--html should be with --kind map. Received: {options.kind}.")
    facts: dict[str, Any] = {"command": "plot", "of": str(options.of), "kind": options.kind}
    subject = drawing.Subject(options)
    if options.out:
        facts["out"] = str(drawing.picture(subject, options))
    if options.html:
        facts["html"] = str(drawing.page(subject, options))
    return Report(facts, "\n".join(f"{k:<7}{facts[k]}" for k in ("out", "html") if k in facts))


def demo(options: Namespace) -> Report:
    """Fit digits, measure, draw and export: `ptsne demo`."""
    from ptsne_keras.cli import demo as shown

    outputs.check(options.picture, drawing.PICTURES, option="--picture")
    outputs.check_writable(Path(options.export).expanduser())
    # With --json nothing but the object goes to stdout.
    verbose = {"verbose": 0} if options.json or options.quiet else {}
    results = shown.run(options.picture, options.export, seed=options.seed, **verbose)
    return Report({"command": "demo", **results}, shown.table(results))


def dumps(facts: dict[str, Any]) -> str:
    """Give what was done as one line of JSON; what is no number there is null."""
    return json.dumps(_plain(facts), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _note(text: str) -> None:
    print(f"ptsne: {text}", file=sys.stderr, flush=True)


def _note_duplicates(ids: Any) -> None:
    if ids is not None and len(np.unique(ids)) < len(ids):
        warnings.warn("Some ids name several rows; the map keeps them all.", stacklevel=2)
