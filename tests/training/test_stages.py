import keras
import numpy as np
import pytest
import tensorflow as tf
from support.fits import Subclassed

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


@pytest.fixture
def encoder(rbms):
    return stages.unroll(rbms)


@pytest.fixture
def linear():
    return keras.Sequential([keras.Input((64,)), keras.layers.Dense(2)])


def data(X, batch_size=200, **options):
    return batches.from_array(X, 15, batch_size, seed=0, **options)


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


@pytest.mark.slow
def test_finetuning_lowers_the_divergence_on_new_rows_too(X, encoder, digits):
    new = data(digits[1][0], shuffle=False)
    before = metrics.mean_kl_divergence(encoder, new)
    loss = stages.finetune(encoder, data(X), epochs=150).history["loss"]
    assert loss[-1] < 0.75 * loss[0]
    assert not encoder.compiled
    assert metrics.mean_kl_divergence(encoder, new) < 0.85 * before


@pytest.mark.slow
def test_pretraining_helps(X, encoder):
    """At equal, short training a pretrained start has the lower divergence."""
    random = networks.encoder(64, hidden_units=(100, 100), seed=0)
    pretrained, random = (
        stages.finetune(start, data(X, 400), epochs=30).history["loss"][-1]
        for start in (encoder, random)
    )
    assert pretrained < random


def test_any_keras_model_optimizer_and_loss_will_do(X):
    layers = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.Flatten()]
    layers = [keras.layers.Reshape((8, 8, 1)), *layers, keras.layers.Dense(3)]
    history = stages.finetune(
        keras.Sequential([keras.Input((64,)), *layers]),
        data(X),
        loss=TSNE(dof="auto"),
        optimizer=keras.optimizers.SGD(1.0),
        epochs=5,
    ).history
    assert history["loss"][-1] < history["loss"][0]
    assert len(history["seconds"]) == 5


@pytest.mark.parametrize(
    "make", [Subclassed, lambda: keras.Sequential([keras.layers.Dense(2)])], ids=["own", "unbuilt"]
)
def test_models_without_symbolic_inputs_train_too(make, X):
    encoder = make()
    history = stages.finetune(encoder, data(X), epochs=5)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert history.model.dof == 1.0
    assert encoder(X[:3]).shape == (3, 2)


def test_every_epoch_is_one_pass_over_new_batches(X, linear, monkeypatch):
    """Not over those of the first epoch again: P is calibrated anew in each."""
    calls, steps = tf.Variable(0), []
    real = affinities.joint_probabilities
    monkeypatch.setattr(
        affinities, "joint_probabilities", lambda *a: (calls.assign_add(1), real(*a))[1]
    )
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: steps.append(step))
    model = stages.finetune(
        linear, data(X, 100), epochs=5, callbacks=[count], jit_compile=True
    ).model
    assert steps == [0, 1, 2, 3] * 5
    assert calls >= 20  # a few more may be under way
    assert model.jit_compile is True


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        # Keras would count steps and average the loss wrongly.
        (lambda b: b.repeat(), {}, "should have a known, finite length"),
        (lambda b: b.filter(lambda x, P: True), {}, "should have a known, finite length"),
        (lambda b: b, {"epochs": 0}, "epochs should be at least 1"),
        (lambda b: b, {"steps_per_execution": 3}, "should divide the 2 batches"),
        (lambda b: b.map(lambda x, P: (x, P * np.nan)), {}, "learning_rate should be smaller"),
    ],
    ids=["endless", "unknown length", "no epochs", "steps per execution", "NaN"],
)
def test_training_that_cannot_succeed_is_an_error(change, options, message, X, encoder):
    with pytest.raises(ValueError, match=message):
        stages.finetune(encoder, change(data(X)), **{"epochs": 1, **options})


def test_an_encoder_of_frozen_weights_is_named(X, encoder):
    encoder.trainable = False
    with pytest.raises(ValueError, match="encoder should have weights to train"):
        stages.finetune(encoder, data(X))


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


def test_a_stack_goes_on_from_trained_rbms(rng):
    X = rng.random((60, 8)).astype("float32")
    whole = stages.pretrain(X, (6, 4, 2), epochs=2, top_epochs=3, seed=0)
    below = stages.pretrain(X, (6, 4, 3), epochs=2, top_epochs=1, seed=0)[:2]
    again = stages.pretrain(X, (6, 4, 2), epochs=2, top_epochs=3, seed=0, below=below)
    assert again[:2] == below
    np.testing.assert_array_equal(stages.unroll(again)(X), stages.unroll(whole)(X))


@pytest.fixture(scope="module")
def pretrained():
    """Sixty rows, and three RBMs trained on them."""
    X = np.random.default_rng(0).random((60, 8))
    return X, stages.pretrain(X, (6, 4, 3), epochs=1, top_epochs=1, seed=0)


@pytest.mark.parametrize(
    ("units", "change", "below", "message"),
    [
        ((6, 5, 2), lambda X: X, slice(2), "below should be trained RBMs"),
        ((6, 4), lambda X: X, slice(2), "below should be trained RBMs"),
        ((6, 4, 2), lambda X: X[:, :7], slice(2), "below should be trained RBMs"),
        ((6, 2), lambda X: X, "untrained", "below should be trained RBMs"),
        ((6, 4, 3, 2), lambda X: X, slice(3), "below should be trained RBMs"),
        ((6, 2), lambda X: 2 * X, slice(1), r"X should be in \[0, 1\]"),
    ],
    ids=["width", "nothing left", "columns", "untrained", "linear top below", "range"],
)
def test_rbms_below_that_do_not_fit_are_named(pretrained, units, change, below, message):
    X, whole = pretrained
    stack = [stages.RBM(6)] if below == "untrained" else whole[below]
    with pytest.raises(ValueError, match=message):
        stages.pretrain(change(X), units, epochs=1, below=stack)


@pytest.mark.slow
def test_by_conjugate_gradients(X, linear):
    fixed = data(X, shuffle="once")
    history = stages.finetune(
        linear, fixed, optimizer="cg", line_searches=2, epochs=4, validation_data=fixed
    ).history
    assert set(history) == {"loss", "val_loss", "line_searches", "evaluations", "seconds"}
    assert history["line_searches"] == [4.0] * 4
