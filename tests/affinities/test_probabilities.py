import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import reference

from ptsne_keras import affinities
from ptsne_keras.affinities import perplexity as calibration
from ptsne_keras.affinities import probabilities


def blobs(n=120, d=6, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, d)) * 5
    return centres[rng.integers(4, size=n)] + rng.normal(size=(n, d))


def assert_joint(P):
    P = np.asarray(P)
    assert np.array_equal(P, P.T)
    assert not np.diag(P).any()
    assert P.sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    assert (P >= 0).all()


def assert_perplexity(C, perplexity):
    assert np.abs(reference.row_perplexities(C) - perplexity).max() < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("perplexity", [1.5, 5, 30, 100])
def test_every_row_has_the_perplexity_asked_for(dtype, perplexity):
    C = affinities.conditional_probabilities(blobs().astype(dtype), perplexity)
    assert C.dtype == dtype
    assert_perplexity(C, perplexity)


def test_large_perplexities_and_columns_of_very_different_scale_are_as_exact(digits, rng):
    X = np.concatenate([digits[0][0], digits[1][0]])
    assert_perplexity(affinities.conditional_probabilities(X, 1500), 1500)
    X = rng.normal(size=(100, 4)) * [1e-6, 1.0, 1e3, 1e6]
    assert_perplexity(affinities.conditional_probabilities(X, 10), 10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_joint_probabilities_agree_with_a_double_loop(dtype):
    X = blobs(60)
    P = affinities.joint_probabilities(X.astype(dtype), 12)
    assert_joint(P)
    tolerance = 1e-5 if dtype == "float64" else 1e-4
    expected = reference.joint_probabilities(X, 12)
    np.testing.assert_allclose(P, expected, rtol=tolerance, atol=tolerance * expected.max())


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6, 1e-20, 1e18])
def test_units_of_the_data_do_not_matter(scale):
    expected = affinities.joint_probabilities(blobs(), 20)
    P = affinities.joint_probabilities(np.float32(blobs() * scale), 20)
    assert_joint(P)
    np.testing.assert_allclose(P, expected, atol=2e-3 * np.max(expected))
    P = affinities.joint_probabilities(blobs() * scale, 20)
    np.testing.assert_allclose(P, expected, rtol=1e-3, atol=1e-12)
    with_constant_column = np.column_stack([blobs() * scale, np.full(120, 7.0)])
    P = affinities.joint_probabilities(with_constant_column, 20)
    np.testing.assert_allclose(P, expected, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_few_duplicates_are_calibrated_like_any_row(dtype):
    X = np.concatenate([blobs(), blobs()[:40], blobs()[:40]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        C = affinities.conditional_probabilities(X.astype(dtype), 10)
    assert_perplexity(C, 10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_more_duplicates_than_the_perplexity_take_the_nearest_value_and_warn_once(dtype, rng):
    # 64 columns far from 0: ‖a‖² + ‖b‖² - 2ab of equal rows is rounding noise, not 0.
    repeated = np.repeat(blobs(10, 64, seed=1) + 3, 25, axis=0)
    order = rng.permutation(370)
    X = np.concatenate([blobs(120, 64), repeated])[order].astype(dtype)
    with pytest.warns(UserWarning, match=r"250 of the rows .* Drop duplicates") as caught:
        C = affinities.conditional_probabilities(X, 10)
    assert len(caught) == 1
    perplexities = reference.row_perplexities(C)[np.argsort(order)]
    # 24 duplicates, all alike: no β gives less than 24, and the rest is exact.
    np.testing.assert_allclose(perplexities[120:], 24, atol=1e-4)
    np.testing.assert_allclose(perplexities[:120], 10, atol=1e-4)
    with pytest.warns(UserWarning, match="250 of the rows"):
        assert_joint(affinities.joint_probabilities(X, 10))


CUBE = np.array(np.meshgrid(*[[0, 1]] * 9)).reshape(9, -1).T * 0.3 + 0.1
NOISY = np.random.default_rng(0).random((100, 64))


@pytest.mark.parametrize(
    ("X", "ties"),
    [
        (np.ones((12, 3)), 11),
        (np.eye(100), 99),
        (np.repeat(np.float32(NOISY), 25, axis=0)[np.random.default_rng(1).permutation(2500)], 24),
        (np.float32(CUBE), 9),
    ],
    ids=["equal rows", "equidistant rows", "duplicates far from 0", "corners of a cube"],
)
def test_rows_at_the_same_distance_are_ties_whatever_the_rounding(X, ties):
    with pytest.warns(UserWarning, match=f"{len(X)} of the rows"):
        C = affinities.conditional_probabilities(X, 5)
    np.testing.assert_allclose(np.max(C, axis=1), 1 / ties, rtol=1e-5)
    np.testing.assert_array_equal(np.count_nonzero(np.asarray(C) > 1e-9, axis=1), ties)


def test_it_runs_in_a_graph_with_unknown_sizes_and_in_tf_data():
    X = np.float32(blobs())
    signature = [tf.TensorSpec([None, None], tf.float32)]
    graph = tf.function(lambda X: affinities.joint_probabilities(X, 20), input_signature=signature)
    expected = affinities.joint_probabilities(X, 20)
    np.testing.assert_allclose(graph(X), expected, rtol=1e-5, atol=1e-9)
    batches = tf.data.Dataset.from_tensor_slices(X).batch(60)
    batches = batches.map(lambda X: affinities.joint_probabilities(X, 20))
    for P, rows in zip(batches, (X[:60], X[60:]), strict=True):
        expected = affinities.joint_probabilities(rows, 20)
        np.testing.assert_allclose(P, expected, rtol=1e-5, atol=1e-9)


HOLED = np.where(np.eye(10) == 1, np.nan, 0)


@pytest.mark.parametrize(
    ("X", "perplexity", "message"),
    [
        (np.ones((2, 3)), 1.5, "at least 3 rows. Received: 2"),
        (np.eye(10), 9, r"below B - 1 = 9.*Received: 9"),
        (np.eye(10), 1.0, r"above 1.*Received: 1\.0"),
        (np.eye(10), np.nan, r"above 1.*Received: nan"),
        (np.ones(10), 5, r"\[B, D\] rows. Received: shape \(10,\)"),
        (HOLED, 5, "should be finite"),
        (np.where(np.eye(10) == 1, -np.inf, 0), 5, "should be finite"),
        (np.eye(5) * 1j, 2.5, "should be numeric and real"),
        (np.array([["a"] * 3] * 5), 2.5, "should be numeric and real"),
        *[
            (np.eye(10), u, "perplexity should be")
            for u in ((), (5, 1), (5, 200), "30", [None], True, tf.Variable([5.0, 9.0]),
                      keras.Variable(5.0), (u for u in (5, 9)))
        ],
    ],
)  # fmt: skip
def test_bad_input_is_named(X, perplexity, message):
    with pytest.raises(ValueError, match=message):
        affinities.joint_probabilities(X, perplexity)


def test_bad_input_is_named_in_a_graph():
    signature = [tf.TensorSpec([None, None], tf.float64)]
    graph = tf.function(lambda X: affinities.joint_probabilities(X, 5), input_signature=signature)
    below = "perplexity should be above 1 and below B - 1"
    for X, message in (
        (np.ones((2, 3)), "at least 3"), (np.eye(6), below), (HOLED, "should be finite")
    ):  # fmt: skip
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            graph(X)


@pytest.mark.parametrize("perplexity", [5, 8.5, 9.01, 9.5, 15, 100, 300])
def test_steep_entropies_converge(perplexity):
    """A few rows close by and all others in a far, thin shell: Newton alone oscillates."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(440, 200))
    shell = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    X = np.concatenate([shell[0] + 1e-2 * rng.normal(size=(10, 200)), shell])
    assert_perplexity(affinities.conditional_probabilities(X, perplexity), perplexity)


@pytest.mark.parametrize("perplexity", [3, 15, 60])
def test_digits_converge_in_any_batch_and_quickly(perplexity, digits, monkeypatch):
    monkeypatch.setattr(calibration, "_MAX_STEPS", 25)
    rows = np.concatenate([digits[0][0], digits[1][0]])
    graph = tf.function(lambda X: affinities.joint_probabilities(X, perplexity))
    rng = np.random.default_rng(0)
    for _ in range(10):
        assert np.isfinite(graph(tf.constant(rng.permutation(rows)[:440]))).all()


def test_rows_that_do_not_converge_are_named(monkeypatch):
    monkeypatch.setattr(calibration, "_MAX_STEPS", 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="did not converge"):
        affinities.joint_probabilities(blobs(), 20)


@pytest.mark.parametrize("outlier", [1e3, 1e5, 1e6])
def test_a_far_outlier_does_not_round_the_others(outlier):
    X = np.float32(np.random.default_rng(0).normal(size=(100, 10)))
    X[0] = outlier
    expected = reference.conditional_probabilities(X, 10)
    C = affinities.conditional_probabilities(X, 10)
    np.testing.assert_allclose(C, expected, atol=1e-3 * expected.max())


@pytest.mark.parametrize("several", [(5, 20, 50), np.array([5.0, 50.0]), np.array(5)])
def test_several_perplexities_give_their_mean(several, rng):
    X, distances = blobs(60), np.sort(rng.random((50, 60)), axis=1)
    for compute, rows in (
        (affinities.joint_probabilities, X),
        (affinities.neighbor_probabilities, distances),
    ):
        each = [compute(rows, float(u)) for u in np.ravel(several)]
        np.testing.assert_allclose(compute(rows, several), np.mean(each, axis=0), atol=1e-7)


def test_a_variable_is_read_when_the_graph_runs():
    X = tf.constant(blobs(60))
    u = tf.Variable(5.0)
    calibrate = tf.function(lambda: affinities.joint_probabilities(X, u))
    for value in (5.0, 20.0):
        u.assign(value)
        np.testing.assert_allclose(calibrate(), affinities.joint_probabilities(X, value), atol=1e-9)
    u.assign(59.0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="perplexity should be above 1 and"):
        calibrate()


# Over the k nearest neighbours


def test_probabilities_over_all_neighbours_are_those_of_the_whole_set(digits):
    X = digits[0][0][:200]
    found = affinities.nearest(X, 199)
    P = affinities.neighbor_probabilities(found.distances, 20)
    dense = np.zeros((200, 200))
    np.put_along_axis(dense, found.indices.astype(int), P, axis=1)
    np.testing.assert_allclose(dense, affinities.conditional_probabilities(X, 20), atol=2e-6)


@pytest.mark.parametrize("perplexity", [2.5, 10, 28])
def test_rows_over_few_neighbours_have_the_perplexity(digits, perplexity, monkeypatch):
    monkeypatch.setattr(probabilities, "_BLOCK", 64)  # several blocks, the last one short
    found = affinities.nearest(digits[0][0][:200], 30)
    P = affinities.neighbor_probabilities(found.distances, perplexity)
    np.testing.assert_allclose(reference.row_perplexities(P), perplexity, atol=1e-3)
    np.testing.assert_allclose(P.sum(axis=1, dtype=float), 1, atol=1e-5)
    assert (np.diff(P, axis=1) <= 1e-7).all()  # nearer ones are likelier


def test_many_duplicates_are_a_warning_and_uniform():
    with pytest.warns(UserWarning, match="40 of the rows have at least 3"):
        P = affinities.neighbor_probabilities(np.zeros((40, 9)), 3)
    np.testing.assert_allclose(P, 1 / 9)


def test_bad_distances_are_named():
    for distances, perplexity, message in (
        (np.ones((5, 4)), 4, "perplexity should be above 1 and below k = 4"),
        (np.ones((5, 4)), 1, "perplexity should be above 1"),
        (np.full((5, 4), np.nan), 2, "distances should be finite"),
        (np.ones(5), 2, "distances should be a 2-D array"),
    ):
        with pytest.raises(ValueError, match=message):
            affinities.neighbor_probabilities(distances, perplexity)
