import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import reference

from ptsne_keras import callbacks, losses, networks
from ptsne_keras.data import batches
from ptsne_keras.metrics import batch
from ptsne_keras.training import stages
from ptsne_keras.training.trainer import Trainer


def encoder(features=5, d=2, seed=0):
    return networks.encoder(features, d, hidden_units=(16,), activation="relu", seed=seed)


@pytest.fixture
def data(X):
    return batches.from_array(X, 8, 30, shuffle="once", seed=0)


def losses_of(model, data, epochs=4, **options):
    return model.fit(data, epochs=epochs, verbose=0, **options).history["loss"]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_trains_as_a_model_that_is_compiled_with_the_loss(data, jit_compile):
    plain = encoder()
    plain.compile(keras.optimizers.Adam(0.01), loss=losses.TSNE(dof=2.0, exaggeration=3.0))
    trainer = Trainer(encoder(), dof=2.0, exaggeration=3.0)
    trainer.compile(keras.optimizers.Adam(0.01), jit_compile=jit_compile)
    np.testing.assert_allclose(losses_of(trainer, data), losses_of(plain, data), rtol=1e-4)


def test_another_loss_can_be_given(data):
    trainer = Trainer(encoder())
    trainer.compile("adam", loss=losses.TSNE(exaggeration=5.0))
    plain = encoder()
    plain.compile("adam", loss=losses.TSNE(exaggeration=5.0))
    np.testing.assert_allclose(losses_of(trainer, data), losses_of(plain, data), rtol=1e-5)
    trainer.compile("adam")
    kl = np.mean([reference.tsne(P.numpy(), trainer(x).numpy()) for x, P in data])
    assert trainer.evaluate(data, verbose=0) == pytest.approx(kl, rel=1e-4)


def test_regularisers_of_the_encoder_count(data):
    inputs = keras.Input((5,))
    outputs = keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(10.0))(inputs)
    model = keras.Model(inputs, outputs)
    penalty = 10.0 * float(np.square(model.get_weights()[0]).sum())
    trainer = Trainer(model)
    trainer.compile("adam")
    Y = [(P, np.asarray(model(x))) for x, P in data]
    kl = np.mean([reference.tsne(P.numpy(), y) for P, y in Y])
    assert trainer.evaluate(data, verbose=0) == pytest.approx(kl + penalty, rel=1e-4)


def test_validation_loss_is_kl_whatever_the_exaggeration(X, data):
    trainer = Trainer(encoder(), exaggeration=12.0)
    trainer.compile("adam")
    history = trainer.fit(data, validation_data=data, epochs=2, verbose=0).history
    kl = np.mean([reference.tsne(P.numpy(), trainer(x).numpy()) for x, P in data])
    assert history["val_loss"][-1] == pytest.approx(kl, rel=1e-4)
    assert history["loss"][-1] > 2 * history["val_loss"][-1]


def test_graph_batches_can_have_dense_validation_batches(X, data):
    trainer = Trainer(encoder())
    trainer.compile("adam", metrics=[batch.NeighborRecall(3)])
    graph = batches.from_graph(X, 8, 30, seed=0)
    history = trainer.fit(graph, validation_data=data, epochs=2, verbose=0).history
    assert set(history) == {"loss", "neighbor_recall", "val_loss", "val_neighbor_recall"}


