import keras
import numpy as np
import pytest
import tensorflow as tf

from ptsne_keras import affinities, metrics, networks
from ptsne_keras.data import batches
from ptsne_keras.losses.tsne import TSNE
from ptsne_keras.training import stages


@pytest.fixture(scope="module")
def X(digits):
    return digits[0][0][:400]


@pytest.fixture(scope="module")
def rbms(X):
    return stages.pretrain(X, (100, 100, 2), epochs=20, top_epochs=30, batch_size=20, seed=0)


def test_pretraining_stacks_rbms_on_each_others_hidden_means(X, rbms):
    assert [rbm.units for rbm in rbms] == [100, 100, 2]
    assert [rbm.hidden for rbm in rbms] == ["bernoulli", "bernoulli", "gaussian"]
    assert [len(rbm.history.epoch) for rbm in rbms] == [20, 20, 30]
    for rbm in rbms:
        error = rbm.history.history["reconstruction_error"]
        assert error[-1] < error[0]
        of_the_mean_row = float(np.var(X, axis=0).mean())
        assert float(np.mean((X - np.asarray(rbm.gibbs(X))) ** 2)) < of_the_mean_row
        X = np.asarray(rbm(X))


def test_a_seed_fixes_the_stack(X):
    first, again, other = (
        stages.pretrain(X, (10, 2), epochs=1, top_epochs=1, seed=seed) for seed in (0, 0, 1)
    )
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.kernel, b.kernel)
        assert not np.array_equal(a.kernel, c.kernel)


def test_unrolling_gives_the_stacks_hidden_means_exactly(X, rbms):
    expected = X
    for rbm in rbms:
        expected = rbm(expected)
    np.testing.assert_array_equal(stages.unroll(rbms)(X), expected)


def test_finetuning_lowers_the_divergence_on_new_rows_too(X, rbms, digits):
    encoder = stages.unroll(rbms)
    new = batches.from_array(digits[1][0], 15, 200, shuffle=False)
    before = metrics.mean_kl_divergence(encoder, new)
    history = stages.finetune(encoder, batches.from_array(X, 15, 200, seed=0), epochs=150)
    assert history.history["loss"][-1] < 0.75 * history.history["loss"][0]
    assert metrics.mean_kl_divergence(encoder, new) < 0.85 * before


def test_pretraining_helps(X, rbms):
    """At equal, short training a pretrained start has the lower divergence."""
    loss = {}
    for name, encoder in {
        "pretrained": stages.unroll(rbms),
        "random": keras.models.clone_model(stages.unroll(rbms)),
    }.items():
        data = batches.from_array(X, 15, 400, seed=0)
        loss[name] = stages.finetune(encoder, data, epochs=30).history["loss"][-1]
    assert loss["pretrained"] < loss["random"]


def test_the_encoder_stays_a_plain_uncompiled_model(X, rbms, tmp_path):
    encoder = stages.unroll(rbms)
    stages.finetune(encoder, batches.from_array(X, 15, 400), epochs=1)
    assert not encoder.compiled
    encoder.save(tmp_path / "encoder.keras")
    again = keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(encoder(X), again(X))


def test_any_keras_model_optimizer_and_loss_will_do(X):
    inputs = keras.Input((64,))
    x = keras.layers.Reshape((8, 8, 1))(inputs)
    x = keras.layers.Flatten()(keras.layers.Conv2D(8, 3, activation="relu")(x))
    encoder = keras.Model(inputs, keras.layers.Dense(3)(x))
    history = stages.finetune(
        encoder,
        batches.from_array(X, 15, 200, seed=0),
        loss=TSNE(dof="auto"),
        optimizer=keras.optimizers.SGD(1.0),
        epochs=5,
    ).history
    assert history["loss"][-1] < history["loss"][0]
    assert len(history["seconds"]) == 5


@pytest.mark.parametrize(
    "change",
    [lambda b: b.repeat(), lambda b: b.filter(lambda x, P: True)],
    ids=["endless", "unknown"],
)
def test_batches_of_unknown_length_are_named(change, X, rbms):
    """Keras would count steps and average the loss wrongly."""
    data = change(batches.from_array(X, 15, 400))
    with pytest.raises(ValueError, match="should have a known, finite length"):
        stages.finetune(stages.unroll(rbms), data, epochs=1)


def test_every_epoch_is_one_pass_over_all_batches(X):
    steps = []
    encoder = keras.Sequential([keras.Input((64,)), keras.layers.Dense(2)])
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: steps.append(batch)
    )
    data = batches.from_array(X, 15, 100, seed=0)
    stages.finetune(encoder, data, epochs=3, callbacks=[count])
    assert steps == [0, 1, 2, 3] * 3


