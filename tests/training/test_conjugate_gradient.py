import keras
import numpy as np
import pytest
import tensorflow as tf
from support import reference

from ptsne_keras import networks
from ptsne_keras.data import batches
from ptsne_keras.training import conjugate_gradient
from ptsne_keras.training.trainer import Trainer


@pytest.fixture
def data(X):
    return batches.from_array(X, 8, 45, shuffle="once", seed=0)


def trainer(d=2, **options):
    encoder = networks.encoder(5, d, hidden_units=(16,), activation="sigmoid", seed=0)
    model = Trainer(encoder, **options)
    model.compile()
    return model


def test_value_and_gradient_are_those_of_the_loss(data):
    model = trainer(d=3, dof="learn")
    variables = model.trainable_variables
    evaluate = conjugate_gradient.objective(model, variables)
    x, P = next(iter(data))
    w = conjugate_gradient.flatten(variables)
    value, gradient = evaluate(w, x, P)
    kl = reference.tsne(P.numpy(), np.asarray(model.encoder(x)), model.dof)
    assert value == pytest.approx(kl, rel=1e-5)
    rng = np.random.default_rng(1)
    for _ in range(5):
        direction = rng.normal(size=w.shape)
        h = 1e-2 / np.linalg.norm(direction)
        ends = [evaluate(w + sign * h * direction, x, P)[0] for sign in (1, -1)]
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(gradient @ direction, rel=2e-2)


def test_flattened_weights_come_back(rng):
    variables = trainer().trainable_variables
    w = rng.normal(size=conjugate_gradient.flatten(variables).shape)
    conjugate_gradient.assign(variables, w)
    np.testing.assert_allclose(conjugate_gradient.flatten(variables), w, rtol=1e-6)


def test_line_searches_go_down_and_keep_the_best(data):
    model = trainer()
    evaluate = conjugate_gradient.objective(model, model.trainable_variables)
    x, P = next(iter(data))
    values = [evaluate(conjugate_gradient.flatten(model.trainable_variables), x, P)[0]]
    for _ in range(4):
        began, done, evaluations = conjugate_gradient.descend(
            evaluate, model.trainable_variables, x, P, 3
        )
        assert done == 3
        assert began == pytest.approx(values[-1], rel=1e-6)
        assert 3 <= evaluations < 30
        values.append(evaluate(conjugate_gradient.flatten(model.trainable_variables), x, P)[0])
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
    conjugate_gradient.descend(lambda w, x, P: (height(w), A @ w), [weights], None, None, 20)
    for _ in range(20):
        g = A @ w
        w = w - (g @ g) / (g @ A @ g) * g
    assert height(weights.value) < 0.02 * height(w)


def test_a_gradient_below_what_float32_resolves_is_followed(data):
    """The loss is flat to seven digits where all rows are nearly one point."""
    model = trainer()
    model.encoder.set_weights([3e-2 * w for w in model.encoder.get_weights()])
    evaluate = conjugate_gradient.objective(model, model.trainable_variables)
    x, P = next(iter(data))
    began, *_ = conjugate_gradient.descend(evaluate, model.trainable_variables, x, P, 10)
    value, _ = evaluate(conjugate_gradient.flatten(model.trainable_variables), x, P)
    assert value < began - 0.01


@pytest.mark.parametrize("beyond", [np.nan, np.inf, -np.inf])
def test_where_the_loss_is_no_number_is_too_far(beyond):
    def evaluate(w, x, P):
        inside = (w > 0.5).all()
        return (float(np.square(w - 0.6).sum()) if inside else beyond), 2 * (w - 0.6)

    weights = Weights(2)
    began, done, _ = conjugate_gradient.descend(evaluate, [weights], None, None, 3)
    assert began == pytest.approx(0.32)
    assert done > 0
    np.testing.assert_allclose(weights.value, 0.6, atol=0.05)


def test_a_slope_that_is_not_the_loss_costs_20_evaluations_a_line_search():
    weights = Weights(2)
    noise = np.random.default_rng(0)
    found = conjugate_gradient.descend(
        lambda w, x, P: (1 + noise.random(), noise.normal(size=2)), [weights], None, None, 2
    )
    assert found.evaluations <= 41


