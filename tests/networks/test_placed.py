"""Models of a fixed front, a network and the placement layer; novelty; smaller references."""

import keras
import numpy as np
import pytest

from ptsne_keras import networks
from ptsne_keras.networks import Placement, assembly
from ptsne_keras.utils import pca


@pytest.fixture
def X(rng):
    return (rng.normal(size=(900, 12)) * np.linspace(3, 0.2, 12) + 5).astype("float32")


@pytest.fixture
def reduced(X):
    return pca.principal_components(X, 4, seed=0)


@pytest.fixture
def model(X, reduced, rng):
    Y = rng.normal(size=(900, 2)).astype("float32")
    layer = Placement.from_reference(
        reduced.apply(X), Y, reduced.outside2(X, reduced.apply(X)), n_neighbors=5, perplexity=2.0
    )
    network = networks.encoder(12, 2, hidden_units=(8,), activation="tanh", seed=0)
    scaling, components = reduced[:2], reduced.components
    return networks.placed(layer, 12, scaling=scaling, components=components, network=network)


def distances(X, reduced, rows, others, k=5):
    """Distances in the space of all columns to the projections of the k nearest, row by row."""
    length2 = np.square(reduced.components[:, 0].astype(float)).sum()
    scaled = (np.asarray(X, float) - reduced.shift) / reduced.scale
    inside = scaled @ reduced.components @ reduced.components.T / length2
    found = []
    for i in rows:
        D2 = length2 * np.square(scaled[i] - inside[[j for j in others if j != i]]).sum(axis=1)
        found.append(np.sqrt(np.sort(D2)[:k].mean()))
    return np.array(found)


def test_the_front_gives_components_and_what_they_leave_out(model, reduced, X):
    z, outside2 = networks.front(model)(X)
    np.testing.assert_allclose(z, reduced.apply(X), atol=1e-5)
    np.testing.assert_allclose(outside2, reduced.outside2(X, reduced.apply(X)), atol=1e-4)
    scaled = (X.astype(float) - reduced.shift) / reduced.scale
    basis = reduced.components / np.linalg.norm(reduced.components[:, 0])
    left = scaled - scaled @ basis @ basis.T
    length2 = np.square(reduced.components[:, 0].astype(float)).sum()
    np.testing.assert_allclose(outside2, length2 * np.square(left).sum(axis=1), rtol=1e-2)


def test_novelty_is_the_quantile_of_the_distance_to_the_nearest_rows(model, reduced, X):
    layer, front = model.layers[-1], networks.front(model)
    usual = distances(X, reduced, range(900), range(900))
    layer.set_usual(usual)
    new = X[:60] * 1.1
    z, outside2 = front(new)
    found = np.asarray(layer.novelty(*layer.nearest(z), outside2))
    both = np.concatenate([X, new])
    expected = [(usual <= d).mean() for d in distances(both, reduced, range(900, 960), range(900))]
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_novelty_of_reference_rows_is_0_and_of_rows_that_are_not_finite_1(model, reduced, X):
    layer, front = model.layers[-1], networks.front(model)
    layer.set_usual(np.linspace(0.1, 1.0, 50))
    rows = X[:4].copy()
    rows[1, 2], rows[2, 0], rows[3, 1] = np.nan, np.inf, 3e38
    z, outside2 = front(rows)
    found = layer.novelty(*layer.nearest(z), outside2)
    np.testing.assert_array_equal(found, [0, 1, 1, 1])
    # Among the reference in the components alone, but not in the columns they leave out.
    z, outside2 = front(X[:4])
    assert np.asarray(layer.novelty(*layer.nearest(z), outside2 + 100.0)).min() == 1


def test_a_smaller_reference_has_means_of_cells_and_distances_of_its_own(model, X, rng):
    part = networks.smaller(model, 300, seed=1)
    layer, front = part.layers[-1], networks.front(part)
    assert 290 <= layer.n_references <= 300
    assert networks.network(part) is networks.network(model)
    assert networks.smaller(model, 900) is model
    np.testing.assert_allclose(front(X)[0], networks.front(model)(X)[0], atol=1e-6)
    whole, means = model.layers[-1].reference(), layer.reference()
    for rows, cells in zip(whole, means, strict=True):
        assert (cells.min(axis=0) >= rows.min(axis=0)).all()
        assert (cells.max(axis=0) <= rows.max(axis=0)).all()
    # Each row is nearer to its cell's place than to rows drawn at random.
    drawn = whole[1][rng.permutation(900)[: layer.n_references]]
    assert nearest(means[1], whole[1]).mean() < 0.8 * nearest(drawn, whole[1]).mean()


