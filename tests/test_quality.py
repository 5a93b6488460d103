"""Bars for the quality of maps of test rows with default settings."""

from statistics import median

import pytest

from ptsne_keras import ParametricTSNE, datasets, metrics


@pytest.mark.slow
def test_digits_with_default_settings():
    """Stratified 70/30 splits, medians of three seeds: 1-NN ≥ 0.95, T(12) ≥ 0.94."""
    accuracies, trust = [], []
    for seed in range(3):
        (X, labels), (X_test, labels_test) = datasets.digits(seed=seed)
        tsne = ParametricTSNE(random_state=seed).fit(X)
        Y_test = tsne.transform(X_test)
        accuracies.append(metrics.knn_accuracy(tsne.embedding_, labels, Y_test, labels_test))
        trust.append(metrics.trustworthiness(X_test, Y_test))
    assert median(accuracies) >= 0.95
    assert median(trust) >= 0.94
