"""A network of the user's own in `ParametricTSNE`, learned dof, several perplexities."""

import warnings

import keras
import numpy as np
import pytest
import sklearn
from support.fits import BOTH, Subclassed, conv

from ptsne_keras import MapRegressor, ParametricTSNE
from ptsne_keras.estimators.scoring import scored_rows


def two_inputs():
    keras.utils.set_random_seed(0)
    top, bottom = keras.Input((32,), name="top"), keras.Input((4, 8), name="bottom")
    x = keras.layers.Concatenate()([top, keras.layers.Flatten()(bottom)])
    return keras.Model([top, bottom], keras.layers.Dense(2)(x))


def residual():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((64,))
    x = keras.layers.Dense(32, "relu")(x)
    x = keras.layers.Add()([x, keras.layers.Dense(32, "relu")(x)])
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@keras.saving.register_keras_serializable(package="test_encoders")
class Registered(Subclassed):
    """A class that Keras knows when it loads a model."""


class Doubled(keras.layers.Layer):
    """A layer that Keras does not know when it loads a model."""

    def call(self, x):
        return 2 * x


def ending_in(layer):
    return keras.Sequential([keras.Input((64,)), keras.layers.Dense(2), layer])


OWN = {"placement": False, "epochs": 2, "batch_size": 200, "random_state": 0}


@pytest.mark.filterwarnings("ignore:`build:UserWarning")
@pytest.mark.parametrize("make", [conv, two_inputs, residual, Registered])
def test_any_model_is_trained_saved_loaded_and_fitted_again(make, X, new, tmp_path):
    tsne = sklearn.base.clone(ParametricTSNE(3 if make is residual else 2, encoder=make(), **OWN))
    tsne.fit(X)
    assert type(tsne.encoder).__name__ in repr(tsne)
    Y = tsne.transform(new)
    assert Y.shape == (50, 3 if make is residual else 2)
    tsne.save(tmp_path)
    loaded = ParametricTSNE.load(tmp_path)
    np.testing.assert_array_equal(loaded.transform(new), Y)
    np.testing.assert_array_equal(loaded.fit(X).transform(new), Y)


def test_fitting_starts_from_its_weights_and_leaves_them(X, new):
    model = conv()
    before = [w.copy() for w in model.get_weights()]
    tsne = ParametricTSNE(encoder=model, learning_rate=1e-9, **OWN).fit(X)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(tsne.transform(new), model(new.reshape(-1, 8, 8, 1)), atol=1e-3)
    Y = ParametricTSNE(encoder=model, **OWN).fit(X).transform(new)
    assert np.abs(Y - tsne.transform(new)).max() > 0.1


def test_layers_that_are_frozen_stay(X):
    model = conv()
    model.layers[0].trainable = False
    tsne = ParametricTSNE(encoder=model, **OWN).fit(X)
    (inner,) = [layer for layer in tsne.encoder_.layers if isinstance(layer, keras.Sequential)]
    np.testing.assert_array_equal(inner.get_weights()[0], model.get_weights()[0])
    assert not np.array_equal(inner.get_weights()[2], model.get_weights()[2])


def test_how_an_encoder_was_compiled_does_not_matter(X, tmp_path):
    model = conv()
    model.compile("adam", lambda a, b: keras.ops.mean(a - b))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ParametricTSNE(encoder=model, **OWN).fit(X).save(tmp_path)
    assert not ParametricTSNE.load(tmp_path).encoder.compiled
    assert model.compiled


def test_layers_may_have_any_name(X):
    layers = [keras.layers.Dense(2, "tanh", name=name) for name in ("alignment", "units")]
    model = keras.Sequential([keras.Input((X.shape[1],)), *layers])
    assert ParametricTSNE(encoder=model, **OWN).fit(X).embedding_.shape == (len(X), 2)
    regressor = MapRegressor(objective="squares", encoder=model, epochs=1)
    assert regressor.fit(X, X[:, :2]).transform(X).shape == (len(X), 2)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (conv, {"pretraining": "cd1"}, "encoder should be None with RBMs"),
        (conv, {"initial_dims": 20}, "initial_dims should be None with an encoder of your own"),
        (conv, {"n_components": 3}, r"encoder should give n_components coordinates, \[B, 3\]"),
        (Subclassed, {}, "encoder should be one that Keras can copy"),
        (lambda: ending_in(Doubled()), {}, "layer 'doubled' of Doubled"),
        (lambda: ending_in(keras.layers.Lambda(lambda x: 2 * x)), {}, "layer '.*' of Lambda"),
        (lambda: ending_in(keras.layers.Dense(2, ending_in)), {}, "layer '.*' of Dense"),
    ],
    ids=["rbm", "projection", "n_components", "not registered", "layer", "lambda", "activation"],
)
def test_encoders_that_cannot_be_trained_are_named(make, options, message, X):
    with pytest.raises(ValueError, match=message):
        ParametricTSNE(encoder=make(), **options).fit(X)


@BOTH
def test_dof_is_learned_saved_and_used(options, X, tmp_path):
    tsne = ParametricTSNE(dof="learn", **{**options, "epochs": 5, "n_components": 3}).fit(X)
    history = tsne.history_["finetune"]["dof"]
    assert history[0] == pytest.approx(2.0, abs=0.05)
    assert tsne.dof_ != 2.0
    kl = scored_rows(tsne, X).divergence(tsne.transform(X), tsne.dof_)
    assert tsne.kl_divergence_ == pytest.approx(kl, rel=1e-5)
    tsne.save(tmp_path)
    assert ParametricTSNE.load(tmp_path).dof_ == tsne.dof_


@BOTH
def test_several_perplexities(options, X, new, tmp_path):
    options = {**options, "epochs": 2, "perplexity": (5, 15)}
    tsne = ParametricTSNE(**options).fit(X)
    tsne.save(tmp_path)
    loaded = ParametricTSNE.load(tmp_path)
    assert loaded.perplexity == (5, 15)
    assert loaded.score(new) == tsne.score(new)
