import json

import numpy as np
import pytest
import scipy.sparse
import sklearn.manifold
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from ptsne_keras import MapRegressor, ParametricTSNE, affinities, evaluate, evaluation, metrics
from ptsne_keras.estimators.scoring import scored_rows


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
    return evaluate(tsne, X, X_test, labels=labels, labels_test=labels_test)


@pytest.fixture
def measured(tsne, split):
    """Return a function that measures the map alone: of training rows, or of part="test"."""

    def measures(*given, estimator=tsne, part="training", **options):
        found = evaluate(estimator, *(given or split[:1]), pca=False, **options)
        return found["measures"][type(estimator).__name__][part]

    return measures


def test_divergence_is_minus_the_score(tsne, results, split):
    own = results["measures"]["ParametricTSNE"]
    for part, X in (("training", split[0]), ("test", split[2])):
        assert own[part]["kl_divergence"] == pytest.approx(-tsne.score(X), rel=1e-4)


@pytest.mark.parametrize("name", ["ParametricTSNE", "PCA"])
def test_measures_are_those_of_scikit_learn(name, tsne, results, split):
    X, labels, X_test, labels_test = split
    estimator = tsne if name == "ParametricTSNE" else PCA(2).fit(X)
    Y, Y_test = estimator.transform(X), estimator.transform(X_test)
    training, test = (results["measures"][name][part] for part in ("training", "test"))
    for found, A, B in ((training, X, Y), (test, X_test, Y_test)):
        # Distances are often equal here, and scikit-learn takes tied rows in any order.
        for measure, pair in (("trustworthiness", (A, B)), ("continuity", (B, A))):
            expected = sklearn.manifold.trustworthiness(*pair, n_neighbors=12)
            assert found[measure] == pytest.approx(expected, abs=2e-3)
    for k in (1, 5):
        expected = KNeighborsClassifier(k).fit(Y, labels).score(Y_test, labels_test)
        assert test[f"accuracy_{k}nn"] == pytest.approx(expected, abs=0.01)
        expected = metrics.knn_accuracy(Y, labels, n_neighbors=k)
        assert training[f"accuracy_{k}nn"] == pytest.approx(expected, abs=0.01)
    recall = metrics.neighborhood_recall(X, Y, X_test, Y_test)
    assert test["neighborhood_recall"] == pytest.approx(recall, abs=0.01)
    recall = metrics.neighborhood_recall(X, Y)
    assert training["neighborhood_recall"] == pytest.approx(recall, abs=0.01)
    rho = metrics.distance_correlation(X, Y)
    assert training["distance_correlation"] == pytest.approx(rho, abs=1e-3)
    for part in ("training", "test") if name == "ParametricTSNE" else ():
        own, pca = (results["measures"][each][part] for each in ("ParametricTSNE", "PCA"))
        for measure in ("trustworthiness", "neighborhood_recall", "accuracy_1nn"):
            assert own[measure] > pca[measure]


def test_results_are_json_and_the_table_shows_each_number(results):
    again = json.loads(json.dumps(results))
    assert again == results
    text = evaluation.table(again)
    for parts in results["measures"].values():
        for part in parts.values():
            assert all(f"{value:.3f}" in text for value in part.values())
    for words in ("300 training rows", "150 test rows", "T(12)", "seconds"):
        assert words in text
    assert len({len(line) for line in text.split("\n")[1:9]}) == 1


def test_the_measures_of_a_sample_are_close_and_the_table_says_so(tsne, results, split):
    sampled = evaluate(tsne, split[0], sample_size=150, pca=False)
    assert sampled["sample_size"] == {"training": 150, "test": 0}
    assert "Neighbours of 150 training rows, drawn at random" in evaluation.table(sampled)
    assert "drawn" not in evaluation.table(results)
    found, whole = (each["measures"]["ParametricTSNE"]["training"] for each in (sampled, results))
    for measure in ("trustworthiness", "continuity", "neighborhood_recall"):
        assert found[measure] == pytest.approx(whole[measure], abs=0.05)
    assert "accuracy_1nn" not in found


