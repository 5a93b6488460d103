import json

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf

from ptsne_keras import cli, plotting
from ptsne_keras.cli import demo

QUICK = {"hidden_units": (200, 200), "epochs": 200, "verbose": 0}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return demo.run(folder / "map.png", folder / "digits", seed=0, **QUICK)


def test_the_table_has_what_was_measured(results):
    ours, pca = (results["measures"][name]["test"] for name in ("ParametricTSNE", "PCA"))
    assert results["rows"] == {"training": 1257, "test": 540}
    for measure in ("accuracy_1nn", "accuracy_5nn", "trustworthiness", "neighborhood_recall"):
        assert ours[measure] > pca[measure] + 0.03
    text = demo.table(results)
    for words in ("neighbors", "finetune", "KL(P‖Q)", "PCA", f"{ours['accuracy_1nn']:.3f}"):
        assert words in text
    json.dumps(results)  # plain numbers and text


def test_the_picture_is_drawn_and_the_model_answers(results):
    image = matplotlib.image.imread(results["picture"])
    assert image.shape[0] >= 500
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 50
    assert results["saved_model"].endswith("digits/1")
    served = tf.saved_model.load(results["saved_model"]).signatures["serving_default"]
    assert served(features=tf.zeros((3, 64)))["embedding"].shape == (3, 2)


def test_the_picture_has_training_and_test_rows(monkeypatch, tmp_path):
    drawn = []
    real = plotting.overlay
    monkeypatch.setattr(plotting, "overlay", lambda *a, **k: (drawn.append(a), real(*a, **k))[1])
    demo.run(
        tmp_path / "new/map.png", tmp_path / "digits", **{**QUICK, "epochs": 1}
    )  # makes the folder
    assert [len(a) for a in drawn[0]] == [1257, 1257, 540, 540]


def test_the_command_runs_the_demo(monkeypatch, capsys, results):
    calls = []
    monkeypatch.setattr(demo, "run", lambda *a, **k: calls.append((a, k)) or results)
    assert cli.main(["demo", "--picture", "p.png", "--export", "e", "--seed", "3"]) == 0
    assert calls == [(("p.png", "e"), {"seed": 3})]
    assert capsys.readouterr().out == demo.table(results) + "\n"


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["demo", "--seed", "x"]])
def test_bad_arguments_exit_with_2_and_a_line(arguments, capsys):
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("ptsne: error: ")
    assert shown.count("\n") == 1
    assert "; see ptsne" in shown
