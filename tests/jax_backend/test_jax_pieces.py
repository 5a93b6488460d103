"""The stages, the estimator, saving and export on JAX."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.neighbors import KNeighborsClassifier

from ptsne_keras import ParametricTSNE, callbacks, losses, networks, serving
from ptsne_keras.data import batches
from ptsne_keras.estimators import _fit_graph
from ptsne_keras.training import stages
from ptsne_keras.training.trainer import Trainer


def test_a_stack_is_pretrained_unrolled_and_finetuned(digits):
    (X, _), _ = digits
    rbms = stages.pretrain(X, (50, 30, 2), epochs=10, top_epochs=10, seed=0)
    for rbm in rbms:
        error = rbm.history.history["reconstruction_error"]
        assert error[-1] < error[0]
    encoder = stages.unroll(rbms)
    hidden = X
    for rbm in rbms:
        hidden = np.asarray(rbm(hidden))
    np.testing.assert_array_equal(np.asarray(encoder(X)), hidden)
    data = batches.from_array(X, 30, 450, seed=0)
    history = stages.finetune(encoder, data, learning_rate=0.02, epochs=20).history["loss"]
    assert history[-1] < 0.7 * history[0]


def test_conjugate_gradients_ask_for_tensorflow(digits):
    data = batches.from_array(digits[0][0], 30, 450, seed=0)
    with pytest.raises(RuntimeError, match=r"should run under KERAS_BACKEND=tensorflow"):
        stages.finetune(networks.encoder(64), data, optimizer="cg")


def test_an_rbm_samples_anew_at_each_step():
    """JAX passes the state of a step explicitly; else each step would draw the same numbers."""
    rbm = stages.RBM(200, seed=0)
    H = [np.asarray(rbm.sample_hidden(np.full((1, 200), 0.5))) for _ in range(2)]
    assert (H[0] != H[1]).any()
    rbm.fit(np.full((400, 5), 0.5), batch_size=100, epochs=1, verbose=0)
    assert int(np.asarray(rbm.noise.state)[1]) >= 2 + 4  # draws before, and one a step


@pytest.mark.parametrize("options", [{}, {"pretraining": "cd1"}], ids=["graph", "rbm"])
def test_the_estimator_maps_new_rows_and_comes_back_from_disk(options, digits, tmp_path):
    (X, labels), (X_new, labels_new) = digits
    tsne = ParametricTSNE(
        hidden_units=(100, 100), epochs=15, pretraining_epochs=5, random_state=0, **options
    ).fit(X)
    Y_new = tsne.transform(X_new)
    knn = KNeighborsClassifier(5).fit(tsne.embedding_, labels)
    assert knn.score(Y_new, labels_new) > 0.9
    tsne.save(tmp_path / "map")
    loaded = ParametricTSNE.load(tmp_path / "map")
    np.testing.assert_array_equal(loaded.transform(X_new), Y_new)


@pytest.mark.parametrize("epochs", [2, 10_000])
def test_steps_are_compiled_however_few(epochs):
    """What is not compiled runs operation by operation, a hundred times as slowly."""
    assert _fit_graph.compilation(5, epochs)["jit_compile"]


def test_a_trainer_comes_back_from_disk(digits, tmp_path):
    (X, _), _ = digits
    data = batches.from_array(X, 30, 450, seed=0, shuffle="once")
    encoder = networks.encoder(64, 3, hidden_units=(50,), seed=0)
    trainer = Trainer(encoder, dof="learn")
    trainer.compile(keras.optimizers.Adam(0.05))
    trainer.fit(data, epochs=3, verbose=0)
    trainer.save(tmp_path / "trainer.keras")
    loaded = keras.saving.load_model(tmp_path / "trainer.keras")
    assert loaded.dof == trainer.dof
    curves = [model.fit(data, epochs=2, verbose=0).history["loss"] for model in (trainer, loaded)]
    np.testing.assert_allclose(*curves, rtol=1e-5)


def test_a_schedule_of_the_exaggeration_is_refused():
    exaggeration = callbacks.Schedule(lambda epoch: 12.0)
    with pytest.raises(ValueError, match="exaggeration should be a number on other backends"):
        losses.TSNE(exaggeration=exaggeration.value)


# Export

LOAD = """
import sys
import numpy as np
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
with np.load(sys.argv[2]) as rows:
    answers = {n: serve(tf.constant(X))["embedding"].numpy() for n, X in rows.items()}
np.savez(sys.argv[3], **answers)
assert "ptsne_keras" not in sys.modules
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    shift, scale = np.linspace(-100, 100, 64), np.geomspace(0.5, 50, 64)
    encoder = networks.encoder(
        64, 2, hidden_units=(100, 50), activation="gelu", scaling=(shift, scale), seed=0
    )
    X = shift + scale * np.random.default_rng(0).normal(size=(300, 64))
    path = serving.export_saved_model(encoder, tmp_path_factory.mktemp("served"), reference=X)
    return encoder, path


def test_plain_tensorflow_serves_what_jax_exported(exported, tmp_path):
    encoder, path = exported
    rng = np.random.default_rng(0)
    rows = {str(n): (100 * rng.normal(size=(n, 64))).astype("float32") for n in (1, 7, 500)}
    np.savez(tmp_path / "in.npz", **rows)
    subprocess.run(
        [sys.executable, "-c", LOAD, path, tmp_path / "in.npz", tmp_path / "out.npz"],
        env={key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"},
        check=True,
        timeout=300,
    )
    with np.load(tmp_path / "out.npz") as answers:
        for n, X in rows.items():
            Y = np.asarray(encoder(X))
            np.testing.assert_allclose(answers[n], Y, rtol=1e-5, atol=1e-5 * np.abs(Y).max())


def test_only_tensorflow_operations_are_served_with_novelty(exported):
    encoder, path = exported
    assert b"XlaCallModule" not in (path / "saved_model.pb").read_bytes()
    weights = sum(file.stat().st_size for file in (path / "variables").iterdir())
    landmarks = 300 * 65 + 64 + 1001
    assert weights < 1.2 * 4 * (encoder.count_params() + landmarks) + 20_000
    report = serving.check(path)
    assert report.ok, str(report)
    assert "embed_with_novelty" in {finding.what for finding in report.findings}


def test_unregistered_layers_are_named_and_nothing_is_written(tmp_path):
    Doubled = type("Doubled", (keras.layers.Layer,), {"call": lambda self, x: 2 * x})
    encoder = keras.Sequential([keras.Input((4,)), Doubled(), keras.layers.Dense(2)])
    with pytest.raises(RuntimeError, match=r"encoder should be one that Keras loads .*'Doubled'"):
        serving.export_saved_model(encoder, tmp_path)
    assert not list(tmp_path.iterdir())


def test_keras_itself_would_export_xla_programs(tmp_path):
    """The reason for rebuilding an encoder: if this fails, plain export may suffice."""
    encoder = networks.encoder(4, 2, hidden_units=(3,), seed=0)
    encoder.export(tmp_path / "plain", verbose=False)
    assert b"XlaCallModule" in (tmp_path / "plain" / "saved_model.pb").read_bytes()
    assert tf.saved_model.contains_saved_model(tmp_path / "plain")