def test_unlabelled_rows_are_left_out_of_accuracy(tsne, split, measured):
    X, labels, *_ = split
    some = labels.astype(object)
    some[::3] = None
    present = np.arange(300) % 3 != 0
    expected = metrics.knn_accuracy(tsne.embedding_[present], labels[present])
    assert measured(labels=some)["accuracy_1nn"] == pytest.approx(expected, abs=0.01)
    assert "accuracy_1nn" not in measured(labels=X.mean(axis=1) + 0.1)


class Linear:
    """A map of another kind, with a scale of its own."""

    def __init__(self, weights):
        self.weights = weights

    def transform(self, X):
        return X @ self.weights


def test_a_map_of_another_kind_is_scaled_to_its_smallest_divergence(split, rng, measured):
    X = split[0]
    weights = rng.normal(size=(64, 2))
    small, large = (measured(estimator=Linear(scale * weights)) for scale in (1e-4, 1e4))
    assert small == pytest.approx(large, abs=1e-3)
    P = affinities.joint_probabilities(X, 15)
    scales = np.geomspace(1e-2, 1e3, 100)
    smallest = min(metrics.kl_divergence(P, scale * X @ weights) for scale in scales)
    assert small["kl_divergence"] == pytest.approx(smallest, abs=0.01)


def test_a_regressor_is_measured_too(split, tsne):
    X, _, X_test, _ = split
    regressor = MapRegressor(random_state=0)
    found = evaluate(regressor.fit(X, tsne.embedding_), X, X_test)["measures"]
    assert set(found) == {"MapRegressor", "PCA"}
    assert all(np.isfinite(list(found["MapRegressor"]["test"].values())))


def test_sparse_rows_are_measured_like_dense_ones(split, tsne, results):
    X, labels, X_test, labels_test = split
    rows = scipy.sparse.csr_matrix(X), scipy.sparse.csr_matrix(X_test)
    sparse = evaluate(tsne, *rows, labels=labels, labels_test=labels_test)["measures"]
    for name, parts in results["measures"].items():
        for part, measures in parts.items():
            assert sparse[name][part] == pytest.approx(measures, abs=0.01)


def test_fewer_rows_than_the_perplexity_needs_give_no_divergence(split):
    X = split[0]
    tsne = ParametricTSNE(hidden_units=(5,), epochs=1, perplexity=40, random_state=0).fit(X)
    own = evaluate(tsne, X, split[2][:30])["measures"]["ParametricTSNE"]
    assert own["test"]["kl_divergence"] is None
    assert own["training"]["kl_divergence"] > 0


@pytest.mark.parametrize("n", [1, 3, 24, 25])
def test_measures_for_which_there_are_too_few_test_rows_are_none(n, split, tsne):
    X, labels, X_test, labels_test = split
    found = evaluate(tsne, X, X_test[:n], labels=labels, labels_test=labels_test[:n])
    for parts in found["measures"].values():
        test = parts["test"]
        assert (test["trustworthiness"] is None) == (test["continuity"] is None) == (n <= 24)
        assert (test["distance_correlation"] is None) == (n < 3)
        assert None not in (test["neighborhood_recall"], test["accuracy_1nn"])
        assert None not in parts["training"].values()
    Y = tsne.embedding_, tsne.transform(X_test[:n])
    recall = metrics.neighborhood_recall(X, Y[0], X_test[:n], Y[1])
    own = found["measures"]["ParametricTSNE"]["test"]
    assert own["neighborhood_recall"] == pytest.approx(recall, abs=0.05)
    json.dumps(found)
    assert ("–" in evaluation.table(found)) == (n <= 24)