def test_training_sees_new_batches_every_epoch(X, monkeypatch):
    """Not those of the first epoch again: P is calibrated anew in each."""
    calls = tf.Variable(0)
    real = affinities.joint_probabilities
    monkeypatch.setattr(
        affinities, "joint_probabilities", lambda *a: (calls.assign_add(1), real(*a))[1]
    )
    encoder = keras.Sequential([keras.Input((64,)), keras.layers.Dense(2)])
    stages.finetune(encoder, batches.from_array(X, 15, 100, seed=0), epochs=5)
    assert calls >= 20  # 4 batches, 5 epochs; a few more may be under way


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, X):
        return self.dense(X)


@pytest.mark.parametrize(
    "make",
    [Subclassed, lambda: keras.Sequential([keras.layers.Dense(2)])],
    ids=["subclassed", "unbuilt"],
)
def test_models_without_symbolic_inputs_train_too(make, X):
    encoder = make()
    history = stages.finetune(encoder, batches.from_array(X, 15, 200, seed=0), epochs=5).history
    assert history["loss"][-1] < history["loss"][0]
    assert encoder(X[:3]).shape == (3, 2)


def test_jit_compile_reaches_the_step(X, monkeypatch):
    compiled = []
    real = keras.Model.compile
    monkeypatch.setattr(
        keras.Model,
        "compile",
        lambda self, *a, **k: (compiled.append(k), real(self, *a, **k))[1],
    )
    encoder = keras.Sequential([keras.Input((64,)), keras.layers.Dense(2)])
    stages.finetune(encoder, batches.from_array(X, 15, 400), epochs=1, jit_compile=True)
    assert compiled[0]["jit_compile"] is True


def test_no_epochs_are_named(X, rbms):
    with pytest.raises(ValueError, match="epochs should be at least 1"):
        stages.finetune(stages.unroll(rbms), batches.from_array(X, 15, 400), epochs=0)


def test_divergence_to_nan_is_an_error(X, rbms):
    data = batches.from_array(X, 15, 400).map(lambda x, P: (x, P * tf.constant(np.nan)))
    with pytest.raises(ValueError, match="learning_rate should be smaller"):
        stages.finetune(stages.unroll(rbms), data, epochs=1)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.full((20, 3), 2.0), r"in \[0, 1\] for Bernoulli"),
        (np.full((20, 3), np.nan), "should be finite"),
    ],
)
def test_bad_rows_are_named(X, message):
    with pytest.raises(ValueError, match=message):
        stages.pretrain(X, (4, 2), epochs=1)


def test_a_stack_goes_on_from_rbms_that_are_trained(rng):
    X = rng.random((60, 8)).astype("float32")
    whole = stages.pretrain(X, (6, 4, 2), epochs=2, top_epochs=3, seed=0)
    below = stages.pretrain(X, (6, 4, 3), epochs=2, top_epochs=1, seed=0)[:2]
    again = stages.pretrain(X, (6, 4, 2), epochs=2, top_epochs=3, seed=0, below=below)
    assert again[:2] == below
    np.testing.assert_array_equal(stages.unroll(again)(X), stages.unroll(whole)(X))


@pytest.mark.parametrize(
    ("units", "X", "below"),
    [
        ((6, 5, 2), "rows", "two"),
        ((6, 4), "rows", "two"),
        ((6, 4, 2), "narrow", "two"),
        ((6, 2), "rows", "untrained"),
        ((6, 4, 3, 2), "rows", "whole"),
    ],
    ids=["other width", "nothing left", "other columns", "untrained", "linear top below"],
)
def test_rbms_below_that_do_not_fit_are_named(rng, units, X, below):
    rows = {"rows": rng.random((60, 8)), "narrow": rng.random((60, 7))}
    whole = stages.pretrain(rows["rows"], (6, 4, 3), epochs=1, top_epochs=1, seed=0)
    stacks = {"two": whole[:2], "whole": whole, "untrained": [stages.RBM(6)]}
    with pytest.raises(ValueError, match="below should be trained RBMs"):
        stages.pretrain(rows[X], units, epochs=1, below=stacks[below])


def test_rows_outside_0_1_are_named_with_rbms_below_too(rng):
    X = rng.random((60, 8))
    below = stages.pretrain(X, (6, 2), epochs=1, top_epochs=1, seed=0)[:1]
    with pytest.raises(ValueError, match=r"X should be in \[0, 1\]"):
        stages.pretrain(2 * X, (6, 2), below=below)


def test_by_conjugate_gradients(rng):
    X = rng.normal(size=(90, 5)).astype("float32")
    data = batches.from_array(X, 8, 45, shuffle="once", seed=0)
    encoder = networks.encoder(5, 2, hidden_units=(16,), activation="sigmoid", seed=0)
    history = stages.finetune(
        encoder, data, optimizer="cg", line_searches=2, epochs=4, validation_data=data
    ).history
    assert set(history) == {"loss", "val_loss", "line_searches", "evaluations", "seconds"}
    assert history["line_searches"] == [4.0] * 4
    assert np.all(np.diff(history["val_loss"]) < 0)
