"""`ParametricTSNE` by default: a network, its rows freed, and new rows placed among them."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import scipy.sparse
from support.fits import PLACED, SMALL, conv

from ptsne_keras import MapRegressor, ParametricTSNE, load, metrics, networks
from ptsne_keras.networks import placement

QUICK = PLACED | {"epochs": 2, "hidden_units": (16,)}


@pytest.fixture(scope="module")
def quick(wide):
    return ParametricTSNE(**QUICK).fit(wide)


def radius(Y):
    return np.linalg.norm(Y - Y.mean(axis=0), axis=1).max()


def test_the_whole_is_the_network_and_one_registered_layer(placed, wide):
    assert isinstance(placed.encoder_.layers[-1], networks.Placement)
    assert networks.network(placed.encoder_) is placed.network_
    assert placed.encoder_.layers[-1].n_references == len(wide)
    found = placed.encoder_.predict(wide[:50], verbose=0)
    np.testing.assert_allclose(found, placed.transform(wide[:50]), atol=1e-3)
    curve = placed.history_["refine"]
    assert curve["steps"] == [50, 100, 150, 200, 250]
    assert curve["loss"][-1] < curve["loss"][0]


def test_training_rows_come_back_to_their_places(placed, wide):
    moved = np.linalg.norm(placed.transform(wide) - placed.embedding_, axis=1)
    assert np.median(moved) < 0.01 * radius(placed.embedding_)


def test_the_usual_distances_are_those_of_training_rows_to_others(placed):
    layer = placed.encoder_.layers[-1]
    Z, _, outside2 = layer.reference()
    D2 = np.square(Z[:, None] - Z[None]).sum(axis=2)
    np.fill_diagonal(D2, np.inf)
    distances = np.sqrt(np.sort(D2)[:, : layer.n_neighbors].mean(axis=1) + outside2)
    expected = np.quantile(distances, np.linspace(0, 1, len(np.asarray(layer.usual))))
    np.testing.assert_allclose(layer.usual, expected, rtol=1e-3)


def test_new_rows_find_more_of_their_neighbours_than_by_the_network(placed, mapped, wide, new):
    rows = np.column_stack([new, new[:, ::-1] * 0.3, new[:, ::2] - 0.1])
    recall = {
        name: metrics.neighborhood_recall(wide, tsne.embedding_, rows, tsne.transform(rows), 10)
        for name, tsne in (("network", mapped), ("placed", placed))
    }
    assert recall["placed"] > recall["network"] + 0.1


def test_the_network_alone_answers_if_asked(placed, mapped, wide):
    np.testing.assert_allclose(
        placed.transform(wide[:9], placement=False), placed.network_(wide[:9]), rtol=1e-5
    )
    np.testing.assert_array_equal(
        mapped.transform(wide[:9]), mapped.transform(wide[:9], placement=False)
    )
    assert mapped.encoder_ is mapped.network_


def test_a_saved_model_places_rows_to_the_bit(placed, wide, tmp_path):
    placed.save(tmp_path / "map")
    again = load(tmp_path / "map")
    new = wide[:40] * 1.1
    np.testing.assert_array_equal(again.transform(new), placed.transform(new))
    np.testing.assert_array_equal(again.novelty(new), placed.novelty(new))
    np.testing.assert_array_equal(
        again.transform(new, placement=False), placed.transform(new, placement=False)
    )
    assert again.history_ == placed.history_
    assert again.score(wide) == pytest.approx(placed.score(wide))


def test_a_reference_that_is_searched_by_blocks_is_saved(wide, tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "_BLOCK", 2)
    n = len(wide) - 1 + len(wide) % 2  # odd, so that a row fills the last block
    placed = ParametricTSNE(**QUICK).fit(wide[:n])
    assert placed.encoder_.layers[-1]._block == 2
    placed.save(tmp_path / "map")
    again, new = load(tmp_path / "map"), wide[:40] * 1.1
    np.testing.assert_array_equal(again.transform(new), placed.transform(new))
    np.testing.assert_allclose(
        again.encoder_.predict(new, verbose=0), again.transform(new), atol=1e-3
    )


def test_the_networks_are_plain_keras(placed, wide, tmp_path):
    regressor = MapRegressor(objective="squares", epochs=1, random_state=0)
    regressor.fit(wide, placed.embedding_)
    networks = {"tsne": placed.network_, "regressor": regressor.encoder_}
    for name, network in networks.items():
        network.save(tmp_path / f"{name}.keras")
    np.save(tmp_path / "X.npy", wide)
    program = (
        "import sys; sys.modules['ptsne_keras'] = None\n"
        "import keras, numpy as np\n"
        "for name in sys.argv[1:]:\n"
        "    Y = keras.saving.load_model(f'{name}.keras')(np.load('X.npy'))\n"
        "    np.save(f'{name}.npy', Y)"
    )
    subprocess.run([sys.executable, "-c", program, *networks], cwd=tmp_path, check=True)
    for name, network in networks.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), network(wide))


def test_novelty_is_0_for_training_rows_uniform_for_usual_ones_and_1_for_strangers(placed, wide):
    assert placed.novelty(wide).max() < 0.01
    rng = np.random.default_rng(0)
    near = wide + 1e-2 * rng.normal(size=wide.shape).astype("float32")
    assert placed.novelty(near).mean() < 0.6
    assert placed.novelty(rng.permuted(wide, axis=1)).min() > 0.9
    assert (placed.novelty(1e3 * near) == 1).all()


def test_novelty_needs_rows_to_compare_with(mapped, wide):
    with pytest.raises(ValueError, match="novelty needs the training rows"):
        mapped.novelty(wide)


def test_kl_divergence_and_score_are_of_the_freed_rows(placed, mapped, wide):
    assert placed.kl_divergence_ < mapped.kl_divergence_
    assert placed.score(wide) == pytest.approx(-placed.kl_divergence_, abs=1e-3)


def test_two_fits_are_equal(quick, wide):
    maps = quick, ParametricTSNE(**QUICK).fit(wide)
    np.testing.assert_array_equal(maps[0].embedding_, maps[1].embedding_)
    np.testing.assert_array_equal(*(tsne.transform(wide * 1.01) for tsne in maps))


@pytest.mark.parametrize("n", [4, 5, 8, 12, 30, 60])
def test_few_rows_need_no_settings(n, X, new):
    tsne = ParametricTSNE(epochs=2, random_state=0).fit(X[:n])
    assert np.isfinite(tsne.embedding_).all()
    assert np.isfinite(tsne.kl_divergence_)
    assert tsne.transform(X[n : 2 * n]).shape == (n, 2)
    assert np.isfinite(tsne.transform(new)).all()
    assert ((tsne.novelty(new) >= 0) & (tsne.novelty(new) <= 1)).all()


@pytest.mark.parametrize("d", [1, 4, pytest.param(3, marks=pytest.mark.slow)])
def test_other_dimensions(d, X, new):
    tsne = ParametricTSNE(d, **QUICK).fit(X)
    assert tsne.transform(new).shape == (len(new), d)
    assert ("refine" in tsne.history_) == (d <= 3)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(SMALL | {"pretraining_epochs": 1}, marks=pytest.mark.slow),
        {"encoder": conv(), "random_state": 0},
    ],
    ids=["pretrained", "own network"],
)
def test_whatever_the_network(options, X, new):
    tsne = ParametricTSNE(**options | {"placement": True, "epochs": 2}).fit(X)
    assert np.isfinite(tsne.transform(new)).all()
    np.testing.assert_allclose(tsne.encoder_(new), tsne.transform(new), atol=1e-2)


def test_sparse_rows(quick, wide):
    sparse = ParametricTSNE(**QUICK).fit(scipy.sparse.csr_matrix(wide))
    new = wide[:30] * 1.05
    assert radius(sparse.embedding_) == pytest.approx(radius(quick.embedding_), rel=0.5)
    np.testing.assert_array_equal(
        sparse.transform(scipy.sparse.csr_matrix(new)), sparse.transform(new)
    )


@pytest.mark.slow
def test_learned_degrees_of_freedom_are_those_of_the_placement(X):
    tsne = ParametricTSNE(**QUICK | {"dof": "learn", "epochs": 3}).fit(X)
    assert tsne.encoder_.layers[-1].dof == pytest.approx(tsne.dof_)


def test_a_stopped_fit_places_rows_and_is_freed_when_it_is_resumed(wide, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    tsne = ParametricTSNE(**QUICK | {"epochs": 4}).fit(wide, callbacks=[Stop()])
    assert "refine" not in tsne.history_
    np.testing.assert_allclose(tsne.transform(wide), tsne.embedding_, atol=1e-3)
    tsne.save(tmp_path / "map")
    again = ParametricTSNE.load(tmp_path / "map")
    with pytest.raises(ValueError, match="rows of the unfinished fit"):
        again.fit(wide[::-1], resume=True)
    again.fit(wide, resume=True)
    assert "refine" in again.history_


def test_maps_of_both_estimators_place_rows_alike(placed, wide):
    regressor = MapRegressor(random_state=0).fit(wide, placed.embedding_)
    new = wide[:50] * 1.02
    moved = np.linalg.norm(regressor.transform(new) - placed.transform(new), axis=1)
    assert np.median(moved) < 0.05 * radius(placed.embedding_)
    np.testing.assert_allclose(regressor.novelty(new), placed.novelty(new), atol=0.02)


def test_a_network_alone_is_as_before_on_request(mapped, wide):
    assert "refine" not in mapped.history_
    np.testing.assert_array_equal(mapped.embedding_, mapped.transform(wide))


def test_an_own_network_without_placement_is_the_same_when_loaded(X, new, tmp_path):
    tsne = ParametricTSNE(encoder=conv(), placement=False, epochs=1, random_state=0).fit(X)
    tsne.save(tmp_path)
    again = ParametricTSNE.load(tmp_path)
    np.testing.assert_array_equal(again.transform(new, placement=False), tsne.transform(new))


def without_bias():
    layers = [keras.layers.Dense(64, "relu"), keras.layers.Dense(2, use_bias=False)]
    return keras.Sequential([keras.Input((64,)), *layers])


def bounded():
    layers = [keras.layers.Dense(64, "relu"), keras.layers.Dense(2, "tanh")]
    return keras.Sequential([keras.Input((64,)), *layers])


def in_half_precision():
    layers = [keras.layers.Dense(64, "relu", dtype="mixed_bfloat16") for _ in range(2)]
    last = keras.layers.Dense(2, dtype="mixed_bfloat16")
    return keras.Sequential([keras.Input((64,)), *layers, last])


def shared():
    inputs = keras.Input((64,))
    dense, last = keras.layers.Dense(2), keras.layers.Dense(2)
    return keras.Model(inputs, last(last(dense(inputs))))


@pytest.mark.parametrize(
    "make",
    [
        bounded,
        *(
            pytest.param(m, marks=pytest.mark.slow)
            for m in (without_bias, in_half_precision, shared)
        ),
    ],
)
def test_any_network_answers_on_the_freed_map(make, X, new):
    tsne = ParametricTSNE(encoder=make(), epochs=20, random_state=0).fit(X)
    Y = tsne.embedding_
    error = np.square(tsne.transform(X, placement=False) - Y).mean()
    assert error < 0.9 * np.square(Y - Y.mean(axis=0)).mean()
    assert np.isfinite(tsne.transform(new)).all()


def test_a_refused_fit_leaves_the_estimator_as_it_was(X, new):
    tsne = ParametricTSNE(**QUICK).fit(X)
    expected = tsne.transform(new)
    with pytest.raises(ValueError, match="perplexity should be below"):
        tsne.set_params(perplexity=5000.0).fit(X[:, :5])
    np.testing.assert_array_equal(tsne.transform(new), expected)
