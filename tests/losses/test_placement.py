"""t-SNE that stays near places on a map: the loss, its metric and its batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import reference

from ptsne_keras import losses, networks
from ptsne_keras.data import batches
from ptsne_keras.losses import placement
from ptsne_keras.losses.placement import Placement, PlacementError


@pytest.fixture
def drawn(rng):
    """P, places and map coordinates of 12 rows."""
    return reference.random_P(12), rng.normal(size=(12, 2)) * 3, rng.normal(size=(12, 2)) * 3


def beside(P, places):
    return np.concatenate([P, places], axis=1)


@pytest.mark.parametrize("weight", [0.0, 0.3, 10.0])
@pytest.mark.parametrize("dof", [0.5, 1.0, 4.0])
def test_it_agrees_with_a_double_loop(weight, dof, drawn):
    P, places, Y = drawn
    mean = sum(sum((y - t) ** 2) for y, t in zip(Y, places, strict=True)) / 12
    expected = reference.tsne(P, Y, dof, 1.5) + weight * mean
    terms = placement.placement(beside(P, places), Y, weight=weight, dof=dof, exaggeration=1.5)
    assert terms.shape == (12,)
    assert float(np.sum(terms)) == pytest.approx(expected, rel=1e-12)


def test_its_gradient_draws_rows_to_their_places(drawn):
    P, places, Y = drawn
    Y = tf.constant(Y)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(Y)
        both = tf.reduce_sum(placement.placement(beside(P, places), Y, weight=3.0))
        divergence = tf.reduce_sum(losses.tsne(P, Y))
    difference = tape.gradient(both, Y) - tape.gradient(divergence, Y)
    np.testing.assert_allclose(difference, 3.0 * 2 * (Y - places) / 12, rtol=1e-9)


def test_pairs_and_matrices_give_the_same(rng):
    Y, places = rng.normal(size=(8, 2)), rng.normal(size=(8, 2))
    P = np.zeros((8, 8))
    P[np.arange(8), (np.arange(8) + 4) % 8] = 1 / 8
    pairs = beside(np.full((8, 1), 1 / 8), places)
    np.testing.assert_allclose(
        placement.placement(pairs, Y, weight=2.0),
        placement.placement(beside(P, places), Y, weight=2.0),
        rtol=1e-12,
    )


def test_stacked_batches_are_batches_of_their_own(rng):
    Y, places = rng.normal(size=(12, 2)), rng.normal(size=(12, 2))
    pairs = beside(np.full((12, 1), 1 / 6), places)
    stacked = Placement(weight=2.0, blocks=2)(pairs, Y)
    halves = [Placement(weight=2.0)(pairs[part], Y[part]) for part in (slice(6), slice(6, 12))]
    assert float(stacked) == pytest.approx(float(np.mean(halves)), rel=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_loss_is_the_sum_of_its_terms(jit_compile, drawn):
    P, places, Y = drawn
    found = Placement(weight=2.0, dof="auto", exaggeration=1.5, jit_compile=jit_compile)(
        beside(P, places), Y
    )
    terms = placement.placement(beside(P, places), Y, weight=2.0, dof="auto", exaggeration=1.5)
    assert float(found) == pytest.approx(float(np.sum(terms)), rel=1e-5)


def test_loss_and_metric_are_made_again_from_their_configuration(drawn):
    P, places, Y = drawn
    loss = Placement(weight=2.0, exaggeration=1.5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert float(again(beside(P, places), Y)) == float(loss(beside(P, places), Y))
    metric = keras.metrics.deserialize(keras.metrics.serialize(PlacementError(4.0)))
    assert metric.variance == 4.0


def test_the_error_is_a_part_of_the_variance(rng):
    places = rng.normal(size=(100, 2)) * 5
    variance = places.var(axis=0).sum()
    metric = PlacementError(variance)
    pairs = beside(np.full((100, 1), 0.01), places)
    metric.update_state(pairs, np.broadcast_to(places.mean(axis=0), places.shape))
    assert float(metric.result()) == pytest.approx(1.0, rel=1e-5)
    metric.reset_state()
    metric.update_state(pairs, places)
    assert float(metric.result()) == pytest.approx(0.0, abs=1e-6)


def test_batches_bring_each_row_its_place(digits):
    X = digits[0][0][:200]
    places = np.stack([X.sum(axis=1), X[:, 20]], axis=1)
    for x, P_places in batches.from_graph(X, 10, 64, places=places, seed=0):
        assert P_places.shape == (len(x), 3)
        assert float(tf.reduce_sum(P_places[:, 0])) == pytest.approx(1.0, rel=1e-5)
        np.testing.assert_allclose(P_places[:, 1], tf.reduce_sum(x, axis=1), rtol=1e-5)
        np.testing.assert_array_equal(P_places[:, 2], x[:, 20])


def test_a_model_of_ones_own_trains_on_it(digits):
    X = digits[0][0][:400]
    places = X @ np.random.default_rng(0).normal(size=(64, 2)) * 5
    places -= places.mean(axis=0)
    variance = float(places.var(axis=0).sum())
    model = networks.encoder(64, 2, hidden_units=(64,), activation="relu", seed=0)
    model.compile(
        keras.optimizers.Adam(0.01),
        loss=Placement(weight=100 / variance),
        metrics=[PlacementError(variance)],
    )
    data = batches.from_graph(X, 10, 100, places=places, seed=0)
    history = model.fit(data, epochs=60, shuffle=False, verbose=0).history
    assert history["error"][-1] < 0.1 < history["error"][0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda P, T, Y: Placement(weight=-1.0), "weight should be a finite number of at least 0"),
        (lambda P, T, Y: Placement(weight=float("nan")), "weight should be a finite number"),
        (lambda P, T, Y: Placement(exaggeration=0), "exaggeration should be above 0"),
        (lambda P, T, Y: placement.placement(T, Y, weight=1.0), "and beside it the places"),
        (lambda P, T, Y: placement.placement(P, Y, weight=1.0), r"P should be \[B, B\]"),
        (
            lambda P, T, Y: batches.from_graph(Y, 2, 6, places=T[:-1]),
            "places should be as many as the 12 rows of X. Received: 11",
        ),
        (lambda P, T, Y: batches.from_graph(Y, 2, 6, places=T / 0), "places should be finite"),
    ],
    ids=["negative", "NaN", "exaggeration", "no P", "no places", "fewer places", "infinite"],
)
def test_what_does_not_fit_is_named(make, message, drawn):
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=message):
        make(*drawn)
