import numpy as np
import pytest
import scipy.sparse

from ptsne_keras import networks
from ptsne_keras.utils.pca import principal_components


@pytest.fixture
def X(rng):
    return (rng.normal(size=(300, 30)) @ rng.normal(size=(30, 30)) + 5).astype(np.float32)


def test_components_are_those_of_the_covariance(X):
    found = principal_components(X, 4)
    values, vectors = np.linalg.eigh(np.cov(X.T))
    unit = found.components / np.linalg.norm(found.components, axis=0)
    cosines = np.sum(unit * vectors[:, ::-1][:, :4], axis=0)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-3)
    variances = found.apply(X).var(axis=0)
    np.testing.assert_allclose(variances / variances[0], values[::-1][:4] / values[-1], rtol=1e-2)


def test_all_components_keep_all_distances_up_to_one_scale(X):
    Z = principal_components(X, 30).apply(X)
    D, E = (np.linalg.norm(A[:, None] - A[None], axis=2) + np.eye(300) for A in (X, Z))
    ratio = (E / D)[~np.eye(300, dtype=bool)]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
    assert np.square(Z).mean() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("m", [5, 30])
def test_sparse_rows_give_what_dense_ones_give(X, m):
    X = np.where(X > 9, X, 0)
    dense = principal_components(X, m, seed=0).apply(X)
    sparse = principal_components(scipy.sparse.csr_matrix(X), m, seed=0)
    found = sparse.apply(scipy.sparse.csr_array(X))
    np.testing.assert_allclose(np.abs(found), np.abs(dense), rtol=1e-2, atol=1e-2)


def test_rows_of_any_scale_and_constant_ones(X):
    expected = principal_components(X, 5).apply(X)
    for scaled in (X * np.float32(1e-18), X * np.float32(1e15)):
        Z = principal_components(scaled, 5).apply(scaled)
        np.testing.assert_allclose(np.abs(Z), np.abs(expected), rtol=1e-2, atol=1e-2)
    constant = np.full((10, 4), 3.0)
    np.testing.assert_array_equal(principal_components(constant, 2).apply(constant), 0)


def test_many_rows_are_sampled_and_a_bad_number_of_components_is_named(X, monkeypatch):
    monkeypatch.setattr("ptsne_keras.utils.pca._SAMPLE", 100)
    first, again, other = (principal_components(X, 3, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.components, again.components)
    assert not np.array_equal(first.components, other.components)
    assert first.apply(X).shape == (300, 3)
    for m in (0, 31):
        with pytest.raises(ValueError, match=r"m should be from 1 to min\(N, D\) = 30"):
            principal_components(X, m)


def test_an_encoder_with_components_is_its_head_after_the_projection(X):
    found = principal_components(X, 5)
    options = {"hidden_units": (8,), "scaling": found[:2], "components": found.components}
    model = networks.encoder(30, 2, **options, seed=0)
    head = networks.head(model)
    np.testing.assert_allclose(model(X), head(found.apply(X)), rtol=1e-4, atol=1e-5)
    assert [w.path for w in head.trainable_variables] == [w.path for w in model.trainable_variables]
    assert not model.get_layer("projection").trainable
