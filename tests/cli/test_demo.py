import json

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf

from ptsne_keras import cli, plotting
from ptsne_keras.cli import demo


@pytest.fixture(scope="module")
def drawn():
    """The arguments of the picture."""
    return []


@pytest.fixture(scope="module")
def results(tmp_path_factory, drawn):
    folder, real = tmp_path_factory.mktemp("demo"), plotting.overlay
    quick = {"hidden_units": (50, 50), "epochs": 30, "verbose": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plotting, "overlay", lambda *a, **k: (drawn.append(a), real(*a, **k))[1])
        return demo.run(folder / "new/map.png", folder / "digits", seed=0, **quick)


def test_the_table_has_what_was_measured(results):
    ours, pca = (results["measures"][name]["test"] for name in ("ParametricTSNE", "PCA"))
    assert results["rows"] == {"training": 1257, "test": 540}
    for measure in ("accuracy_1nn", "accuracy_5nn", "trustworthiness", "neighborhood_recall"):
        assert ours[measure] > pca[measure] + 0.03
    text = demo.table(results)
    for words in ("neighbors", "finetune", "KL(P‖Q)", "PCA", f"{ours['accuracy_1nn']:.3f}"):
        assert words in text
    json.dumps(results)  # plain numbers and text


def test_the_picture_is_drawn_and_the_model_answers(results, drawn):
    assert [len(a) for a in drawn[0]] == [1257, 1257, 540, 540]
    image = matplotlib.image.imread(results["picture"])
    assert image.shape[0] >= 500
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 50
    assert results["saved_model"].endswith("digits/1")
    served = tf.saved_model.load(results["saved_model"]).signatures["serving_default"]
    assert served(features=tf.zeros((3, 64)))["embedding"].shape == (3, 2)


def test_the_command_runs_the_demo(monkeypatch, capsys, results):
    calls = []
    monkeypatch.setattr(demo, "run", lambda *a, **k: calls.append((a, k)) or results)
    assert cli.main(["demo", "--picture", "p.png", "--export", "e", "--seed", "3"]) == 0
    assert calls == [(("p.png", "e"), {"seed": 3})]
    assert capsys.readouterr().out == demo.table(results) + "\n"


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["demo", "--seed", "x"], ["plot", "map", "--kind", "pie"]]
)
def test_bad_arguments_exit_with_2_and_a_line(arguments, capsys):
    assert cli.main([*arguments, "--json"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("ptsne: error: ")
    assert shown.err.count("\n") == 1
    assert "; see ptsne" in shown.err
    assert json.loads(shown.out)["error"] in shown.err
