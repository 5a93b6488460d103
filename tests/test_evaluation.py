import copy
import json

import numpy as np
import pytest
import scipy.sparse
import sklearn.manifold
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from ptsne_keras import MapRegressor, ParametricTSNE, affinities, evaluation, metrics


@pytest.fixture(scope="module")
def split(digits):
    (X, labels), (X_test, labels_test) = digits
    return X[:300], labels[:300], X_test[:150], labels_test[:150]


@pytest.fixture(scope="module")
def tsne(split):
    return ParametricTSNE(hidden_units=(30,), epochs=20, random_state=0).fit(split[0])


@pytest.fixture(scope="module")
def results(tsne, split):
    X, labels, X_test, labels_test = split
    return evaluation.evaluate(tsne, X, X_test, labels=labels, labels_test=labels_test)


def test_divergence_is_minus_the_score(tsne, results, split):
    measured = results["measures"]["ParametricTSNE"]
    for part, X in (("training", split[0]), ("test", split[2])):
        assert measured[part]["kl_divergence"] == pytest.approx(-tsne.score(X), rel=1e-4)


def test_measures_are_those_of_scikit_learn(tsne, results, split):
    X, labels, X_test, labels_test = split
    pca = PCA(2).fit(X)
    for name, transform in (("ParametricTSNE", tsne.transform), ("PCA", pca.transform)):
        Y, Y_test = transform(X), transform(X_test)
        measured = results["measures"][name]
        for part, A, B in (("training", X, Y), ("test", X_test, Y_test)):
            # Whole numbers of ink are often at one distance, where scikit-learn takes any order.
            near = pytest.approx(sklearn.manifold.trustworthiness(A, B, n_neighbors=12), abs=2e-3)
            assert measured[part]["trustworthiness"] == near
            near = pytest.approx(sklearn.manifold.trustworthiness(B, A, n_neighbors=12), abs=2e-3)
            assert measured[part]["continuity"] == near
        for k in (1, 5):
            classifier = KNeighborsClassifier(k).fit(Y, labels)
            accuracy = measured["test"][f"accuracy_{k}nn"]
            assert accuracy == pytest.approx(classifier.score(Y_test, labels_test), abs=0.01)
            accuracy = measured["training"][f"accuracy_{k}nn"]
            assert accuracy == pytest.approx(
                metrics.knn_accuracy(Y, labels, n_neighbors=k), abs=0.01
            )
        recall = metrics.neighborhood_recall(X, Y, X_test, Y_test)
        assert measured["test"]["neighborhood_recall"] == pytest.approx(recall, abs=0.01)
        recall = metrics.neighborhood_recall_per_row(X, Y).mean()
        assert measured["training"]["neighborhood_recall"] == pytest.approx(recall, abs=0.01)
        rho = metrics.distance_correlation(X, Y)
        assert measured["training"]["distance_correlation"] == pytest.approx(rho, abs=1e-3)


def test_a_map_of_neighbours_keeps_more_of_them_than_pca(results):
    for part in ("training", "test"):
        own, pca = (results["measures"][name][part] for name in ("ParametricTSNE", "PCA"))
        for measure in ("trustworthiness", "neighborhood_recall", "accuracy_1nn"):
            assert own[measure] > pca[measure]


def test_results_are_json_and_the_table_shows_each_number(results):
    again = json.loads(json.dumps(results))
    assert again == results
    text = evaluation.table(again)
    for measured in results["measures"].values():
        for part in measured.values():
            assert all(f"{value:.3f}" in text for value in part.values())
    assert "300 training rows" in text
    assert "150 test rows" in text
    assert "T(12)" in text
    assert "seconds" in text
    assert len({len(line) for line in text.split("\n")[1:9]}) == 1


def test_a_sample_is_said_and_close_to_all(tsne, results, split):
    sampled = evaluation.evaluate(tsne, split[0], sample=150, pca=False)
    assert sampled["sample"] == {"training": 150, "test": 0}
    assert "Neighbours of 150 training rows, drawn at random" in evaluation.table(sampled)
    assert "drawn" not in evaluation.table(results)
    whole = results["measures"]["ParametricTSNE"]["training"]
    for measure in ("trustworthiness", "continuity", "neighborhood_recall"):
        value = sampled["measures"]["ParametricTSNE"]["training"][measure]
        assert value == pytest.approx(whole[measure], abs=0.05)
    assert "accuracy_1nn" not in sampled["measures"]["ParametricTSNE"]["training"]


def test_rows_without_a_label_take_no_part_in_accuracy(tsne, split):
    X, labels, *_ = split
    some = labels.astype(object)
    some[::3] = None
    found = evaluation.evaluate(tsne, X, labels=some, pca=False)
    there = np.arange(300) % 3 != 0
    expected = metrics.knn_accuracy(tsne.embedding_[there], labels[there])
    measured = found["measures"]["ParametricTSNE"]["training"]["accuracy_1nn"]
    assert measured == pytest.approx(expected, abs=0.01)
    numbers = evaluation.evaluate(tsne, X, labels=X.mean(axis=1) + 0.1, pca=False)
    assert "accuracy_1nn" not in numbers["measures"]["ParametricTSNE"]["training"]


class Linear:
    """A map of another kind, in units of its own."""

    def __init__(self, weights):
        self.weights = weights

    def transform(self, X):
        return X @ self.weights


