"""t-SNE that keeps rows near given places: the loss, its metric and its batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import reference

from ptsne_keras import losses, networks
from ptsne_keras.data import batches
from ptsne_keras.losses import AnchoredTSNE, anchored_tsne
from ptsne_keras.metrics import AnchorError


@pytest.fixture
def drawn(rng):
    """P, anchors and map coordinates of 12 rows."""
    return reference.random_P(12), rng.normal(size=(12, 2)) * 3, rng.normal(size=(12, 2)) * 3


def beside(P, anchors):
    return np.concatenate([P, anchors], axis=1)


@pytest.mark.parametrize("weight", [0.0, 0.3, 10.0])
@pytest.mark.parametrize("dof", [0.5, 1.0, 4.0])
def test_it_agrees_with_a_double_loop(weight, dof, drawn):
    P, anchors, Y = drawn
    mean = sum(sum((y - a) ** 2) for y, a in zip(Y, anchors, strict=True)) / 12
    expected = reference.tsne(P, Y, dof, 1.5) + weight * mean
    options = {"weight": weight, "dof": dof, "exaggeration": 1.5}
    terms = anchored_tsne(beside(P, anchors), Y, **options)
    assert terms.shape == (12,)
    assert float(np.sum(terms)) == pytest.approx(expected, rel=1e-12)
    for jit_compile in (False, True):
        loss = AnchoredTSNE(**options, jit_compile=jit_compile)
        assert float(loss(beside(P, anchors), Y)) == pytest.approx(expected, rel=1e-5)


def test_its_gradient_pulls_rows_to_their_anchors(drawn):
    P, anchors, Y = drawn
    Y = tf.constant(Y)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(Y)
        both = tf.reduce_sum(anchored_tsne(beside(P, anchors), Y, weight=3.0))
        divergence = tf.reduce_sum(losses.tsne(P, Y))
    difference = tape.gradient(both, Y) - tape.gradient(divergence, Y)
    np.testing.assert_allclose(difference, 3.0 * 2 * (Y - anchors) / 12, rtol=1e-9)


def test_pairs_equal_their_matrix_and_stacked_batches_the_mean_of_each(drawn):
    _, anchors, Y = drawn
    P = np.zeros((12, 12))
    P[np.arange(12), (np.arange(12) + 6) % 12] = 1 / 12
    matrix, pairs = (beside(p, anchors) for p in (P, np.full((12, 1), 1 / 12)))
    np.testing.assert_allclose(
        anchored_tsne(pairs, Y, weight=2.0), anchored_tsne(matrix, Y, weight=2.0), rtol=1e-12
    )
    pairs = beside(np.full((12, 1), 1 / 6), anchors)
    stacked = AnchoredTSNE(weight=2.0, blocks=2)(pairs, Y)
    halves = [AnchoredTSNE(weight=2.0)(pairs[part], Y[part]) for part in (slice(6), slice(6, 12))]
    assert float(stacked) == pytest.approx(float(np.mean(halves)), rel=1e-6)


def test_loss_and_metric_survive_serialisation(drawn):
    P, anchors, Y = drawn
    loss = AnchoredTSNE(weight=2.0, exaggeration=1.5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert float(again(beside(P, anchors), Y)) == float(loss(beside(P, anchors), Y))
    metric = keras.metrics.deserialize(keras.metrics.serialize(AnchorError(4.0)))
    assert metric.variance == 4.0


def test_the_error_is_a_share_of_the_variance(rng):
    anchors = rng.normal(size=(100, 2)) * 5
    metric = AnchorError(anchors.var(axis=0).sum())
    pairs = beside(np.full((100, 1), 0.01), anchors)
    metric.update_state(pairs, np.broadcast_to(anchors.mean(axis=0), anchors.shape))
    assert float(metric.result()) == pytest.approx(1.0, rel=1e-5)
    metric.reset_state()
    metric.update_state(pairs, anchors)
    assert float(metric.result()) == pytest.approx(0.0, abs=1e-6)


def test_batches_contain_the_place_of_each_row(digits):
    X = digits[0][0][:200]
    places = np.stack([X.sum(axis=1), X[:, 20]], axis=1)
    for x, P_places in batches.from_graph(X, 10, 64, places=places, seed=0):
        assert P_places.shape == (len(x), 3)
        assert float(tf.reduce_sum(P_places[:, 0])) == pytest.approx(1.0, rel=1e-5)
        np.testing.assert_allclose(P_places[:, 1], tf.reduce_sum(x, axis=1), rtol=1e-5)
        np.testing.assert_array_equal(P_places[:, 2], x[:, 20])


def test_a_users_own_model_trains_on_it(digits):
    X = digits[0][0][:400]
    places = X @ np.random.default_rng(0).normal(size=(64, 2)) * 5
    variance = float(places.var(axis=0).sum())
    model = networks.encoder(64, 2, hidden_units=(64,), activation="relu", seed=0)
    loss, metrics = AnchoredTSNE(weight=100 / variance), [AnchorError(variance)]
    model.compile(keras.optimizers.Adam(0.01), loss=loss, metrics=metrics)
    data = batches.from_graph(X, 10, 100, places=places - places.mean(axis=0), seed=0)
    history = model.fit(data, epochs=60, shuffle=False, verbose=0).history
    assert history["error"][-1] < 0.1 < history["error"][0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda P, A, Y: AnchoredTSNE(weight=-1.0), "weight should be a finite number of at least"),
        (lambda P, A, Y: AnchoredTSNE(weight=np.nan), "weight should be a finite number"),
        (lambda P, A, Y: AnchoredTSNE(exaggeration=0), "exaggeration should be above 0"),
        (lambda P, A, Y: anchored_tsne(A, Y, weight=1.0), "followed by the places"),
        (lambda P, A, Y: anchored_tsne(P, Y, weight=1.0), r"P should be \[B, B\]"),
        (lambda P, A, Y: batches.from_graph(Y, 2, 6, places=A[:-1]), "the 12 rows of X. .*: 11"),
        (lambda P, A, Y: batches.from_graph(Y, 2, 6, places=A / 0), "places should be finite"),
    ],
    ids=["negative", "NaN", "exaggeration", "no P", "no places", "fewer places", "infinite"],
)
def test_bad_input_is_named(make, message, drawn):
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=message):
        make(*drawn)