class TestFit:
    def test_a_whole_epoch_without_a_better_point_ends_it(self, data, monkeypatch):
        nothing = conjugate_gradient.Descent(1.0, 0, 60)
        monkeypatch.setattr(conjugate_gradient, "descend", lambda *_: nothing)
        with pytest.warns(UserWarning, match="Training ends after epoch 1"):
            history = conjugate_gradient.fit(trainer(), data, epochs=5).history
        assert history["line_searches"] == [0]

    def test_a_model_that_is_not_built_yet(self, data):
        encoder = keras.Sequential([keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)])
        model = Trainer(encoder)
        model.compile()
        history = conjugate_gradient.fit(model, data, epochs=3).history
        assert history["loss"][-1] < history["loss"][0]

    def test_double_precision(self, data):
        keras.config.set_dtype_policy("float64")
        try:
            history = conjugate_gradient.fit(trainer(d=3, dof="learn"), data, epochs=3).history
        finally:
            keras.config.set_dtype_policy("float32")
        assert history["loss"][-1] < history["loss"][0]

    def test_half_precision_is_refused(self, data):
        encoder = networks.encoder(5, 2, hidden_units=(8,), seed=0)
        half = keras.layers.Dense(2, dtype="mixed_bfloat16", name="half")
        model = Trainer(keras.Sequential([encoder, half]))
        model.compile()
        with pytest.raises(ValueError, match="Received: bfloat16 in half"):
            conjugate_gradient.fit(model, data, epochs=1)

    def test_constraints_are_refused(self, data):
        layer = keras.layers.Dense(2, kernel_constraint=keras.constraints.NonNeg())
        model = Trainer(keras.Sequential([keras.Input((5,)), layer]))
        model.compile()
        with pytest.raises(ValueError, match="Weights should have no constraints"):
            conjugate_gradient.fit(model, data, epochs=1)

    @pytest.mark.parametrize("line_searches", [0, -1, 2.5, None])
    def test_line_searches_are_a_count(self, data, line_searches):
        with pytest.raises(ValueError, match="line_searches should be an integer"):
            conjugate_gradient.fit(trainer(), data, epochs=1, line_searches=line_searches)

    def test_strategies_are_refused(self, data):
        with (
            tf.distribute.MirroredStrategy(["CPU:0"]).scope(),
            pytest.raises(RuntimeError, match="should run on one device"),
        ):
            conjugate_gradient.fit(trainer(), data, epochs=1)

    def test_history_and_callbacks_are_those_of_keras(self, data):
        seen = []

        class Look(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                seen.append(logs["loss"])

        model = trainer()
        history = conjugate_gradient.fit(
            model, data, epochs=4, validation_data=data, callbacks=[Look()]
        ).history
        assert history["loss"] == seen
        assert set(history) == {"loss", "val_loss", "line_searches", "evaluations"}
        assert np.all(np.diff(history["val_loss"]) < 0)
        assert history["loss"][1] < history["loss"][0]
        assert min(history["evaluations"]) >= 6

    def test_beats_as_many_steps_of_adam(self, data):
        conjugate_gradient.fit(model := trainer(), data, epochs=10)
        by_cg = model.evaluate(data, verbose=0)
        other = trainer()
        other.compile(keras.optimizers.Adam(0.02))
        other.fit(data, epochs=60, verbose=0)
        assert by_cg < other.evaluate(data, verbose=0) + 0.02

    def test_stops_where_a_callback_says_so(self, data):
        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = True

        model = trainer()
        assert len(conjugate_gradient.fit(model, data, epochs=5, callbacks=[Stop()]).epoch) == 1
        assert len(conjugate_gradient.fit(model, data, epochs=2).epoch) == 2

    def test_a_run_that_was_cut_off_goes_on(self, data, tmp_path):
        class Crash(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch == 2:
                    raise RuntimeError("power cut")

        conjugate_gradient.fit(whole := trainer(d=3, dof="learn"), data, epochs=5)
        backup = keras.callbacks.BackupAndRestore(tmp_path, double_checkpoint=True)
        with pytest.raises(RuntimeError, match="power cut"):
            conjugate_gradient.fit(
                trainer(d=3, dof="learn"), data, epochs=5, callbacks=[backup, Crash()]
            )
        conjugate_gradient.fit(
            model := trainer(d=3, dof="learn"), data, epochs=5, callbacks=[backup]
        )
        np.testing.assert_allclose(
            conjugate_gradient.flatten(model.trainable_variables),
            conjugate_gradient.flatten(whole.trainable_variables),
            rtol=1e-4,
            atol=1e-5,
        )

    def test_some_variables_wait_for_the_second_epoch(self, data):
        model = trainer(d=3, dof="learn")
        conjugate_gradient.fit(model, data, epochs=1, later=[model._log_dof])
        assert model.dof == pytest.approx(2.0)
        conjugate_gradient.fit(model, data, epochs=2, later=[model._log_dof])
        assert abs(model.dof - 2.0) > 0.01
