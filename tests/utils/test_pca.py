import numpy as np
import pytest
import scipy.sparse

from ptsne_keras import networks
from ptsne_keras.utils import pca


@pytest.fixture
def X(rng):
    return (rng.normal(size=(300, 30)) @ rng.normal(size=(30, 30)) + 5).astype(np.float32)


def test_components_are_those_of_the_covariance(X):
    found = pca.principal_components(X, 4)
    values, vectors = np.linalg.eigh(np.cov(X.T))
    expected = vectors[:, ::-1][:, :4]
    unit = found.components / np.linalg.norm(found.components, axis=0)
    np.testing.assert_allclose(np.abs(np.sum(unit * expected, axis=0)), 1, atol=1e-3)
    variances = found.apply(X).var(axis=0)
    np.testing.assert_allclose(variances / variances[0], values[::-1][:4] / values[-1], rtol=1e-2)


def test_all_components_keep_all_distances_up_to_one_scale(X):
    Z = pca.principal_components(X, 30).apply(X)
    D = np.linalg.norm(X[:, None] - X[None], axis=2)
    E = np.linalg.norm(Z[:, None] - Z[None], axis=2)
    ratio = (E + np.eye(300)) / (D + np.eye(300))
    off = ~np.eye(300, dtype=bool)
    np.testing.assert_allclose(ratio[off], ratio[0, 1], rtol=1e-3)
    assert np.square(Z).mean() == pytest.approx(1, rel=1e-3)


def test_sparse_rows_give_what_dense_ones_give(X):
    X = np.where(X > 9, X, 0)
    dense = pca.principal_components(X, 5, seed=0).apply(X)
    sparse = pca.principal_components(scipy.sparse.csr_matrix(X), 5, seed=0)
    np.testing.assert_allclose(
        np.abs(sparse.apply(scipy.sparse.csr_array(X))), np.abs(dense), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("scale", [1e-18, 1e-3, 1e15])
def test_any_scale(X, scale):
    Z = pca.principal_components(X * np.float32(scale), 5).apply(X * np.float32(scale))
    expected = pca.principal_components(X, 5).apply(X)
    np.testing.assert_allclose(np.abs(Z), np.abs(expected), rtol=1e-2, atol=1e-2)


def test_constant_rows_are_no_division_by_zero():
    Z = pca.principal_components(np.full((10, 4), 3.0), 2).apply(np.full((10, 4), 3.0))
    np.testing.assert_array_equal(Z, 0)


def test_many_rows_are_sampled(X, monkeypatch):
    monkeypatch.setattr(pca, "_SAMPLE", 100)
    first, again, other = (pca.principal_components(X, 3, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.components, again.components)
    assert not np.array_equal(first.components, other.components)
    assert first.apply(X).shape == (300, 3)


@pytest.mark.parametrize("m", [0, 31])
def test_a_number_of_components_out_of_range_is_named(X, m):
    with pytest.raises(ValueError, match=r"m should be from 1 to min\(N, D\) = 30"):
        pca.principal_components(X, m)


def test_an_encoder_with_components_is_its_head_after_the_projection(X):
    found = pca.principal_components(X, 5)
    model = networks.encoder(
        30, 2, hidden_units=(8,), scaling=found[:2], components=found.components, seed=0
    )
    head = networks.head(model)
    np.testing.assert_allclose(model(X), head(found.apply(X)), rtol=1e-4, atol=1e-5)
    assert [w.path for w in head.trainable_variables] == [w.path for w in model.trainable_variables]
    assert not model.get_layer("projection").trainable


def test_sparse_rows_have_as_many_components_as_columns(rng):
    X = rng.normal(size=(40, 6)).astype("float32")
    sparse = pca.principal_components(scipy.sparse.csr_array(X), 6, seed=0)
    dense = pca.principal_components(X, 6, seed=0)
    np.testing.assert_allclose(sparse.apply(X), dense.apply(X), atol=1e-5)
