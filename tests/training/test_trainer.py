import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import reference

from ptsne_keras import callbacks, losses, networks
from ptsne_keras.data import batches
from ptsne_keras.metrics import batch
from ptsne_keras.training.trainer import Trainer
from ptsne_keras.utils import xla


def encoder(features=5, d=2, seed=0):
    return networks.encoder(features, d, hidden_units=(16,), activation="relu", seed=seed)


def compiled(model=None, learning_rate=0.01, **options):
    """A trainer, to three dimensions if it learns dof, compiled with Adam."""
    model = model or encoder(d=3 if options.get("dof") == "learn" else 2)
    trainer = Trainer(model, **{"jit_loss": False, **options})
    trainer.compile(keras.optimizers.Adam(learning_rate))
    return trainer


@pytest.fixture
def data(X):
    return batches.from_array(X, 8, 30, shuffle="once", seed=0)


def fit(model, data, epochs=4, **options):
    return model.fit(data, epochs=epochs, verbose=0, shuffle=False, **options).history


def mean_kl(model, data, **options):
    return np.mean([reference.tsne(P.numpy(), model(x).numpy(), **options) for x, P in data])


@pytest.mark.parametrize("jit_compile", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_trains_as_a_model_that_is_compiled_with_the_loss(data, jit_compile):
    plain = encoder()
    plain.compile(keras.optimizers.Adam(0.01), loss=losses.TSNE(dof=2.0, exaggeration=3.0))
    trainer = Trainer(encoder(), dof=2.0, exaggeration=3.0)
    trainer.compile(keras.optimizers.Adam(0.01), jit_compile=jit_compile)
    np.testing.assert_allclose(fit(trainer, data)["loss"], fit(plain, data)["loss"], rtol=1e-4)


def test_another_loss_can_be_given(data):
    trainer, plain = Trainer(encoder(), jit_loss=False), encoder()
    for model in (trainer, plain):
        model.compile("adam", loss=losses.TSNE(exaggeration=5.0))
    np.testing.assert_allclose(fit(trainer, data)["loss"], fit(plain, data)["loss"], rtol=1e-5)
    trainer.compile("adam")
    assert trainer.evaluate(data, verbose=0) == pytest.approx(mean_kl(trainer, data), rel=1e-4)


def test_regularisers_of_the_encoder_count(data):
    layer = keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(10.0))
    trainer = compiled(keras.Sequential([keras.Input((5,)), layer]))
    penalty = 10.0 * float(np.square(layer.kernel).sum())
    found = trainer.evaluate(data, verbose=0)
    assert found == pytest.approx(mean_kl(trainer, data) + penalty, rel=1e-4)


@pytest.mark.parametrize("make", [batches.from_array, batches.from_graph])
def test_validation_loss_is_kl_whatever_batches_and_exaggeration(make, X, data):
    trainer = Trainer(encoder(), exaggeration=12.0, jit_loss=False)
    trainer.compile("adam", metrics=[batch.NeighborRecall(3)])
    history = fit(trainer, make(X, 8, 30, seed=0), 2, validation_data=data)
    assert set(history) == {"loss", "neighbor_recall", "val_loss", "val_neighbor_recall"}
    assert history["val_loss"][-1] == pytest.approx(mean_kl(trainer, data), rel=1e-4)
    assert history["loss"][-1] > 2 * history["val_loss"][-1]


