"""Maps that know the classes of some rows, or of all."""

import keras
import numpy as np
import pytest
from support.fits import PLACED

from ptsne_keras import ParametricTSNE, metrics
from ptsne_keras.affinities import Neighbors
from ptsne_keras.estimators._fit_graph import Graph, with_labels
from ptsne_keras.utils.labels import class_codes

# Classes that overlap, so that their labels have something to say.
OPTIONS = {**PLACED, "epochs": 20}


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=400)
    X = rng.normal(size=(4, 20))[labels] + rng.normal(size=(400, 20))
    return X.astype("float32"), labels


@pytest.fixture(scope="module")
def unlabelled(rows):
    return ParametricTSNE(label_weight=0.0, **OPTIONS).fit(*rows).embedding_


def together(Y, labels):
    """The accuracy of each row's class by the five others that are nearest."""
    return metrics.knn_accuracy(Y, labels, None, None, 5)


def test_classes_lie_together_the_more_the_more_they_weigh(rows, unlabelled):
    X, labels = rows
    maps = [ParametricTSNE(label_weight=w, **OPTIONS).fit(X, labels).embedding_ for w in (0.1, 0.5)]
    found = [together(Y, labels) for Y in (unlabelled, *maps)]
    assert found[0] < found[1] <= found[2]
    assert found[2] > 0.98


def test_some_labels_help_the_others(rows, unlabelled):
    X, labels = rows
    some = np.where(np.arange(400) % 4 == 0, labels, -1)
    others = some < 0
    maps = [unlabelled, ParametricTSNE(label_weight=0.5, **OPTIONS).fit(X, some).embedding_]
    accuracy = [
        metrics.knn_accuracy(Y[~others], labels[~others], Y[others], labels[others], 5)
        for Y in maps
    ]
    assert accuracy[1] > accuracy[0]


@pytest.mark.parametrize("none", [-1, None, np.nan, "words"])
def test_rows_without_a_class(none, rows):
    labels = rows[1]
    y = labels.astype(object) if none in (None, "words") else labels.astype(type(none))
    y[5:] = None if none == "words" else none
    if none == "words":
        y[:5] = [*"aabba"]
    codes = class_codes(y, 400)
    assert (codes[5:] == -1).all()
    _, expected = np.unique(y[:5].astype(str), return_inverse=True)
    np.testing.assert_array_equal(codes[:5], expected)


def test_without_any_class_y_is_ignored(rows):
    X = rows[0][:100]
    a, b, c = (ParametricTSNE(**{**OPTIONS, "epochs": 1}, label_weight=w) for w in (0, 0.5, 0))
    Y = b.fit(X, np.full(100, -1)).embedding_
    np.testing.assert_array_equal(a.fit(X).embedding_, Y)
    np.testing.assert_array_equal(c.fit(X, rows[1][:100]).embedding_, Y)


def test_a_fit_is_resumed_with_its_labels(rows):
    X, y = rows[0][:100], rows[1][:100]
    stop = keras.callbacks.EarlyStopping("loss", patience=0, mode="max", min_delta=99)
    tsne = ParametricTSNE(**OPTIONS, label_weight=0.5).fit(X, y, callbacks=stop)
    with pytest.raises(ValueError, match=r"y should be those of the unfinished .*others"):
        tsne.fit(X, y[::-1], resume=True)
    assert "stopped" not in tsne.fit(X, y, resume=True).history_


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "y should have a class for each of the 400 rows .* Received: None"),
        (np.zeros(3), r"Received: shape \(3,\)"),
        (np.full(400, 0.5), "y should be classes and not measurements"),
    ],
)
def test_labels_that_do_not_fit_are_named(y, message, rows):
    with pytest.raises(ValueError, match=message):
        ParametricTSNE(label_weight=0.5).fit(rows[0], y)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_weight_goes_from_other_classes_to_the_own(weight):
    rng = np.random.default_rng(0)
    codes = np.array([0] * 10 + [1] * 10 + [2] + [-1] * 9)
    indices = np.array([rng.choice(np.setdiff1d(np.arange(30), i), 6, False) for i in range(30)])
    P = rng.dirichlet(np.ones(6), size=30)
    near = Neighbors(indices, np.sort(rng.random((30, 6)), axis=1))
    found = with_labels(Graph(None, None, None, near, P), codes, weight, seed=0)
    np.testing.assert_allclose(found.P.sum(axis=1), 1, atol=1e-6)
    for i in range(30):
        mine = found.neighbors.indices[i, 6:]
        if codes[i] < 0 or codes[i] == 2:  # without a class, or alone in it
            assert found.P[i, 6:].sum() == 0
        else:
            assert found.P[i, 6:].sum() == pytest.approx(weight)
            assert (codes[mine] == codes[i]).all()
            assert i not in mine
        other = (codes[indices[i]] >= 0) & (codes[indices[i]] != codes[i]) & (codes[i] >= 0)
        if other.any() and not other.all():
            before = P[i, other].sum() / P[i, ~other].sum()
            after = found.P[i, :6][other].sum() / max(found.P[i, :6][~other].sum(), 1e-9)
            assert after == pytest.approx(before * (1 - weight), abs=1e-6)
