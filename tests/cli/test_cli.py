"""The command line: what it writes and says, in-process on tiny fits; Ctrl-C in a process."""

import contextlib
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas
import pytest
import tensorflow as tf
from support.processes import disk_calls, until
from support.tables import KINDS, NAMES, table

from ptsne_keras import MapRegressor, ParametricTSNE, cli, evaluation, plotting, serving
from ptsne_keras.cli import _help, commands, fit
from ptsne_keras.estimators import _fit_decoder
from ptsne_keras.estimators.scoring import ScoredRows
from ptsne_keras.io.rows import Choice, Reader
from ptsne_keras.utils import files

# An epoch is one batch, so that a fit is over in a second.
QUICK = ["--epochs", "10", "--hidden-units", "20", "--perplexity", "5", "--sampling", "batch"]
NAMED = ["--id", "sample", "--label", "kind"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with rows, and models that have been fitted on them."""
    folder = tmp_path_factory.mktemp("cli")
    X = np.random.default_rng(0).normal(size=(90, 5)).astype("float32")
    table(X).to_csv(folder / "train.csv", index=False)
    np.save(folder / "rows.npy", X)
    np.save(folder / "ids.npy", np.arange(90) // 2)
    with contextlib.chdir(folder):
        assert cli.main(["fit", "train.csv", "--out", "map", *NAMED, *QUICK, "--quiet"]) == 0
        assert cli.main(["fit", "rows.npy", "--out", "plain", *QUICK, "--quiet"]) == 0
        placed = ["--map", "map/map.csv", "--n-neighbors", "9", "--n-jobs", "1"]
        with open("placed.json", "w") as out, contextlib.redirect_stdout(out):
            assert cli.main(["fit", "train.csv", "--out", "placed", *NAMED, *placed, "--json"]) == 0
    return folder


@pytest.fixture(scope="module")
def both(folder):
    """The folder of a model that also goes back to rows."""
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fit_decoder, "_PASSES", (5, 5))
        words = ["fit", "train.csv", "--out", "both", *NAMED, *QUICK, "--decoder", "--quiet"]
        assert cli.main(words) == 0
    return folder / "both"


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def at_once(here, monkeypatch):
    """Let each fit of ParametricTSNE end at once, with the state of a fitted model."""
    state = vars(ParametricTSNE.load("map"))
    monkeypatch.setattr(ParametricTSNE, "fit", lambda self, X, **_: vars(self).update(state))


def run(*words, code=0):
    assert cli.main([str(word) for word in words]) == code


def answer(capsys):
    """The one JSON object on stdout."""
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_fit_writes_a_model_and_the_map_of_its_rows(here):
    tsne = ParametricTSNE.load("map")
    assert tsne.feature_names_in_.tolist() == NAMES
    written = pandas.read_csv("map/map.csv")
    assert written.columns.tolist() == ["id", "label", "x", "y"]
    assert written["id"].tolist() == [f"s{i}" for i in range(90)]
    assert written["label"].tolist() == KINDS.tolist()
    # As many digits as float32 has.
    assert np.array_equal(written[["x", "y"]].to_numpy(np.float32), tsne.embedding_)
    assert (tsne.epochs, tsne.perplexity, tsne.hidden_units) == (10, 5.0, (20,))


def test_cells_go_in_and_out(tmp_path, rng, capsys):
    anndata = pytest.importorskip("anndata")
    file, words = tmp_path / "cells.h5ad", ["--obsm", "X_pca", "--quiet"]
    cells = anndata.AnnData(np.zeros((40, 2)), obsm={"X_pca": rng.normal(size=(40, 4))})
    cells.write_h5ad(file)
    fit = ["--embedding", tmp_path / "mapped.h5ad", "--out", tmp_path / "model", *QUICK]
    run("fit", file, *fit, *words, "--write-obsm", "X_new")
    tsne = ParametricTSNE.load(tmp_path / "model")
    found = anndata.read_h5ad(tmp_path / "mapped.h5ad")
    np.testing.assert_array_equal(found.obsm["X_new"], tsne.embedding_)
    run("transform", tmp_path / "model", file, "--out", tmp_path / "new.h5ad", *words)
    found = anndata.read_h5ad(tmp_path / "new.h5ad")
    np.testing.assert_array_equal(found.obsm["X_ptsne"], tsne.transform(cells.obsm["X_pca"]))
    run("transform", tmp_path / "model", file, "--out", file, *words, code=2)
    assert "--out should not be a file that the command reads" in capsys.readouterr().err


def test_classes_may_draw_the_map(here, tmp_path, capsys):
    words = ["--label-weight", 0.5, *QUICK, "--quiet"]
    run("fit", "train.csv", "--out", tmp_path / "new", *words, *NAMED)
    assert ParametricTSNE.load(tmp_path / "new").label_weight == 0.5
    run("fit", "rows.npy", "--out", tmp_path / "other", *words, code=2)
    assert "--label-weight should be left out without --label" in capsys.readouterr().err


def test_fit_says_in_json_what_it_did_and_its_progress_on_stderr(here, capsys, tmp_path):
    file = tmp_path / "map.parquet"
    words = [*QUICK, "--json", "--dimensions", 3, "--embedding", file, "--id", "ids.npy"]
    run("fit", "rows.npy", "--out", tmp_path / "new", *words)
    shown = capsys.readouterr()
    facts = json.loads(shown.out)
    assert (facts["rows"], facts["columns"], facts["dimensions"]) == (90, 5, 3)
    assert facts["finished"] is True
    tsne = ParametricTSNE.load(facts["model"])
    assert facts["kl_divergence"] == tsne.kl_divergence_
    assert facts["map"] == str(file)
    assert pandas.read_parquet(file).columns.tolist() == ["id", "x", "y", "z"]
    assert not (tmp_path / "new" / "map.csv").exists()
    assert "90 rows of 5 columns" in shown.err
    assert "ptsne: warning: Some ids name several rows" in shown.err
    assert re.search(r"900 of 900 rows, 100 %, [\d,]+ rows/s", shown.err)


def test_a_model_is_not_replaced_unless_that_is_asked_for(here, tmp_path, capsys):
    out = tmp_path / "new"
    shutil.copytree("map", out)
    before = (out / "model.json").read_bytes()
    run("fit", "rows.npy", "--out", out, *QUICK, "--quiet", code=2)
    assert "--force" in capsys.readouterr().err
    assert (out / "model.json").read_bytes() == before
    run("fit", "rows.npy", "--out", out, *QUICK, "--quiet", "--force")
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "KL(P||Q)" in shown.out
    assert str(out / "map.csv") in shown.out
    again, first = ParametricTSNE.load(out), ParametricTSNE.load("plain")
    assert (out / "model.json").read_bytes() != before
    # The seed is 0 unless it is given.
    np.testing.assert_allclose(again.embedding_, first.embedding_, atol=1e-4)


@pytest.mark.parametrize("form", [".csv", ".npy", ".parquet"])
def test_transform_places_rows_as_python_does(form, here, frame, X, tmp_path, capsys):
    # Other order of columns, and one too many.
    frame[frame.columns[::-1]].assign(more="text").to_csv("new.csv", index=False)
    out = tmp_path / f"out{form}"
    run("transform", "map", "new.csv", "--id", "sample", "--out", out, "--json")
    shown = capsys.readouterr()
    facts = json.loads(shown.out)
    assert (facts["rows"], facts["ignored"]) == (90, ["kind", "more"])
    assert "ptsne: warning: new.csv: ignoring 2 columns that the model was not" in shown.err
    Y = ParametricTSNE.load("map").encoder_(X)
    if form == ".npy":
        found = np.load(out)
    else:
        table = pandas.read_csv(out) if form == ".csv" else pandas.read_parquet(out)
        assert table["id"].tolist() == frame["sample"].tolist()
        found = table[["x", "y"]].to_numpy()
    np.testing.assert_allclose(found, Y, rtol=1e-4, atol=1e-5)


def test_transform_goes_block_by_block_and_leaves_nothing_half_written(
    here, frame, tmp_path, monkeypatch, capsys
):
    words = ["--id", "sample", "--drop", "kind", "--quiet", "--out"]
    run("transform", "map", "train.csv", *words, tmp_path / "whole.csv")
    monkeypatch.setattr("ptsne_keras.io.tables._CELLS", 7 * 20)
    sizes = []
    real = ParametricTSNE.transform
    monkeypatch.setattr(
        ParametricTSNE, "transform", lambda self, X: sizes.append(len(X)) or real(self, X)
    )
    run("transform", "map", "train.csv", *words, tmp_path / "parts.csv")
    assert sizes == [20, 20, 20, 20, 10]
    whole, parts = (pandas.read_csv(tmp_path / f"{name}.csv") for name in ("whole", "parts"))
    pandas.testing.assert_frame_equal(whole, parts, rtol=1e-4)
    frame.loc[70, "b"] = np.nan
    frame.to_csv(tmp_path / "bad.csv", index=False)
    (tmp_path / "out").mkdir()
    run("transform", "map", tmp_path / "bad.csv", *words, tmp_path / "out" / "new.csv", code=2)
    assert list((tmp_path / "out").iterdir()) == []
    assert "NaN in row 71, column 'b'" in capsys.readouterr().err


def test_places_go_back_to_rows(here, both, tmp_path, capsys):
    tsne, back = ParametricTSNE.load(both), tmp_path / "rows.csv"
    run("transform", both, both / "map.csv", "--inverse", "--out", back)
    found = pandas.read_csv(back)
    assert found.columns.tolist() == ["id", *NAMES]
    assert found["id"].tolist() == [f"s{i}" for i in range(90)]
    np.testing.assert_allclose(found[NAMES], tsne.inverse_transform(tsne.embedding_), rtol=1e-3)
    run("export", both, "--out", tmp_path / "served")
    assert "inverse" in tf.saved_model.load(str(tmp_path / "served/1")).signatures
    names = serving.checks.facts(tmp_path / "served/1")["feature_names_out"]
    assert names == ["parametrictsne0", "parametrictsne1"]
    capsys.readouterr()
    for model in ("map", "placed"):
        run("transform", model, "map/map.csv", "--inverse", "--out", back, code=2)
        assert "--inverse should be with a model fitted with --decoder" in capsys.readouterr().err


def test_places_are_read_and_rows_written_as_the_options_say(here, both, tmp_path, capsys):
    text = tmp_path / "p.csv"
    words = ["transform", both, text, "--inverse"]
    text.write_text("kind;x;y\n=a;1.500;2.000\n=b;1.250;3.500\n")
    marks = ["--delimiter", ";", "--decimal", ".", "--label", "kind"]
    run(*words, "--out", tmp_path / "r.csv", *marks, "--spreadsheet-safe")
    found = pandas.read_csv(tmp_path / "r.csv")
    assert found["label"].tolist() == ["'=a", "'=b"]
    expected = ParametricTSNE.load(both).inverse_transform([[1.5, 2], [1.25, 3.5]])
    np.testing.assert_allclose(found[NAMES], expected, rtol=1e-4, atol=1e-6)
    capsys.readouterr()
    for option in ("--novelty", "--no-placement"):
        run(*words, "--out", tmp_path / "r.csv", option, code=2)
        assert f"{option} should be left out with --inverse" in capsys.readouterr().err


def test_a_file_in_a_folder_of_rows_is_not_written_over(here, frame, tmp_path, capsys):
    frame.to_parquet(tmp_path / "a.parquet")
    for name in ("a.parquet", "new.parquet"):
        run("transform", "map", tmp_path, "--out", tmp_path / name, code=2)
        assert "--out should not be a file that the command reads" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_a_map_that_one_has(here, frame, tmp_path, capsys):
    placed = MapRegressor.load("placed")
    written = pandas.read_csv("placed/map.csv")
    assert written.columns.tolist() == ["id", "label", "x", "y"]
    facts = json.loads(Path("placed.json").read_text())
    assert facts["kind"] == "MapRegressor"
    assert facts["r2"] == placed.r2_
    # The rows of the map in another order are matched by their names.
    pandas.read_csv("map/map.csv").iloc[::-1].to_csv(tmp_path / "back.csv", index=False)
    rows = Reader("train.csv", Choice(ids="sample", labels="kind")).read()
    Y = fit.places(tmp_path / "back.csv", rows, None, None)
    np.testing.assert_array_equal(Y, ParametricTSNE.load("map").embedding_)
    np.savetxt(tmp_path / "R.csv", Y, delimiter=",", header='"V1","V2"', comments="")
    other = fit.places(tmp_path / "R.csv", rows, None, None)
    np.testing.assert_allclose(other, Y, rtol=1e-6)
    run("transform", "placed", "train.csv", "--out", tmp_path / "t.csv", "--novelty", "--quiet")
    table = pandas.read_csv(tmp_path / "t.csv")
    assert table.columns.tolist() == ["x", "y", "novelty"]
    expected = placed.novelty(frame[NAMES].to_numpy("float32"))
    np.testing.assert_allclose(table["novelty"], expected, atol=1e-5)


def test_a_map_that_is_numbered_anew_is_asked_about(here, tmp_path, capsys):
    X, order = np.load("rows.npy"), np.roll(np.arange(90), 1)
    pandas.DataFrame(X, order).to_csv(tmp_path / "rows.csv")
    pandas.DataFrame(X[:, :2]).to_csv(tmp_path / "map.csv")
    words = ["fit", tmp_path / "rows.csv", "--map", tmp_path / "map.csv", "--quiet", "--out"]
    run(*words, tmp_path / "none", code=2)
    assert "--match should be 'id' or 'position' where" in capsys.readouterr().err
    for match, expected in (("position", X[:, :2]), ("id", X[order, :2])):
        run(*words, tmp_path / match, "--match", match)
        found = pandas.read_csv(tmp_path / match / "map.csv")
        np.testing.assert_allclose(found[["x", "y"]], expected, atol=1e-4)


def test_ids_that_a_spreadsheet_would_run_are_quoted_if_asked(here, tmp_path):
    ids = ["=1+1", "-2", *map(str, range(88))]
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    words = ["transform", "plain", "rows.npy", "--id", tmp_path / "ids.txt", "--quiet", "--out"]
    for more, first in (([], "=1+1"), (["--spreadsheet-safe"], "'=1+1")):
        run(*words, tmp_path / "map.csv", *more)
        assert pandas.read_csv(tmp_path / "map.csv", dtype=str)["id"].tolist() == [first, *ids[1:]]


def test_evaluate_measures_training_and_test_rows(here, capsys, monkeypatch):
    calls = []

    def evaluate(model, X, X_test=None, **options):
        calls.append((model, X, X_test, options))
        return {"rows": {"training": len(X), "test": len(X_test)}, "k": options["n_neighbors"]}

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(evaluation, "table", lambda results: f"k = {results['k']}")
    monkeypatch.setattr(evaluation, "summary", lambda results: "Good.")
    words = ["--train", "train.csv", "--test", "train.csv", *NAMED]
    run("evaluate", "map", *words, "--n-neighbors", 7, "--no-pca")
    assert capsys.readouterr().out == "k = 7\n\nGood.\n"
    run("evaluate", "map", *words, "--json")
    assert (told := answer(capsys))["summary"] == "Good."
    assert told["rows"] == {"training": 90, "test": 90}
    (model, X, X_test, options), _ = calls
    assert isinstance(model, ParametricTSNE)
    assert X.shape == X_test.shape == (90, 5)
    assert options["labels"].tolist() == options["labels_test"].tolist() == KINDS.tolist()
    assert options["pca"] is False


@pytest.mark.slow
def test_export_writes_for_a_server_and_other_runtimes(here, tmp_path, capsys, X):
    words = ["--reference", "train.csv", "--precision", "bfloat16", "--json"]
    run("export", "map", "--out", tmp_path / "served", *words)
    path = answer(capsys)["path"]
    assert path == str(tmp_path / "served" / "1")
    assert serving.check(path).ok
    run("export", "map", "--out", tmp_path / "part", "--reference-size", 20)
    assert serving.checks.facts(tmp_path / "part" / "1")["reference_rows"] <= 20
    run("export", "plain", "--out", tmp_path / "map.tflite", "--format", "litert")
    assert (tmp_path / "map.tflite").stat().st_size > 1000
    assert str(tmp_path / "map.tflite") in capsys.readouterr().out


def test_plot_draws_a_model_a_map_and_test_rows(here, tmp_path, capsys, monkeypatch):
    drawn = []
    real = plotting.scatter

    def draw(Y, labels=None, **options):
        drawn.append((Y, labels))
        return real(Y, labels, **options)

    monkeypatch.setattr(plotting, "scatter", draw)
    for of in ("map", "map/map.csv"):
        run("plot", of, "--out", tmp_path / "map.png", "--title", "Mine")
        Y, labels = drawn.pop()
        np.testing.assert_allclose(Y, ParametricTSNE.load("map").embedding_, atol=1e-6)
        assert labels.tolist() == KINDS.tolist()
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    words = ["--kind", "overlay", "--out", tmp_path / "o.svg"]
    run("plot", "map", "--test", "train.csv", *NAMED, *words)
    run("plot", "map", "--test", "train.csv", "--id", "sample", *words)
    run("transform", "map", "train.csv", "--id", "sample", "--out", tmp_path / "m.parquet")
    run("plot", tmp_path / "m.parquet", "--out", tmp_path / "m.png")
    assert (tmp_path / "o.svg").read_text().startswith("<?xml")
    run("plot", "map", "--kind", "kl", "--out", tmp_path / "kl.pdf", "--json")
    assert (tmp_path / "kl.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("kind", ["kl", "shepard", "recall", "quality", "html"])
def test_plot_gives_each_picture_what_it_wants(kind, here, tmp_path, monkeypatch):
    name = {"kl": "kl_curve", "recall": "recall_curve", "quality": "point_quality"}.get(kind, kind)
    calls = []

    def draw(*arguments, **options):
        calls.append((arguments, options))
        return arguments[1].write_text("<html>") if kind == "html" else plt.subplots()[1]

    monkeypatch.setattr(plotting, name, draw)
    if kind == "html":
        run("plot", "map", "--html", tmp_path / "p.html", "--title", "Mine")
    else:
        named = [*NAMED, "--rows", "train.csv"]
        named += ["--test", "train.csv"] if kind == "recall" else []
        run("plot", "map", *named, "--kind", kind, "--out", tmp_path / "p.png")
    ((arguments, options),) = calls
    if kind == "kl":
        assert "finetune" in arguments[0]
    elif kind == "html":
        Y, _, labels = arguments
        assert (Y.shape, labels[0], options["names"][0]) == ((90, 2), "left", "s0")
        assert options["title"] == "Mine"
        assert [file.name for file in tmp_path.iterdir()] == ["p.html"]
    else:
        assert [a.shape for a in arguments] == [(90, 5), (90, 2)]
        assert sorted(options) == (["X_test", "Y_test"] if kind == "recall" else [])


def test_a_page_without_bokeh_is_refused_at_once(here, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "bokeh", None)
    run("plot", "map", "--out", tmp_path / "p.png", "--html", tmp_path / "p.html", code=1)
    assert "--html needs bokeh: pip install 'ptsne_keras[plots]'" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


FIT = "fit rows.npy --out new --quiet "
READ = " should not be a file that the command reads"
WRONG = {
    "no rows": ("fit none.npy --out new", "file that exists"),
    "kind of file": ("fit map --out new", "map should be a file, or a folder of .parquet"),
    "column": ("fit train.csv --out new", "--id or --label. Received: 's0' in line 2"),
    "label": (FIT + "--label kind", "--label should be one of"),
    "range": (FIT + "--perplexity 0.5", "--perplexity should be a float in"),
    "too large": (FIT + "--perplexity 100", "--perplexity should be below"),
    "word": (FIT + "--sampling none", "--sampling should be a str among"),
    "own name": (FIT + "--dimensions 0", "--dimensions should be an int in"),
    "map option": (FIT + "--patience 3", "--patience should be left out without --map"),
    "foreign": (FIT + "--map map/map.csv --sampling batch", "--sampling should be left"),
    "map of others": (FIT + "--map none.csv", "path should be a file with a map"),
    "no curves": ("plot placed --kind kl --out k.png", "a model that was trained"),
    "nothing to resume": (FIT + "--resume", "--resume should be of a model folder"),
    "finished": ("fit rows.npy --out plain --resume", "plain, which is finished"),
    "resume a map": ("fit rows.npy --out placed --resume", "a fit without --map"),
    "no model": ("transform none rows.npy --out o.csv", "MODEL should be a folder that"),
    "width": ("transform map map/map.csv --out o.csv", "none called 'a', 'b'"),
    "width without names": ("transform plain rows.npy --drop 5 --out o.csv", "have the 5 columns"),
    "format": ("transform map rows.npy --out o.txt", ".csv, .npy, .parquet"),
    "network": (
        "transform placed rows.npy --out o.csv --no-placement",
        "a model fitted with --map",
    ),
    "columns of the map": (FIT + "--map train.csv", "--map-columns should name those with coord"),
    "match": (FIT + "--match id", "--match should be left out without --map"),
    "match without names": (FIT + "--map rows.npy --match id", "a map that has names: --map-id"),
    "formulas": ("transform map train.csv --out o.npy --spreadsheet-safe", "--spreadsheet-safe"),
    "ids of a map": (FIT + "--map map/map.csv --map-id name", "--map-id should be one of"),
    "no header": (FIT + "--columns 7", "--columns should be among"),
    "delimiter": (FIT + "--delimiter ||", "--delimiter should be one character"),
    "no picture": ("plot map", "--out should name a picture"),
    "kind of picture": ("plot map --out map.bmp", ".png, .svg, .pdf"),
    "overlay": ("plot map --kind overlay --out o.png", "--test should give rows"),
    "shepard": ("plot map --kind shepard --out o.png", "--rows should give the rows"),
    "rows": ("plot map/map.csv --rows train.csv --out o.png", "a model folder"),
    "coordinates": ("plot train.csv --out o.png", "--columns should name those with coo"),
    "label of no rows": ("plot map --label kind --out o.png", "--label should be with"),
    "test": ("plot map --test train.csv --kind map --out o.png", "--test should be with"),
    "demo": ("demo --picture map.txt", "--picture should be a file"),
    "export": ("export map --out x.onnx --format onnx --reference train.csv", "with --format onnx"),
    "export without --format": ("export map --out x.onnx", "give --format onnx. Received: x.onnx"),
    "activation": (FIT + "--activation foo", "--activation should be one of auto, celu,"),
    "optimizer": (FIT + "--optimizer sgd", "'}. Received: 'sgd'"),
    "exists": ("export map --out train.csv --format litert", "train.csv"),
    "an input": ("transform map train.csv --out train.csv", "--out" + READ),
    "its ids": ("transform map train.csv --id ids.npy --out ids.npy", "--out" + READ),
    "its rows": ("fit train.csv --out n --embedding train.csv", "--embedding" + READ),
    "its map": (FIT + "--map map/map.csv --embedding map/map.csv", "--embedding" + READ),
    "in the folder": ("fit map/map.csv --out map --force", "--embedding" + READ),
    "reference": ("export map --reference train.csv --out train.csv", "--out" + READ),
    "drawn map": ("plot map/map.csv --html map/map.csv", "--html" + READ),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_and_exit_2(words, said, here, capsys):
    before = sorted(map(str, here.rglob("*")))
    run(*words.split(), "--json", code=2)
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("ptsne: error:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert json.loads(shown.out)["error"] == lines[0].removeprefix("ptsne: error: ")
    assert sorted(map(str, here.rglob("*"))) == before


def test_work_that_fails_is_exit_1(here, at_once, capsys, monkeypatch, tmp_path):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    run("fit", "rows.npy", "--out", tmp_path / "new", *QUICK, "--quiet", code=1)
    assert "could not be written: the disk is full; free space" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("PTSNE_DEBUG", "1")
    run("transform", "none", "rows.npy", "--out", "o.csv", code=2)
    assert "Traceback" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_refused_before_the_fit(here, at_once, capsys):
    if not Path("/proc/self").exists():
        pytest.skip("no folder that even root cannot write to")
    run("fit", "rows.npy", "--out", "/proc/x/new", *QUICK, code=1)
    assert capsys.readouterr().err.startswith("ptsne: error: /proc should be a folder you can wri")


def test_help_reads_like_a_page_and_needs_no_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['pandas'] = None\n"
        "from ptsne_keras import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    for words in ([], ["fit"], ["transform"], ["evaluate"], ["export"], ["plot"], ["demo"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--help"],
            capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"},
        )  # fmt: skip
        assert max(map(len, done.stdout.splitlines())) <= 80
        if not words:
            for part in ("A session", "rows, the input", "exit codes", "PTSNE_DEBUG", "130"):
                assert part in done.stdout
        elif words != ["demo"]:
            assert "examples\n" in done.stdout
    done = subprocess.run(
        [sys.executable, "-c", code, "transform", "map", "rows.npy", "--out", "o.csv"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install 'ptsne_keras[cpu]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_leaves_a_model_that_works_and_goes_on(here, tmp_path, capsys):
    out = tmp_path / "new"
    words = ["fit", here / "train.csv", "--out", out, *NAMED]
    slow = [*QUICK, "--epochs", "100000"]
    terminal, stderr = pty.openpty()
    command = [sys.executable, "-m", "ptsne_keras", *map(str, words), *slow, "--json"]
    root = str(Path(cli.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    pipes = {"stdout": subprocess.PIPE, "stderr": stderr, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)
    os.close(stderr)
    err = ""
    try:
        while "rows/s" not in err:  # training has begun; a process that ends raises OSError
            err += os.read(terminal, 4096).decode()
        process.send_signal(signal.SIGINT)
        out_text, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert "90 rows of 5 columns" in err
    assert re.search(r"\d+ of 9,000,000 rows, \d+ %, [\d,]+ rows/s, \d+:\d\d", err)
    err += os.read(terminal, 4096).decode()
    os.close(terminal)
    assert process.returncode == 130, err
    facts = json.loads(out_text)
    assert facts["finished"] is False
    assert 0 < facts["stopped"] < 100_000
    assert facts["resume"].startswith("ptsne fit ")
    assert "stopping after this step" in err
    run("transform", out, here / "train.csv", "--out", tmp_path / "t.csv", "--quiet")
    tsne = ParametricTSNE.load(out)
    placed = pandas.read_csv(tmp_path / "t.csv")[["x", "y"]]
    np.testing.assert_allclose(placed, tsne.embedding_, atol=1e-4)
    # Other rows and other parameters are refused, and the model stays.
    capsys.readouterr()
    run("fit", here / "rows.npy", "--out", out, "--resume", "--perplexity", 6, "--quiet", code=2)
    assert "--perplexity should be left out with --resume, or be 5.0" in capsys.readouterr().err
    shuffled = pandas.read_csv(here / "train.csv").iloc[::-1]
    shuffled.to_csv(tmp_path / "train.csv", index=False)
    run("fit", tmp_path / "train.csv", *words[2:], "--resume", "--quiet", code=2)
    assert "X should be the rows of the unfinished fit" in capsys.readouterr().err
    # A little is left to do, so that the test does not wait for the rest.
    tsne._left = tsne._left._replace(epochs=99_998)
    tsne.save(out)
    run(*facts["resume"].split()[1:], "--quiet")
    again = ParametricTSNE.load(out)
    assert "stopped" not in again.history_
    assert not np.array_equal(again.embedding_, tsne.embedding_)
    assert again.feature_names_in_.tolist() == NAMES


def test_ctrl_c_before_training_leaves_nothing(here, tmp_path, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("ptsne_keras.estimators._fit_stages._batches", interrupt)
    run("fit", "rows.npy", "--out", tmp_path / "new", *QUICK, "--quiet", "--json", code=130)
    shown = capsys.readouterr()
    assert shown.err == "ptsne: interrupted; nothing was written\n"
    assert "nothing was written" in json.loads(shown.out)["error"]
    assert not (tmp_path / "new").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_a_fit_to_a_map(times, here, tmp_path, monkeypatch, capsys):
    import keras

    real = keras.Model.make_train_function

    def interrupting(self, *arguments, **options):
        function = real(self, *arguments, **options)
        step = self.train_function

        def once(iterator):
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            return step(iterator)

        self.train_function = once
        return function

    monkeypatch.setattr(keras.Model, "make_train_function", interrupting)
    words = ["--map", "map/map.csv", "--objective", "squares", *NAMED, "--quiet"]
    out = tmp_path / "new"
    run("fit", "train.csv", *words, "--epochs", 50, "--out", out, code=130)
    shown = capsys.readouterr()
    if times == 2:
        assert not out.exists()
        assert "nothing was written" in shown.err
        return
    assert "fit anew with --force" in shown.out
    run("transform", out, "train.csv", "--out", tmp_path / "t.csv", "--quiet")
    assert np.isfinite(pandas.read_csv(tmp_path / "t.csv")).all(axis=None)


def test_somebodys_own_map_is_not_written_over(here, tmp_path, capsys):
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy("map/map.csv", own)
    before = (own / "map.csv").read_bytes()
    words = ["fit", "train.csv", *NAMED, *QUICK, "--quiet", "--force"]
    run(*words, "--out", own, code=2)
    assert "a folder without a map.csv" in capsys.readouterr().err
    assert (own / "map.csv").read_bytes() == before
    assert os.listdir(own) == ["map.csv"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_fails_while_saving_leaves_the_old_model_and_its_map(
    error, here, at_once, tmp_path, monkeypatch
):
    old = shutil.copytree("map", tmp_path / "map")
    before = {file.name: file.read_bytes() for file in Path(old).iterdir()}

    def fail(*arguments):
        raise error

    monkeypatch.setattr("ptsne_keras.io.maps._write_csv", fail)
    code = 130 if error is KeyboardInterrupt else 1
    words = ["fit", "train.csv", *NAMED, *QUICK, "--quiet"]
    run(*words, "--out", old, "--force", code=code)
    run(*words, "--out", tmp_path / "new", code=code)
    assert {file.name: file.read_bytes() for file in Path(old).iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_two_fits_into_one_folder_both_stay(here, at_once, tmp_path, monkeypatch, capsys):
    real = ParametricTSNE.fit

    def slower(self, *arguments, **options):
        shutil.copytree("plain", tmp_path / "one", dirs_exist_ok=True)  # the other was quicker
        return real(self, *arguments, **options)

    monkeypatch.setattr(ParametricTSNE, "fit", slower)
    run("fit", "rows.npy", "--out", tmp_path / "one", *QUICK, "--json")
    shown = capsys.readouterr()
    assert json.loads(shown.out)["model"] == str(tmp_path / "one-2")
    assert json.loads(shown.out)["map"] == str(tmp_path / "one-2" / "map.csv")
    assert "ptsne: warning:" in shown.err
    for name in ("one", "one-2"):
        ParametricTSNE.load(tmp_path / name)


def test_a_fit_that_is_under_way_keeps_its_folder(here, at_once, tmp_path, capsys):
    words = ["fit", "rows.npy", *QUICK, "--out"]
    kept = tmp_path / "one" / ".checkpoint"
    kept.mkdir(parents=True)
    with files.locked(kept):
        run(*words, tmp_path / "one", "--json")
        shown = capsys.readouterr()
        assert json.loads(shown.out)["model"] == str(tmp_path / "one-2")
        run(*words, tmp_path / "one", "--force", code=2)
        assert "--out should be a folder that no other fit is writing" in capsys.readouterr().err
    assert os.listdir(tmp_path / "one") == [".checkpoint"]
    run(*words, tmp_path / "one")
    assert parts(tmp_path / "one") == parts(tmp_path / "one-2")


def parts(folder):
    """What is in a folder, without the numbers in the names."""
    return sorted(name.partition("-")[0] for name in os.listdir(folder))


def test_what_fits_that_died_left_is_swept_and_never_in_the_way(here, at_once, tmp_path):
    out = tmp_path / "new"
    (out / ".checkpoint").mkdir(parents=True)
    for name in (".ptsne-1-ab.csv", "encoder-0123456789ab.keras", "map-0123456789ab.csv"):
        (out / name).write_text("half")
    words = ["fit", "train.csv", *NAMED, *QUICK, "--quiet", "--out", out]
    run(*words)
    assert parts(out) == ["arrays", "encoder", "map.csv", "model.json"]
    names = sorted(os.listdir(out))
    shutil.copytree(
        out, out / ".checkpoint" / "model"
    )  # of a fit that was done but for removing it
    os.utime(out / "model.json")
    run(*words, code=2)
    assert sorted(os.listdir(out)) == names


@pytest.mark.slow
def test_a_fit_that_was_killed_goes_on(here, tmp_path, capsys):
    out = tmp_path / "new"
    words = ["fit", "rows.npy", "--out", str(out), *QUICK, "--quiet", "--epochs", "1000"]
    command = [sys.executable, "-m", "ptsne_keras", *words, "--checkpoint", "0.2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until((out / ".checkpoint" / "model" / "model.json").exists)
    finally:
        process.kill()
        process.wait()
    assert os.listdir(out) == [".checkpoint"]
    done = ParametricTSNE.load(out / ".checkpoint" / "model").history_["stopped"]
    run(*words, "--resume")
    tsne = ParametricTSNE.load(out)
    assert len(tsne.history_["finetune"]["loss"]) == 1000 > done
    assert ".checkpoint" not in os.listdir(out)
    kls = []
    for seed in range(3):
        run(*words[:2], "--out", tmp_path / str(seed), *words[4:], "--seed", seed)
        kls.append(ParametricTSNE.load(tmp_path / str(seed)).kl_divergence_)
    assert tsne.kl_divergence_ < max(kls) + 3 * np.std(kls)


def test_a_row_without_a_finite_place_is_an_error_and_nothing_is_written(here, tmp_path, capsys):
    np.save(tmp_path / "far.npy", np.full((3, 5), 3e38, "float32"))
    for more in ([], ["--no-placement"]):
        words = [tmp_path / "far.npy", "--out", tmp_path / "out.csv", "--quiet", *more]
        run("transform", "plain", *words, code=2)
        assert "X should have rows like those of fit" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["far.npy"]


@pytest.mark.parametrize("form", ["csv", "npy", "parquet", "png", "html"])
def test_what_a_command_writes_is_flushed_before_it_appears(form, here, tmp_path, monkeypatch):
    out = tmp_path / f"out.{form}"
    calls = disk_calls(monkeypatch)
    if form in ("png", "html"):
        run("plot", "map", "--html" if form == "html" else "--out", out)
    else:
        run("transform", "map", "train.csv", "--id", "sample", "--out", out, "--quiet")
    calls = [(kind, path) for kind, path in calls if tmp_path in path.parents or path == tmp_path]
    (first, beside), *rest = calls
    assert (first, beside.suffix) == ("fsync", f".{form}")
    assert rest == [("rename", out), ("fsync", tmp_path)]


@pytest.mark.parametrize("far", [False, True], ids=["not finite", "far"])
def test_training_that_diverges_leaves_nothing(far, here, tmp_path, capsys, monkeypatch):
    if far:  # finite still, but the divergence is not
        monkeypatch.setattr(ScoredRows, "divergence", lambda self, Y, dof: np.inf)
    words = ["fit", "rows.npy", "--out", tmp_path / "new", *QUICK, "--quiet"]
    run(*words, *([] if far else ["--learning-rate", "1e12"]), code=2)
    assert "--learning-rate should be smaller" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirected", "code"),
    [("| true", 0), ("> /dev/full", 1), ("2>&-", 0)],
    ids=["a reader that goes", "a full device", "no stderr"],
)
def test_an_answer_that_cannot_be_printed(redirected, code, here):
    """Nor its letters: the encoding is ASCII."""
    words = f"{sys.executable} -m ptsne_keras evaluate map --train train.csv --no-pca"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} {' '.join(NAMED)} {redirected}"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert ("cannot be printed" in done.stderr) is (code == 1)


def test_every_example_of_the_help_is_understood():
    text = "\n".join(part for parts in _help.HELP.values() for part in parts if part)
    examples = re.findall(r"^  (ptsne \S.*?)$", text, flags=re.MULTILINE)
    assert len(examples) > 15
    for line in examples:
        options = cli.make_parser().parse_args(shlex.split(line)[1:])
        assert callable(commands.COMMANDS[options.command])


def test_lists_of_columns_are_parsed_as_csv():
    words = ["transform", "map", "rows.csv", "--out", "o.csv", "--drop", '"city, state", date']
    assert cli.make_parser().parse_args(words).drop == ["city, state", "date"]
