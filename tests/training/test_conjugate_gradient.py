import keras
import numpy as np
import pytest
import tensorflow as tf
from support import reference

from ptsne_keras import networks
from ptsne_keras.data import batches
from ptsne_keras.training import ConjugateGradientTrainer, Trainer
from ptsne_keras.training.conjugate_gradient import Descent, descend, flatten, objective


@pytest.fixture
def data(X):
    """Two fixed batches."""
    return batches.from_array(X, 8, 45, shuffle="once", seed=0)


@pytest.fixture
def batch(data):
    return next(iter(data))


def trainer(d=2, **options):
    encoder = networks.encoder(5, d, hidden_units=(16,), activation="sigmoid", seed=0)
    return compiled(encoder, **options)


def compiled(encoder, **options):
    model = ConjugateGradientTrainer(encoder, **options)
    model.compile()
    return model


def fit(model, data, epochs, **options):
    return model.fit(data, epochs=epochs, verbose=0, shuffle=False, **options).history


def value_of(evaluate, model, batch):
    return evaluate(flatten(model.trainable_variables), *batch)[0]


def test_value_and_gradient_are_those_of_the_loss(batch):
    model = trainer(d=3, dof="learn")
    evaluate = objective(model, model.trainable_variables)
    x, P = batch
    w = flatten(model.trainable_variables)
    value, gradient = evaluate(w, x, P)
    kl = reference.tsne(P.numpy(), np.asarray(model.encoder(x)), model.dof)
    assert value == pytest.approx(kl, rel=1e-5)
    rng = np.random.default_rng(1)
    for _ in range(5):
        direction = rng.normal(size=w.shape)
        h = 1e-2 / np.linalg.norm(direction)
        ends = [evaluate(w + sign * h * direction, x, P)[0] for sign in (1, -1)]
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(gradient @ direction, rel=2e-2)


def test_line_searches_go_down_and_keep_the_best(batch):
    model = trainer()
    evaluate = objective(model, model.trainable_variables)
    values = [value_of(evaluate, model, batch)]
    for _ in range(4):
        before, done, evaluations = descend(evaluate, model.trainable_variables, *batch, 3)
        assert done == 3
        assert before == pytest.approx(values[-1], rel=1e-6)
        assert 3 <= evaluations < 30
        values.append(value_of(evaluate, model, batch))
    assert np.all(np.diff(values) < 0)


class Weights:
    """Stands in for a Keras variable."""

    def __init__(self, n):
        self.shape = (n,)
        self.value = np.ones(n)

    def assign(self, w):
        self.value = w

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.value, dtype)


def test_directions_are_conjugate_not_those_of_the_gradient():
    """In a long valley twenty line searches get far beyond exact steepest descent."""
    A = np.diag([1.0, 10.0, 100.0, 1000.0])

    def height(w):
        return 0.5 * w @ A @ w

    weights, w = Weights(4), np.ones(4)
    descend(lambda w, x, P: (height(w), A @ w), [weights], None, None, 20)
    for _ in range(20):
        g = A @ w
        w = w - (g @ g) / (g @ A @ g) * g
    assert height(weights.value) < 0.02 * height(w)


def test_a_gradient_below_what_float32_resolves_is_followed(batch):
    """The loss is flat to seven digits where all rows are nearly one point."""
    model = trainer()
    model.encoder.set_weights([3e-2 * w for w in model.encoder.get_weights()])
    evaluate = objective(model, model.trainable_variables)
    before = descend(evaluate, model.trainable_variables, *batch, 10).loss
    assert value_of(evaluate, model, batch) < before - 0.01