class TestLearnedDof:
    def test_gradient_is_that_of_the_loss(self, X):
        """One step of plain descent moves log α by the finite difference of the loss."""
        P = reference.random_P(30).astype("float32")
        trainer = Trainer(encoder(d=3), dof="learn", jit_loss=False)
        trainer.compile(keras.optimizers.SGD(0.1))
        assert trainer.dof == pytest.approx(2.0)
        Y = trainer(X[:30]).numpy()
        h = 1e-4
        up, down = (reference.tsne(P, Y, dof=2.0 * np.exp(s * h)) for s in (1, -1))
        trainer.train_on_batch(X[:30], P)
        moved = np.log(trainer.dof / 2.0)
        assert moved == pytest.approx(-0.1 * (up - down) / (2 * h), rel=1e-2)

    def test_waits_for_the_warm_up(self, data):
        history = fit(compiled(learning_rate=0.05, dof="learn", dof_warmup=3), data, 3)["dof"]
        assert history[0] == pytest.approx(2.0)
        assert abs(history[2] - 2.0) > 0.01

    def test_recovers_the_dof_that_made_P(self, rng):
        """P is Q of a map at α = 4: the map, kept fixed, gives back 4."""
        Y = (3 * rng.normal(size=(60, 2))).astype("float32")
        Q = (1 + reference.squared_distances(Y) / 4.0) ** -2.5
        np.fill_diagonal(Q, 0)
        P = (Q / Q.sum()).astype("float32")
        model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(1.0)])
        trainer = compiled(model, learning_rate=0.05, dof="learn")
        fit(trainer, tf.data.Dataset.from_tensors((Y, P)).repeat(300), 1)
        assert trainer.dof == pytest.approx(4.0, rel=0.02)

    @pytest.mark.slow
    def test_saves_and_loads_and_goes_on(self, data, tmp_path):
        trainer = compiled(learning_rate=0.05, dof="learn", dtype="mixed_bfloat16")
        fit(trainer, data, 2)
        trainer.save(tmp_path / "trainer.keras")
        loaded = keras.saving.load_model(tmp_path / "trainer.keras")
        assert loaded.dof == trainer.dof
        assert loaded.dtype_policy.name == trainer.dtype_policy.name == "mixed_bfloat16"
        assert fit(loaded, data)["loss"] == pytest.approx(fit(trainer, data)["loss"], rel=1e-5)

    def test_can_be_left_out_of_weight_decay(self, data):
        optimizer = keras.optimizers.AdamW(1e-3, weight_decay=10.0)
        optimizer.exclude_from_weight_decay(var_names=["log_dof"])
        trainer = Trainer(encoder(d=3), dof="learn", jit_loss=False)
        trainer.compile(optimizer)
        trainer._log_dof.assign(5.0)  # the gradient is next to nothing there
        fit(trainer, data, 1)
        assert trainer.dof == pytest.approx(np.exp(5.0), rel=0.02)


def test_the_encoder_loads_and_exports_without_this_package(X, data, tmp_path):
    trainer = compiled()
    fit(trainer, data, 1)
    trainer.encoder.save(tmp_path / "encoder.keras")
    config = keras.saving.load_model(tmp_path / "encoder.keras", compile=True).get_config()
    assert "ptsne_keras" not in str(config)
    trainer.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(X), trainer(X), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("metrics", ["mse"]),
        ("metrics", [keras.metrics.mean_squared_error]),
        ("metrics", [keras.metrics.MeanAbsoluteError()]),
        ("metrics", [functools.partial(keras.losses.mean_squared_error)]),
        ("metrics", [type("Own", (keras.metrics.MeanSquaredError,), {})()]),
        ("loss", "mse"),
        ("loss", keras.losses.MeanSquaredError()),
        ("loss", ["kld"]),
    ],
)
def test_losses_and_metrics_that_cannot_work_on_p_and_y_are_refused(name, given):
    with pytest.raises(ValueError, match=rf"{name} should take P \[B, B\] and map coordinates Y"):
        Trainer(encoder()).compile("adam", **{name: given})


def test_custom_metrics_are_welcome(data):
    def spread(P, Y):
        return keras.ops.std(Y, axis=1)

    trainer = Trainer(encoder(), jit_loss=False)
    trainer.compile("adam", metrics=[spread, keras.metrics.MeanMetricWrapper(spread, name="own")])
    history = fit(trainer, data, 1)
    assert history["spread"] == history["own"]