class TestLearnedDof:
    def test_gradient_is_that_of_the_loss(self, X):
        """One step of plain descent moves log α by the finite difference of the loss."""
        P = reference.random_P(30).astype("float32")
        model = encoder(d=3)
        trainer = Trainer(model, dof="learn")
        trainer.compile(keras.optimizers.SGD(0.1))
        assert trainer.dof == pytest.approx(2.0)
        Y = model(X[:30]).numpy()
        h = 1e-4
        up, down = (reference.tsne(P, Y, dof=2.0 * np.exp(s * h)) for s in (1, -1))
        trainer.train_on_batch(X[:30], P)
        moved = np.log(trainer.dof / 2.0)
        assert moved == pytest.approx(-0.1 * (up - down) / (2 * h), rel=1e-2)

    def test_waits_for_the_warm_up(self, data):
        trainer = Trainer(encoder(d=3), dof="learn", dof_warmup=3)
        trainer.compile(keras.optimizers.Adam(0.05))
        history = trainer.fit(data, epochs=3, verbose=0).history["dof"]
        assert history[0] == pytest.approx(2.0)
        assert abs(history[2] - 2.0) > 0.01

    def test_finetune_learns_it_after_one_epoch(self, data):
        history = stages.finetune(encoder(d=3), data, dof="learn", learning_rate=0.05, epochs=4)
        assert history.history["dof"][0] == pytest.approx(2.0)
        assert abs(history.model.dof - 2.0) > 0.01

    def test_recovers_the_dof_that_made_P(self, rng):
        """P is Q of a map at α = 4: the map, kept fixed, gives back 4."""
        Y = (3 * rng.normal(size=(60, 2))).astype("float32")
        D2 = reference.squared_distances(Y)
        Q = (1 + D2 / 4.0) ** -2.5
        np.fill_diagonal(Q, 0)
        P = (Q / Q.sum()).astype("float32")
        model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(1.0)])
        trainer = Trainer(model, dof="learn")
        trainer.compile(keras.optimizers.Adam(0.05))
        data = tf.data.Dataset.from_tensors((Y, P))
        trainer.fit(data.repeat(300), epochs=1, verbose=0)
        assert trainer.dof == pytest.approx(4.0, rel=0.02)

    def test_saves_and_loads_and_goes_on(self, data, tmp_path):
        trainer = Trainer(encoder(d=3), dof="learn")
        trainer.compile(keras.optimizers.Adam(0.05))
        trainer.fit(data, epochs=2, verbose=0)
        trainer.save(tmp_path / "trainer.keras")
        loaded = keras.saving.load_model(tmp_path / "trainer.keras")
        assert loaded.dof == trainer.dof
        assert losses_of(loaded, data, 2) == pytest.approx(losses_of(trainer, data, 2), rel=1e-5)

    def test_needs_a_map_of_known_dimensions(self):
        with pytest.raises(ValueError, match="encoder should be a functional or Sequential model"):
            Trainer(keras.Sequential([keras.layers.Dense(2)]), dof="learn")


def test_encoder_loads_without_this_package(data, tmp_path):
    trainer = Trainer(encoder())
    trainer.compile("adam")
    trainer.fit(data, verbose=0)
    trainer.encoder.save(tmp_path / "encoder.keras")
    config = (keras.saving.load_model(tmp_path / "encoder.keras", compile=True)).get_config()
    assert "ptsne_keras" not in str(config)


@pytest.mark.parametrize(
    "metric",
    [
        "mse",
        "accuracy",
        keras.metrics.mean_squared_error,
        keras.metrics.MeanAbsoluteError(),
        functools.partial(keras.losses.mean_squared_error),
        type("Own", (keras.metrics.MeanSquaredError,), {})(),
    ],
    ids=["name", "accuracy", "function", "metric", "partial", "subclass"],
)
def test_a_metric_that_cannot_work_on_p_and_y_is_refused(metric):
    with pytest.raises(ValueError, match=r"metrics should take P \[B, B\] and map coordinates Y"):
        Trainer(encoder()).compile("adam", metrics=[metric])


@pytest.mark.parametrize(
    "loss", ["mse", keras.losses.MeanSquaredError(), ["kld"]], ids=["name", "loss", "list"]
)
def test_a_loss_that_cannot_work_on_p_and_y_is_refused(loss):
    with pytest.raises(ValueError, match=r"loss should take P \[B, B\] and map coordinates Y"):
        Trainer(encoder()).compile("adam", loss=loss)


def test_a_model_of_two_outputs_is_named():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(2)(inputs)])
    with pytest.raises(ValueError, match="encoder should have one output"):
        Trainer(model)


def test_a_subclassed_encoder_needs_no_dimensions(X, data):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = stages.finetune(Own(), data, epochs=1).model
    assert model.dof == 1.0


def test_it_exports_the_encoder(X, data, tmp_path):
    trainer = Trainer(encoder())
    trainer.compile("adam")
    trainer.fit(data, verbose=0)
    trainer.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(X), trainer(X), atol=1e-6)


def test_its_precision_is_saved(tmp_path):
    trainer = Trainer(encoder(), dtype="mixed_bfloat16")
    loaded = Trainer.from_config(trainer.get_config())
    assert loaded.dtype_policy.name == "mixed_bfloat16"


def test_an_encoder_of_frozen_weights_is_named(data):
    model = encoder()
    model.trainable = False
    with pytest.raises(ValueError, match="encoder should have weights to train"):
        stages.finetune(model, data)


def test_dof_can_be_left_out_of_weight_decay(data):
    optimizer = keras.optimizers.AdamW(0.0, weight_decay=10.0)
    optimizer.exclude_from_weight_decay(var_names=["log_dof"])
    trainer = Trainer(encoder(d=3), dof="learn")
    optimizer.learning_rate = 1e-3
    trainer.compile(optimizer)
    trainer._log_dof.assign(5.0)  # the gradient is next to nothing there
    trainer.fit(data, verbose=0)
    assert trainer.dof == pytest.approx(np.exp(5.0), rel=0.02)