def nearest(Y, others):
    """Distance of each of the others to the nearest of Y."""
    return np.linalg.norm(others[:, None] - Y[None], axis=2).min(axis=1)


def test_the_usual_distances_of_a_smaller_reference_leave_each_row_out_of_its_mean(rng):
    Z, Y, outside2 = rng.normal(size=(200, 4)), rng.normal(size=(200, 2)), rng.uniform(size=200)
    layer = Placement.from_reference(Z, Y, outside2)
    whole = networks.placed(layer, 4, scaling=(0.0, 1.0), components=np.eye(4, dtype="float32"))
    cells, sizes = assembly._cells(layer.reference()[1], 80, 0)
    distances = []
    for i in range(200):
        others = np.arange(200) != i
        kept = [others & (cells == c) for c in range(len(sizes))]
        means = np.array([Z[rows].mean(axis=0) for rows in kept if rows.any()])
        D2 = np.sort(np.square(means - Z[i]).sum(axis=1))
        distances.append(np.sqrt(D2[:15].mean() + outside2[i]))
    usual = np.asarray(networks.smaller(whole, 80).layers[-1].usual)
    expected = np.quantile(distances, np.linspace(0, 1, len(usual)))
    np.testing.assert_allclose(usual, expected, rtol=0.01)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_cells_hold_all_rows_and_leave_their_means(d, rng):
    Y = rng.normal(size=(300, d)).astype("float32")
    cells, sizes = assembly._cells(Y, 40, 0)
    assert sizes.tolist() == [(cells == c).sum() for c in range(len(sizes))]
    assert len(sizes) <= 40
    assert sizes.sum() == 300
    for values in (Y, Y[:, 0]):
        expected = [values[cells == c].mean(axis=0) for c in range(len(sizes))]
        np.testing.assert_allclose(assembly._means(values, cells, sizes), expected, atol=1e-6)


def test_places_that_coincide_leave_one_reference_row(rng):
    Z = rng.normal(size=(60, 4))
    layer = Placement.from_reference(Z, np.ones((60, 2)))
    whole = networks.placed(layer, 4, scaling=(0.0, 1.0), components=np.eye(4, dtype="float32"))
    part = networks.smaller(whole, 20)
    assert part.layers[-1].n_references == 1
    np.testing.assert_allclose(part(Z[:3].astype("float32")), 1.0)
    assert np.isfinite(part.layers[-1].usual).all()


def test_a_model_is_saved_with_its_network_and_its_usual_distances(model, X, tmp_path):
    model.layers[-1].set_usual(np.arange(50.0))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    np.testing.assert_array_equal(loaded.layers[-1].usual, model.layers[-1].usual)
    np.testing.assert_array_equal(networks.network(loaded)(X), networks.network(model)(X))


def test_a_model_without_a_network_starts_from_the_mean_of_neighbours(model, reduced, X):
    scaling, components = reduced[:2], reduced.components
    layer = Placement.from_reference(*model.layers[-1].reference())
    alone = networks.placed(layer, 12, scaling=scaling, components=components)
    assert networks.network(alone) is None
    np.testing.assert_allclose(alone(X[:9]), layer(networks.front(alone)(X[:9])[0]), atol=1e-5)


def test_a_network_is_told_from_models_inside_other_models():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    rows = keras.Input((4,))
    assert networks.network(keras.Model(rows, keras.layers.Rescaling(2.0)(inner(rows)))) is None


@pytest.mark.parametrize("kept", [899, 880, 300])
def test_novelty_of_a_part_is_uniform_however_few_rows_are_left_out(kept, model, X, rng):
    part = networks.smaller(model, kept)
    rows = X + 0.3 * rng.normal(size=X.shape).astype("float32")
    z, outside2 = networks.front(part)(rows)
    assert 0.3 < np.median(part.layers[-1].novelty(*part.layers[-1].nearest(z), outside2)) < 0.8


def test_copies_of_reference_rows_are_not_new(X, reduced):
    rows = np.repeat(X[:30], 30, axis=0)
    layer = Placement.from_reference(
        reduced.apply(rows), rows[:, :2], reduced.outside2(rows, reduced.apply(rows))
    )
    layer.set_usual(np.linspace(0.0, 1e-4, 100))
    scaling, components = reduced[:2], reduced.components
    front = networks.front(networks.placed(layer, 12, scaling=scaling, components=components))
    z, outside2 = front(rows)
    assert np.asarray(layer.novelty(*layer.nearest(z), outside2)).max() == 0