def test_a_map_in_units_of_its_own_is_scaled_to_its_least_divergence(split, rng):
    X = split[0]
    weights = rng.normal(size=(64, 2))
    small, large = (
        evaluation.evaluate(Linear(scale * weights), X, pca=False)["measures"]["Linear"]["training"]
        for scale in (1e-4, 1e4)
    )
    assert small == pytest.approx(large, abs=1e-3)
    P = affinities.joint_probabilities(X, 15)
    scales = np.geomspace(1e-2, 1e3, 100)
    least = min(metrics.kl_divergence(P, scale * X @ weights) for scale in scales)
    assert small["kl_divergence"] == pytest.approx(least, abs=0.01)


def test_a_regressor_is_measured_too(split, tsne):
    X, _, X_test, _ = split
    regressor = MapRegressor(epochs=1, random_state=0, objective="squares", network="elu")
    found = evaluation.evaluate(regressor.fit(X, tsne.embedding_), X, X_test)["measures"]
    assert set(found) == {"MapRegressor", "PCA"}
    assert all(np.isfinite(list(found["MapRegressor"]["test"].values())))


def test_sparse_rows_are_measured_as_dense_ones(split, tsne):
    X, labels, X_test, labels_test = split
    given = {"labels": labels, "labels_test": labels_test}
    dense = evaluation.evaluate(tsne, X, X_test, **given)["measures"]
    X, X_test = scipy.sparse.csr_matrix(X), scipy.sparse.csr_matrix(X_test)
    sparse = evaluation.evaluate(tsne, X, X_test, **given)["measures"]
    for name, parts in dense.items():
        for part, measures in parts.items():
            for measure, value in measures.items():
                assert sparse[name][part][measure] == pytest.approx(value, abs=0.01), measure


def test_too_few_rows_for_the_perplexity_give_no_divergence(split, tsne):
    other = copy.copy(tsne).set_params(perplexity=40)
    found = evaluation.evaluate(other, split[0], split[2][:30])
    measured = found["measures"]["ParametricTSNE"]
    assert measured["test"]["kl_divergence"] is None
    assert measured["training"]["kl_divergence"] > 0
    assert "–" in evaluation.table(found)


@pytest.mark.parametrize("n", [1, 2, 3, 24, 25])
def test_few_test_rows_leave_out_what_they_are_too_few_for(n, split, tsne):
    X, labels, X_test, labels_test = split
    given = {"labels": labels, "labels_test": labels_test[:n]}
    found = evaluation.evaluate(tsne, X, X_test[:n], **given)
    for measured in found["measures"].values():
        test = measured["test"]
        assert (test["trustworthiness"] is None) == (test["continuity"] is None) == (n <= 24)
        assert (test["distance_correlation"] is None) == (n < 3)
        assert None not in (test["neighborhood_recall"], test["accuracy_1nn"])
        assert None not in measured["training"].values()
    Y = tsne.embedding_, tsne.transform(X_test[:n])
    recall = metrics.neighborhood_recall(X, Y[0], X_test[:n], Y[1])
    own = found["measures"]["ParametricTSNE"]["test"]
    assert own["neighborhood_recall"] == pytest.approx(recall, abs=0.05)
    json.dumps(found)
    assert ("–" in evaluation.table(found)) == any(
        value is None for part in found["measures"].values() for value in part["test"].values()
    )


def accuracy(tsne, split, labels, labels_test):
    found = evaluation.evaluate(
        tsne, split[0], split[2], labels=labels, labels_test=labels_test, pca=False
    )
    return found["measures"]["ParametricTSNE"]["test"].get("accuracy_1nn")


def test_classes_are_told_from_numbers_by_training_and_test_labels_together(tsne, split):
    _, labels, _, labels_test = split
    expected = accuracy(tsne, split, labels, labels_test)
    holed = labels.astype(float)
    holed[:3] = np.nan
    assert accuracy(tsne, split, holed, labels_test) == pytest.approx(expected, abs=0.03)
    assert accuracy(tsne, split, labels, labels_test + 0.5) is None
    words, words_test = labels.astype(str), labels_test.astype(str)
    assert accuracy(tsne, split, words, words_test) == pytest.approx(expected)
    words_test[1:] = ""  # of one row alone
    assert accuracy(tsne, split, words, words_test) in (0, 1)


def test_test_labels_of_other_classes_are_said(tsne, split):
    _, labels, _, labels_test = split
    with pytest.warns(UserWarning, match=r"none of \[\d, .* is among \['\d', .*is 0\.$"):
        assert accuracy(tsne, split, labels.astype(str), labels_test) == 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_maps_and_rows_that_are_not_finite_are_named(wrong, split):
    holed = Linear(np.full((64, 2), np.nan))
    with pytest.raises(ValueError, match=r"^Linear.transform\(X\) should be finite.*index 0\.$"):
        evaluation.evaluate(holed, split[0])
    X_test = split[2].copy()
    X_test[3, 3] = wrong
    with pytest.raises(ValueError, match=r"^X_test should be finite.*index 3\.$"):
        evaluation.evaluate(Linear(np.ones((64, 2))), split[0], X_test)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 150}, "k should be below half the training rows, 150. Received: 150"),
        ({"k": 5.0}, "k should be an integer of at least 1. Received: 5.0"),
        ({"k": 0}, "k should be an integer of at least 1. Received: 0"),
        ({"neighbors": 2.5}, "neighbors should be an integer of at least 1. Received: 2.5"),
        ({"neighbors": 300}, "neighbors should be from 1 to N - 1 = 299"),
        ({"sample": 0}, "sample should be at least 1"),
        ({"labels": [1, 2]}, "labels should be one a row, 300. Received: 2"),
    ],
)
def test_bad_input_is_named(options, message, tsne, split):
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(tsne, split[0], split[2], **options)
    with pytest.raises(ValueError, match="64 features"):
        evaluation.evaluate(tsne, split[0], split[2][:, :5])
