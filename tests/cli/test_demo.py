import json
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf

from ptsne_keras import ParametricTSNE, cli, datasets, metrics, plotting
from ptsne_keras.cli import demo

QUICK = {"hidden_units": (200, 200), "epochs": 200, "pretraining_epochs": 20, "verbose": 0}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return demo.run(folder / "map.png", folder / "digits", seed=0, **QUICK)


def test_the_table_has_what_was_measured(results):
    train, test = datasets.digits(seed=0)
    tsne = ParametricTSNE(random_state=0, **QUICK).fit(train[0])  # the same fit again
    Y_test = tsne.transform(test[0])
    ours = results["quality"]["ParametricTSNE"]
    for k in (1, 5):
        accuracy = metrics.knn_accuracy(tsne.embedding_, train[1], Y_test, test[1], k)
        assert ours[f"{k}-NN accuracy"] == pytest.approx(accuracy)
    assert ours["trustworthiness T(12)"] == metrics.trustworthiness(test[0], Y_test, 12)
    expected = (tsne.kl_divergence_, -tsne.score(test[0]))
    assert results["kl"]["ParametricTSNE"] == pytest.approx(expected)
    text = demo.table(results)
    shown = ("neighbors", "pretrain", "unroll", "finetune", "KL(P||Q)", "three stages", "PCA")
    for words in shown:
        assert words in text
    assert f"{ours['1-NN accuracy']:.3f}" in text
    json.dumps(results)  # plain numbers and text


def test_it_beats_PCA_on_the_same_split(results):
    quality = results["quality"]
    for name in ("ParametricTSNE", "three stages"):
        for measure, value in quality[name].items():
            assert value > quality["PCA"][measure] + 0.03


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
    quick = {**QUICK, "epochs": 1, "pretraining_epochs": 1}
    demo.run(tmp_path / "new/map.png", tmp_path / "digits", **quick)  # makes the folder
    assert [len(a) for a in drawn[0]] == [1257, 1257, 540, 540]


def test_the_command_runs_the_demo(monkeypatch, capsys, results):
    calls = []
    monkeypatch.setattr(demo, "run", lambda *a, **k: calls.append((a, k)) or results)
    assert cli.main(["demo", "--picture", "p.png", "--export", "e", "--seed", "3"]) == 0
    assert calls == [(("p.png", "e"), {"seed": 3})]
    assert capsys.readouterr().out == demo.table(results) + "\n"


def test_help_answers_without_loading_tensorflow():
    code = (
        "import sys; from ptsne_keras import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as e: assert not e.code\n"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "demo" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["demo", "--seed", "x"]])
def test_bad_arguments_exit_with_2_and_a_line(arguments, capsys):
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("ptsne: error: ")
    assert shown.count("\n") == 1
    assert "; see ptsne" in shown