def test_labels_of_both_parts_together_decide_whether_they_are_classes(split, measured):
    _, labels, _, labels_test = split

    def accuracy(given, given_test):
        rows, options = split[::2], {"labels": given, "labels_test": given_test}
        return measured(*rows, part="test", **options).get("accuracy_1nn")

    expected = accuracy(labels, labels_test)
    holed = labels.astype(float)
    holed[:3] = np.nan
    assert accuracy(holed, labels_test) == pytest.approx(expected, abs=0.03)
    assert accuracy(labels, labels_test + 0.5) is None
    words, words_test = labels.astype(str), labels_test.astype(str)
    assert accuracy(words, words_test) == pytest.approx(expected)
    with pytest.warns(UserWarning, match=r"none of \[\d, .* is among \['\d', .*is 0\.$"):
        assert accuracy(words, labels_test) == 0
    words_test[1:] = ""  # a single row has a label
    assert accuracy(words, words_test) in (0, 1)


def test_maps_and_rows_that_are_not_finite_are_named(split):
    holed = Linear(np.full((64, 2), np.nan))
    with pytest.raises(ValueError, match=r"^Linear.transform\(X\) should be finite.*index 0\.$"):
        evaluate(holed, split[0])
    X_test = split[2].copy()
    X_test[3, 3] = np.inf
    with pytest.raises(ValueError, match=r"^X_test should be finite.*index 3\.$"):
        evaluate(Linear(np.ones((64, 2))), split[0], X_test)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_neighbors": 150}, "n_neighbors should be below half .*, 150. Received: 150"),
        ({"n_neighbors": 5.0}, "n_neighbors should be an integer of at least 1. Received: 5.0"),
        ({"n_neighbors": 0}, "n_neighbors should be an integer of at least 1. Received: 0"),
        ({"recall_neighbors": 2.5}, "recall_neighbors should be an integer .* Received: 2.5"),
        ({"recall_neighbors": 300}, "recall_neighbors should be from 1 to N - 1 = 299"),
        ({"sample_size": 0}, "sample_size should be an integer of at least 1"),
        ({"labels": [1, 2]}, "labels should have one value per row, 300. Received: 2"),
        ({"X_test": np.ones((9, 5))}, "64 features"),
    ],
)
def test_bad_input_is_named(options, message, tsne, split):
    with pytest.raises(ValueError, match=message):
        evaluate(tsne, split[0], **options)


def test_equal_places_have_an_equal_divergence_whoever_gives_them(split):
    X = split[0]
    tsne = ParametricTSNE(perplexity=15, hidden_units=(4,), epochs=1, random_state=0).fit(X)
    regressor = MapRegressor(random_state=0).fit(X, tsne.embedding_)
    found = [scored_rows(model, X).divergence(tsne.embedding_, 1.0) for model in (tsne, regressor)]
    assert found[0] == pytest.approx(found[1], rel=0.05)


def results_of(part="test", **measures):
    known = {"trustworthiness": 0.97, "neighborhood_recall": 0.53, "distance_correlation": 0.4}
    rows = {"training": 200, "test": 50 if part == "test" else 0}
    return {
        "rows": rows,
        "recall_neighbors": 10,
        "measures": {"ParametricTSNE": {part: known | measures}},
    }


@pytest.mark.parametrize(
    ("results", "near", "far"),
    [
        (results_of(), "Nearly all neighbours of test rows", "mean little here"),
        (results_of(), "5.3 of 10 neighbours in the data are so on the map", "gaps nor sizes"),
        (results_of("training", trustworthiness=0.85), "Most neighbours of training", "little"),
        (results_of(trustworthiness=0.7, distance_correlation=0.8), "Too few", "in the order of"),
        (results_of(trustworthiness=None, distance_correlation=None), "too few rows", "little"),
    ],
)
def test_two_sentences_say_what_the_figures_mean(results, near, far):
    first, second = evaluation.summary(results).splitlines()
    assert near in first
    assert far in second
