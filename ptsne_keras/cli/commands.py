"""The commands: each takes the options and returns an answer."""

import json
import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ptsne_keras import networks, serving
from ptsne_keras.callbacks.progress import Meter
from ptsne_keras.cli._common import (
    Answer,
    check_inputs_stay,
    check_output,
    load_model,
    reader_for,
)
from ptsne_keras.cli.fit import beside, fit
from ptsne_keras.cli.plot import PICTURES, plot
from ptsne_keras.estimators import Model, ParametricTSNE
from ptsne_keras.io import maps
from ptsne_keras.io.rows import Rows
from ptsne_keras.utils import files


def transform(options: Namespace) -> Answer:
    """Place new rows on a map: `ptsne transform`."""
    out = check_output(options.out, maps.endings(options.rows))
    model = load_model(options.model)
    _check_network(options, model)
    if options.inverse:
        return _inverse(options, model)
    alone = {"placement": False} if options.network else {}
    if options.novelty and out.suffix.lower() in (".npy", ".h5ad"):
        raise ValueError("--novelty should be with an --out that ends in .csv or .parquet.")
    reader = reader_for(model, options.rows, options)
    meter = Meter("transform", reader.count)
    start = time.perf_counter()

    def parts() -> Iterator[tuple[Any, dict[str, Any]]]:
        done = 0
        for rows in reader.blocks():
            columns = beside(rows)
            if options.novelty:
                columns["novelty"] = model.novelty(rows.X)
            yield model.transform(rows.X, **alone), columns
            done += rows.X.shape[0]
            if not options.quiet:
                meter.update(done)

    source = {"source": options.rows, "obsm": options.write_obsm}
    count = maps.write(out, parts(), spreadsheet_safe=options.spreadsheet_safe, **source)
    if not options.quiet:
        meter.close()
    facts = {
        "command": "transform",
        "model": str(options.model),
        "out": str(out),
        "rows": count,
        "ignored": reader.ignored,
        "seconds": time.perf_counter() - start,
    }
    return Answer(facts, f"{count:,} rows in {facts['seconds']:.1f} s: {out}")


def _inverse(options: Namespace, model: Model) -> Answer:
    """Write the rows that lie at places of a map: `ptsne transform --inverse`."""
    import pandas

    if not isinstance(model, ParametricTSNE) or model.decoder_ is None:
        raise ValueError("--inverse should be with a model fitted with --decoder.")
    unused = {name: getattr(options, name) for name in ("novelty", "drop", "array", "layer")}
    for name, given in {**unused, "no-placement": options.network}.items():
        if given:
            raise ValueError(f"--{name} should be left out with --inverse.")
    out = check_output(options.out, maps.ENDINGS)
    names = ("columns", "obsm", "header", "delimiter", "decimal", "thousands")
    layout = {name: getattr(options, name) for name in names}
    places = maps.read(options.rows, ids=options.id, labels=options.label, **layout)
    columns = getattr(model, "feature_names_in_", range(1, model.n_features_in_ + 1))
    found = pandas.DataFrame(model.inverse_transform(places.Y), columns=list(map(str, columns)))
    kept = beside(places)
    if options.label is None:
        kept.pop("label", None)
    count = maps.write(out, [(found, kept)], spreadsheet_safe=options.spreadsheet_safe)
    facts = {"command": "transform", "model": str(options.model), "out": str(out), "rows": count}
    return Answer(facts, f"{count:,} rows: {out}")


def _check_network(options: Namespace, model: Model) -> None:
    """Raise if a network is asked for that the model does not have."""
    if options.network and not isinstance(model, ParametricTSNE):
        raise ValueError("--no-placement should be left out for a model fitted with --map.")


def evaluate(options: Namespace) -> Answer:
    """Measure a map on training and on test rows: `ptsne evaluate`."""
    from ptsne_keras import evaluation

    model = load_model(options.model)
    train, test = (
        reader_for(model, path, options).read() if path else Rows(None, None, None)
        for path in (options.train, options.test)
    )
    results = evaluation.evaluate(
        model,
        train.X,
        test.X,
        labels=train.labels,
        labels_test=test.labels,
        pca=options.pca,
        n_neighbors=options.n_neighbors,
        recall_neighbors=options.recall_neighbors,
        sample_size=options.sample_size,
        random_state=options.seed,
    )
    facts = {"command": "evaluate", "model": str(options.model), **results}
    facts["summary"] = evaluation.summary(results)
    return Answer(facts, f"{evaluation.table(results)}\n\n{facts['summary']}")


def export(options: Namespace) -> Answer:
    """Write a model for a server or another runtime: `ptsne export`."""
    form = options.format
    meant = {".onnx": "onnx", ".tflite": "litert"}.get(Path(options.out).suffix.lower())
    if form == "savedmodel" and meant:
        raise ValueError(
            f"--out should be a folder for a SavedModel; for this file give --format {meant}. "
            f"Received: {options.out}."
        )
    model = load_model(options.model)
    _check_network(options, model)
    encoder = model.network_ if options.network else model.encoder_
    placed = isinstance(encoder.layers[-1], networks.Placement)
    if options.reference_size is not None and not placed:
        raise ValueError("--reference-size should be left out for a network alone.")
    of_saved_model = ("reference", "precision", "version")
    given = [name for name in of_saved_model if getattr(options, name) is not None]
    if form != "savedmodel" and given:
        raise ValueError(f"--{given[0]} should be left out with --format {form}.")
    size = {} if options.reference_size is None else {"reference_size": options.reference_size}
    if form != "savedmodel":
        write = serving.export_onnx if form == "onnx" else serving.export_litert
        path = write(encoder, options.out, **size)
    else:
        rows = options.reference and reader_for(model, options.reference, options).read()
        path = serving.export_saved_model(
            encoder,
            options.out,
            options.version,
            reference=rows and rows.X,
            precision=options.precision or "float32",
            dof=getattr(model, "dof_", None),
            decoder=model.decoder_,
            feature_names_out=model.get_feature_names_out(),
            **size,
        )
    facts = {"command": "export", "model": str(options.model), "format": form, "path": str(path)}
    return Answer(facts, f"{form}  {path}")


def demo(options: Namespace) -> Answer:
    """Fit digits, measure, draw and export: `ptsne demo`."""
    from ptsne_keras.cli import demo as on_digits

    check_output(options.picture, PICTURES, option="--picture")
    files.check_writable(Path(options.export).expanduser())
    # With --json nothing but the object goes to stdout.
    verbose = {"verbose": 0} if options.json or options.quiet else {}
    results = on_digits.run(options.picture, options.export, seed=options.seed, **verbose)
    return Answer({"command": "demo", **results}, on_digits.table(results))


COMMANDS: dict[str, Callable[[Namespace], Answer]] = {
    "fit": fit,
    "transform": transform,
    "evaluate": evaluate,
    "export": export,
    "plot": plot,
    "demo": demo,
}


def run(options: Namespace) -> Answer:
    """Run the command that the options name."""
    check_inputs_stay(options)
    return COMMANDS[options.command](options)


def dumps(facts: dict[str, Any]) -> str:
    """Return facts as one line of JSON; NaN and infinity become null."""
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
