"""Maps that grow: rows taken into the reference, fits that start from another, and drift."""

import pickle
import warnings

import numpy as np
import pytest
from support.fits import GRAPH, PLACED

from ptsne_keras import MapRegressor, ParametricTSNE, metrics


@pytest.fixture(scope="module")
def first(wide):
    """A map of the first 300 rows."""
    return ParametricTSNE(**PLACED).fit(wide[:300])


@pytest.fixture
def kinds(first, placed, wide):
    """Both estimators, each to be changed by the test."""
    return pickle.loads(pickle.dumps(first)), MapRegressor().fit(wide, placed.embedding_)


def test_new_rows_stay_where_they_were_placed_and_take_others_in(kinds, wide, new, tmp_path):
    rows = np.column_stack([new, new[:, ::-1] * 0.3, new[:, ::2] - 0.1])
    for estimator in kinds:
        before, places = estimator.transform(wide[:300]), estimator.transform(rows)
        strangers = estimator.novelty(rows)
        found = estimator.extend(rows)
        np.testing.assert_array_equal(found, places)
        np.testing.assert_array_equal(estimator.transform(wide[:300]), before)
        assert np.median(np.linalg.norm(estimator.transform(rows) - places, axis=1)) < 1e-3
        assert strangers.min() > 0
        assert not estimator.novelty(rows).any()
        np.testing.assert_allclose(
            estimator.encoder_(rows), estimator.transform(rows), rtol=1e-4, atol=1e-3
        )
        estimator.save(tmp_path / type(estimator).__name__)
        loaded = type(estimator).load(tmp_path / type(estimator).__name__)
        np.testing.assert_array_equal(loaded.transform(rows), estimator.transform(rows))
    tsne = kinds[0]
    assert len(tsne.embedding_) == 350
    np.testing.assert_array_equal(tsne.embedding_[300:], tsne.transform(rows))


def test_new_rows_alone_are_freed(kinds, wide):
    """Rows of a kind that the map does not have find one another."""
    tsne, regressor = kinds
    old, encoder = tsne.embedding_, tsne.encoder_
    rows = wide[300:] + 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        placed = tsne.transform(rows)
        found = tsne.extend(rows, refine_new=True)
    np.testing.assert_array_equal(tsne.embedding_[:300], old)
    np.testing.assert_array_equal(tsne.embedding_[300:], found)
    np.testing.assert_array_equal(tsne.transform(wide[:300]), old)
    np.testing.assert_allclose(tsne.transform(rows), found, atol=1e-3)
    kept = [metrics.neighborhood_recall(rows, Y, n_neighbors=10) for Y in (placed, found)]
    assert kept[1] > kept[0] + 0.1
    assert encoder is not tsne.encoder_
    with pytest.raises(ValueError, match=r"refine_new should be False .* Received: True"):
        regressor.extend(rows, refine_new=True)


def test_settings_stay_those_of_the_rows_that_were_learned(wide, tmp_path):
    tsne = ParametricTSNE(**{**PLACED, "epochs": 2}).fit(wide[:40])
    tsne.extend(wide[40:200])
    tsne.save(tmp_path)
    assert ParametricTSNE.load(tmp_path)._settings == tsne._settings


def test_rows_that_have_no_place_are_not_taken_in(placed, wide):
    rows = wide[:2] + np.float32([[0], [3e38]])
    with pytest.raises(ValueError, match=r"finite places.* 1 rows without one, the first at"):
        placed.extend(rows)
    assert len(placed.embedding_) == len(wide)


def test_rows_of_maps_that_are_not_freed_are_not_freed_later(wide):
    tsne = ParametricTSNE(4, **{**PLACED, "epochs": 2}).fit(wide[:60])
    with pytest.raises(ValueError, match="refine_new should be False for a map of 4 dimensions"):
        tsne.extend(wide[60:70], refine_new=True)


def test_a_network_alone_has_nothing_to_extend(mapped, wide):
    with pytest.raises(ValueError, match="extend needs the training rows"):
        mapped.extend(wide)


def test_drift_is_the_part_of_rows_that_are_far(placed, wide, rng):
    assert placed.drift(wide) == 0
    assert placed.drift(wide + 5) == 1
    half = np.concatenate([wide, wide + 5])
    assert placed.drift(half) == 0.5
    with pytest.warns(UserWarning, match="X should be rows like those of the fit"):
        placed.transform(wide + 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        placed.transform(wide)
        placed.transform((wide + 5)[:10])  # too few to tell


def test_a_fit_that_starts_from_another_keeps_its_picture(first, wide):
    again, anew = (
        ParametricTSNE(**{**PLACED, "random_state": 1}).fit(wide, init=init)
        for init in (first, None)
    )
    Y = first.embedding_
    moved = [np.median(np.linalg.norm(t.embedding_[:300] - Y, axis=1)) for t in (again, anew)]
    assert moved[0] < 0.15 * np.ptp(Y)
    assert moved[0] < moved[1] / 3
    assert metrics.procrustes_correlation(Y, again.embedding_[:300]) > 0.95


@pytest.mark.parametrize(
    ("options", "columns", "message"),
    [
        ({"n_components": 3}, 160, "init should be a fit with the same n_components, 3"),
        ({"metric": "cosine"}, 160, "init should be a fit with the same metric, 'cosine'"),
        ({"initial_dims": 20}, 160, "init should be a fit with the same initial_dims, 20"),
        ({}, 120, "init should be a fit with the same columns, 120"),
    ],
)
def test_fits_that_cannot_start_from_another_are_named(options, columns, message, mapped, wide):
    with pytest.raises(ValueError, match=message):
        ParametricTSNE(**{**GRAPH, **options}).fit(wide[:, :columns], init=mapped)