def two_outputs():
    inputs = keras.Input((5,))
    return keras.Model(inputs, [inputs, inputs])


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (encoder, {"dof": 0.0}, "dof should be"),
        (encoder, {"exaggeration": 0.0}, "exaggeration should be above 0"),
        (two_outputs, {}, "encoder should have one output"),
        (
            lambda: keras.Sequential([keras.layers.Dense(2)]),
            {"dof": "learn"},
            "encoder should be a built functional or Sequential",
        ),
    ],
    ids=["dof", "exaggeration", "two outputs", "unknown dimensions"],
)
def test_bad_values_are_reported_at_once(make, options, message):
    with pytest.raises(ValueError, match=message):
        Trainer(make(), **options)


def test_a_loss_with_learned_dof_and_rows_without_p_are_named(X):
    trainer = compiled(dof="learn")
    with pytest.raises(ValueError, match='loss should be None with dof="learn"'):
        trainer.compile("adam", loss=losses.TSNE())
    with pytest.raises(ValueError, match=r"Data should be batches \(X, P\)"):
        trainer.fit(X, verbose=0)


def test_several_inputs(data):
    a, b = keras.Input((2,)), keras.Input((3,))
    model = keras.Model([a, b], keras.layers.Dense(2)(keras.layers.Concatenate()([a, b])))
    whole = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    whole.set_weights(model.get_weights())
    parts = data.map(lambda x, P: ((x[:, :2], x[:, 2:]), P))
    found, expected = (
        fit(compiled(model), rows)["loss"] for model, rows in ((model, parts), (whole, data))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_half_precision_keeps_p_and_the_loss_in_float32(X, policy, jit_compile):
    """Duplicated rows, too, give no NaN."""
    X = np.concatenate([X, X[:9], X[:9]])
    data = batches.from_array(X, 8, 54, shuffle="once", seed=0)
    half = keras.layers.Dense(16, "relu", dtype=policy)
    top = keras.layers.Dense(2, dtype="float32")
    trainer = Trainer(keras.Sequential([keras.Input((5,)), half, top]))
    trainer.compile(keras.optimizers.Adam(0.01), jit_compile=jit_compile)
    history = fit(trainer, data, 5)["loss"]
    assert trainer.compute_loss(y=np.eye(54)[::-1] / 54, y_pred=np.ones((54, 2))).dtype == "float32"
    assert np.isfinite(history).all()
    assert history[-1] < history[0]


def test_exaggeration_that_changes_with_the_epoch(data):
    exaggeration = callbacks.Schedule(lambda epoch: 12.0 if epoch < 2 else 1.0)
    trainer = compiled(exaggeration=exaggeration.value, learning_rate=0.0)
    found = fit(trainer, data, 3, callbacks=[exaggeration])["loss"]
    expected = [mean_kl(trainer, data, exaggeration=c) for c in (12.0, 12.0, 1.0)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on(data, tmp_path):
    """Also where the trainer was never called before."""

    def stop(epoch, logs):
        if epoch == 3:
            raise KeyboardInterrupt

    def run(*extra):
        trainer = compiled(dof="learn", dof_warmup=3)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return fit(trainer, data, 6, callbacks=[backup, *extra])["loss"], trainer.dof

    whole, expected = run()
    with pytest.raises(KeyboardInterrupt):
        run(keras.callbacks.LambdaCallback(on_epoch_begin=stop))
    rest, dof = run()
    assert len(rest) == 3
    assert rest[-1] == pytest.approx(whole[-1], rel=1e-5)
    assert dof == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("jit_compile", "alone"), [(True, False), (False, True)])
def test_the_loss_is_compiled_alone_where_the_step_is_not(jit_compile, alone, data, monkeypatch):
    """Inside a step that is compiled it would be compiled anew at each step."""
    calls = []
    monkeypatch.setattr(xla, "compiled", lambda f: calls.append(f) or f)
    trainer = Trainer(encoder())
    trainer.compile("adam", jit_compile=jit_compile)
    fit(trainer, data, 2)
    assert bool(calls) is alone