def test_a_metric_of_ones_own_is_welcome(data):
    def spread(P, Y):
        return keras.ops.std(Y, axis=1)

    trainer = Trainer(encoder())
    trainer.compile("adam", metrics=[spread, keras.metrics.MeanMetricWrapper(spread, name="own")])
    history = trainer.fit(data, verbose=0).history
    assert history["spread"] == history["own"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"dof": 0.0}, "dof should be"), ({"exaggeration": 0.0}, "exaggeration should be above 0")],
)
def test_bad_values_are_reported_at_once(bad, message):
    with pytest.raises(ValueError, match=message):
        Trainer(encoder(), **bad)


def test_several_inputs(X):
    a, b = keras.Input((2,)), keras.Input((3,))
    model = keras.Model([a, b], keras.layers.Dense(2)(keras.layers.Concatenate()([a, b])))
    data = batches.from_array(X, 8, 30, shuffle="once", seed=0)
    parts = data.map(lambda x, P: ((x[:, :2], x[:, 2:]), P))
    whole = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    whole.set_weights(model.get_weights())
    results = []
    for net, rows in ((model, parts), (whole, data)):
        trainer = Trainer(net)
        trainer.compile("adam")
        results.append(losses_of(trainer, rows))
    np.testing.assert_allclose(*results, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_half_precision_keeps_p_and_the_loss_in_float32(X, policy, jit_compile):
    """Duplicated rows, too, give no NaN."""
    X = np.concatenate([X, X[:9], X[:9]])
    data = batches.from_array(X, 8, 54, shuffle="once", seed=0)
    half = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(16, "relu", dtype=policy),
            keras.layers.Dense(2, dtype="float32"),
        ]
    )
    trainer = Trainer(half)
    trainer.compile(keras.optimizers.Adam(0.01), jit_compile=jit_compile)
    history = losses_of(trainer, data, epochs=5)
    assert trainer.compute_loss(y=np.eye(54)[::-1] / 54, y_pred=np.ones((54, 2))).dtype == "float32"
    assert np.isfinite(history).all()
    assert history[-1] < history[0]


def test_exaggeration_that_changes_with_the_epoch(data):
    exaggeration = callbacks.Schedule(lambda epoch: 12.0 if epoch < 2 else 1.0)
    still = keras.optimizers.SGD(0.0)
    trainer = Trainer(encoder(), exaggeration=exaggeration.value)
    trainer.compile(still)
    found = losses_of(trainer, data, epochs=3, callbacks=[exaggeration])
    wanted = []
    for c in (12.0, 12.0, 1.0):
        terms = [reference.tsne(P.numpy(), trainer(x).numpy(), exaggeration=c) for x, P in data]
        wanted.append(np.mean(terms))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_a_run_that_was_cut_off_goes_on(data, tmp_path):
    """Also where the trainer was never called before."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    def run(*extra):
        trainer = Trainer(encoder(d=3), dof="learn", dof_warmup=3)
        trainer.compile(keras.optimizers.Adam(0.01))
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return trainer.fit(data, epochs=6, verbose=0, callbacks=[backup, *extra]), trainer

    whole, expected = run()
    with pytest.raises(KeyboardInterrupt):
        run(Stop())
    rest, trainer = run()
    assert len(rest.history["loss"]) == 3
    assert rest.history["loss"][-1] == pytest.approx(whole.history["loss"][-1], rel=1e-5)
    assert trainer.dof == pytest.approx(expected.dof, rel=1e-5)


def test_what_trains_nothing_is_named(X):
    trainer = Trainer(encoder(), dof="learn")
    with pytest.raises(ValueError, match='loss should be None with dof="learn"'):
        trainer.compile("adam", loss=losses.TSNE())
    trainer.compile("adam")
    with pytest.raises(ValueError, match=r"Data should be batches \(X, P\)"):
        trainer.fit(X, verbose=0)


@pytest.mark.parametrize(("jit_compile", "alone"), [(True, False), (False, True)])
def test_the_loss_is_compiled_alone_where_the_step_is_not(jit_compile, alone, data, monkeypatch):
    """Inside a step that is compiled it would be compiled anew at each step."""
    calls = []
    monkeypatch.setattr(losses.xla, "compiled", lambda f: calls.append(f) or f)
    trainer = Trainer(encoder())
    trainer.compile("adam", jit_compile=jit_compile)
    trainer.fit(data, epochs=2, verbose=0)
    assert bool(calls) is alone