@pytest.mark.parametrize("beyond", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_is_too_far(beyond):
    def evaluate(w, x, P):
        inside = (w > 0.5).all()
        return (float(np.square(w - 0.6).sum()) if inside else beyond), 2 * (w - 0.6)

    weights = Weights(2)
    found = descend(evaluate, [weights], None, None, 3)
    assert found.loss == pytest.approx(0.32)
    assert found.line_searches > 0
    np.testing.assert_allclose(weights.value, 0.6, atol=0.05)


def test_a_gradient_that_is_not_of_the_loss_costs_20_evaluations_per_line_search(rng):
    found = descend(
        lambda w, x, P: (1 + rng.random(), rng.normal(size=2)), [Weights(2)], None, None, 2
    )
    assert found.evaluations <= 41


class TestFit:
    def test_history_and_callbacks_are_those_of_keras(self, data):
        model, seen = trainer(), []

        def look(epoch, logs):
            seen.append(logs["loss"])
            model.stop_training = epoch == 3

        look = keras.callbacks.LambdaCallback(on_epoch_end=look)
        history = fit(model, data, 5, validation_data=data, callbacks=[look])
        assert history["loss"] == seen
        assert set(history) == {"loss", "val_loss", "line_searches", "evaluations"}
        assert np.all(np.diff(history["val_loss"]) < 0)
        assert history["loss"][1] < history["loss"][0]
        assert history["line_searches"] == [6] * 4  # stopped before the last epoch
        assert min(history["evaluations"]) >= 6

    def test_loss_and_metrics_are_those_before_the_line_searches(self, data):
        model = trainer()

        def spread(P, Y):
            return keras.ops.std(Y, axis=1)

        model.compile(metrics=[spread])
        one = data.take(1)
        before = model.evaluate(one, verbose=0, return_dict=True)
        history = fit(model, one, 1)
        assert {name: history[name][0] for name in before} == pytest.approx(before, rel=1e-5)

    def test_an_epoch_without_a_better_point_is_the_last(self, data, monkeypatch):
        monkeypatch.setattr(
            "ptsne_keras.training.conjugate_gradient.descend", lambda *_: Descent(1.0, 0, 60)
        )
        with pytest.warns(UserWarning, match="Training ends after epoch 1"):
            history = fit(trainer(), data, 5)
        assert history["line_searches"] == [0]

    def test_a_model_that_is_not_built_yet(self, data):
        history = fit(compiled(keras.Sequential([keras.layers.Dense(2)])), data, 3)
        assert history["line_searches"][0] > 0
        assert np.isfinite(history["loss"]).all()

    def test_double_precision(self, data):
        keras.config.set_dtype_policy("float64")
        try:
            history = fit(trainer(d=3, dof="learn"), data, 3)
        finally:
            keras.config.set_dtype_policy("float32")
        assert history["loss"][-1] < history["loss"][0]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"dtype": "mixed_bfloat16", "name": "half"}, "Received: bfloat16 in half"),
            ({"kernel_constraint": "non_neg"}, "Weights should have no constraints"),
        ],
        ids=["half precision", "constraint"],
    )
    def test_layers_that_line_searches_cannot_train_are_named(self, data, options, message):
        layer = keras.layers.Dense(2, **options)
        model = compiled(keras.Sequential([keras.Input((5,)), layer]))
        with pytest.raises(ValueError, match=message):
            fit(model, data, 1)

    @pytest.mark.parametrize("line_searches", [0, 2.5])
    def test_line_searches_are_a_count(self, line_searches):
        with pytest.raises(ValueError, match="line_searches should be an integer"):
            trainer(line_searches=line_searches)

    def test_strategies_are_refused(self):
        with (
            tf.distribute.MirroredStrategy(["CPU:0"]).scope(),
            pytest.raises(RuntimeError, match="should run on one device"),
        ):
            trainer()

    @pytest.mark.slow
    def test_beats_as_many_steps_of_adam(self, data):
        fit(model := trainer(), data, 10)
        adam = Trainer(trainer().encoder)
        adam.compile(keras.optimizers.Adam(0.02))
        fit(adam, data, 60)
        assert model.evaluate(data, verbose=0) < adam.evaluate(data, verbose=0) + 0.02

    @pytest.mark.slow
    def test_a_run_that_was_cut_off_goes_on(self, data, tmp_path):
        """Also in its learned degrees of freedom, whose warm-up counts batches."""

        def crash(epoch, logs):
            if epoch == 2:
                raise RuntimeError("power cut")

        options = {"d": 3, "dof": "learn", "dof_warmup": 4}
        dof = fit(whole := trainer(**options), data, 5)["dof"]
        assert dof[:2] == pytest.approx([2.0, 2.0])
        assert abs(dof[2] - 2.0) > 0.01
        backup = keras.callbacks.BackupAndRestore(tmp_path, double_checkpoint=True)
        crashing = keras.callbacks.LambdaCallback(on_epoch_end=crash)
        with pytest.raises(RuntimeError, match="power cut"):
            fit(trainer(**options), data, 5, callbacks=[backup, crashing])
        rest = fit(model := trainer(**options), data, 5, callbacks=[backup])
        assert len(rest["loss"]) == 2
        for ours, theirs in zip(model.get_weights(), whole.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_saves_and_loads_and_goes_on(self, data, tmp_path):
        model = trainer(line_searches=2)
        fit(model, data, 1)
        model.save(tmp_path / "trainer.keras")
        loaded = keras.saving.load_model(tmp_path / "trainer.keras")
        assert fit(loaded, data, 1) == fit(model, data, 1)
