"""The way back from a map: what a decoder learns, gives and keeps."""

import keras
import numpy as np
import pytest
import scipy.sparse
import sklearn
import tensorflow as tf
from sklearn.neighbors import KNeighborsRegressor
from support.fits import GRAPH, PLACED, SMALL

from ptsne_keras import MapRegressor, ParametricTSNE, serving
from ptsne_keras.estimators import _fit_decoder

SHORT = {**GRAPH, "epochs": 3}


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(_fit_decoder, "_PASSES", (5, 5))


@pytest.fixture(scope="module")
def decoded(wide):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fit_decoder, "_PASSES", (30, 30))
        return ParametricTSNE(decoder=True, **PLACED).fit(wide[:300])


def error(found, X):
    return np.square(found - X).mean()


def test_new_rows_come_back_as_well_as_from_the_nearest(decoded, wide):
    X, new = wide[:300], wide[300:]
    Y_new = decoded.transform(new)
    found = decoded.inverse_transform(Y_new)
    assert found.shape == new.shape
    assert found.dtype == np.float32
    nearest = KNeighborsRegressor(10).fit(decoded.embedding_, X).predict(Y_new)
    assert error(found, new) < 1.05 * error(nearest, new)
    curves = decoded.history_["decoder"]
    assert min(curves["val_error"]) < 0.8  # of the variance
    assert len(curves["error"]) == len(curves["seconds"])
    assert decoded.history_["seconds"]["decoder"] > 0


def test_it_is_saved_loaded_and_forgotten_with_its_fit(decoded, wide, tmp_path):
    Y = decoded.embedding_
    decoded.save(tmp_path)
    again = ParametricTSNE.load(tmp_path)
    assert again.decoder is True
    np.testing.assert_array_equal(again.inverse_transform(Y), decoded.inverse_transform(Y))
    again.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4  # the manifest, two models, arrays
    again.set_params(decoder=False, epochs=2).fit(wide[:100])
    with pytest.raises(ValueError, match="decoder should be True, or a model, in a fit"):
        again.inverse_transform(Y)
    again.save(tmp_path)
    assert ParametricTSNE.load(tmp_path).decoder_ is None


def own(d=2, features=64):
    return keras.Sequential([keras.Input((d,)), keras.layers.Dense(features)])


def test_a_network_of_the_users_own_is_trained_as_a_copy(X, tmp_path, monkeypatch):
    monkeypatch.setattr(_fit_decoder, "_PASSES", (60, 60))
    network = own()
    before = network.get_weights()
    tsne = ParametricTSNE(decoder=network, **SHORT).fit(X)
    assert all((a == b).all() for a, b in zip(before, network.get_weights(), strict=True))
    linear = np.linalg.lstsq(np.column_stack([tsne.embedding_, np.ones(400)]), X)[1].sum() / X.size
    assert error(tsne.inverse_transform(tsne.embedding_), X) < 1.2 * linear
    tsne.save(tmp_path)
    again = ParametricTSNE.load(tmp_path)
    assert isinstance(again.decoder, keras.Sequential)
    Y = tsne.embedding_[:5]
    np.testing.assert_array_equal(again.inverse_transform(Y), tsne.inverse_transform(Y))
    assert isinstance(sklearn.clone(again).decoder, keras.Sequential)


@pytest.mark.parametrize(
    "network", [own(3), own(2, 10), keras.Sequential([keras.layers.Dense(64)])]
)
def test_networks_that_do_not_fit_are_named_before_the_fit(network, X, monkeypatch):
    monkeypatch.setattr("ptsne_keras.estimators._fit_stages.fit", pytest.fail)
    with pytest.raises(ValueError, match=r"decoder should be a built model from map .* Received"):
        ParametricTSNE(decoder=network).fit(X)
    evil = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda y: y), *own().layers])
    with pytest.raises(ValueError, match="decoder should consist of layers"):
        ParametricTSNE(decoder=evil).fit(X)
    layers = [keras.Input((2,)), keras.layers.Dense(64, dtype="bfloat16")]
    with pytest.raises(ValueError, match="Weights should be kept in float32"):
        ParametricTSNE(decoder=keras.Sequential(layers)).fit(X)


@pytest.mark.parametrize("name", [pytest.param("units", marks=pytest.mark.slow), "a b"])
def test_its_name_may_be_any(name, X):
    network = keras.Sequential([keras.Input((2,)), *own().layers], name=name)
    tsne = ParametricTSNE(decoder=network, **{**SHORT, "epochs": 2}).fit(X[:90])
    assert tsne.inverse_transform([[0, 0]]).shape == (1, 64)
    assert network.name == name


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "cosine"},
        {"n_components": 1},
        {"n_components": 3, "placement": True},
        pytest.param(SMALL, marks=pytest.mark.slow),
    ],
    ids=["cosine", "1", "3, placed", "rbms"],
)
def test_whatever_the_map(options, X):
    """Rows come back in their own units."""
    rows = scipy.sparse.csr_array(7 * X) if "metric" in options else 7 * X
    tsne = ParametricTSNE(decoder=True, **{**SHORT, **options, "epochs": 2}).fit(rows)
    found = tsne.inverse_transform(tsne.embedding_)
    assert error(found, 7 * X) < error(7 * X.mean(axis=0), 7 * X)


def test_places_are_checked(decoded):
    with pytest.raises(ValueError, match=r"Y should have the map.s 2 columns\. Received: 3"):
        decoded.inverse_transform(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="Y should be finite"):
        decoded.inverse_transform(np.full((4, 2), np.nan))
    assert not hasattr(MapRegressor(), "inverse_transform")


def test_a_fit_that_is_stopped_has_it_when_it_has_gone_on(X):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 0

    tsne = ParametricTSNE(decoder=True, **SHORT).fit(X, callbacks=[Stop()])
    assert tsne.decoder_ is None
    assert tsne.fit(X, resume=True).inverse_transform(tsne.embedding_).shape == X.shape


@pytest.mark.slow
def test_a_server_goes_back_too(decoded, wide, tmp_path):
    options = {"reference": wide, "decoder": decoded.decoder_}
    names = decoded.get_feature_names_out()
    path = serving.export_saved_model(
        decoded.encoder_, tmp_path / "map", feature_names_out=names, **options
    )
    inverse = tf.saved_model.load(str(path)).signatures["inverse"]
    Y = decoded.embedding_[:7].copy()
    Y[3, 1] = np.nan  # spoils no other
    found = inverse(embedding=tf.constant(Y))["features"].numpy()
    np.testing.assert_allclose(found[:3], decoded.inverse_transform(Y[:3]), rtol=1e-4, atol=1e-4)
    assert np.isnan(found[3]).all()
    assert np.isfinite(found[4:]).all()
    assert serving.checks.facts(path)["feature_names_out"] == ["parametrictsne0", "parametrictsne1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": own(3, 160)}, r"decoder should be a model from places to rows, \(None, 2\)"),
        ({"feature_names_out": ["x"]}, "feature_names_out should be 2 names"),
    ],
    ids=["decoder", "names"],
)
def test_what_does_not_belong_to_the_encoder_is_not_exported(options, message, decoded, tmp_path):
    with pytest.raises(ValueError, match=message):
        serving.export_saved_model(decoded.encoder_, tmp_path, **options)
