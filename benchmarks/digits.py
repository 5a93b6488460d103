"""Map quality on digits: default settings, stratified 70/30 splits, several seeds.

    python benchmarks/digits.py [--seeds 5] [--json digits.json]

A seed is of the split and of the fit. Nothing in the defaults was chosen on these test rows: they
were chosen on validation rows split off the training rows.
"""

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from ptsne_keras import ParametricTSNE, datasets, metrics

MEASURES = ("1-NN", "5-NN", "T(12)", "recall(10)")


def quality(Y_train: Any, Y_test: Any, train: Any, test: Any) -> dict[str, float]:
    """Measure a map on the test rows."""
    return {
        "1-NN": metrics.knn_accuracy(Y_train, train[1], Y_test, test[1], 1),
        "5-NN": metrics.knn_accuracy(Y_train, train[1], Y_test, test[1], 5),
        "T(12)": metrics.trustworthiness(test[0], Y_test, 12),
        "recall(10)": metrics.neighborhood_recall(train[0], Y_train, test[0], Y_test, 10),
    }


def run(seed: int, **parameters: Any) -> dict[str, dict[str, float]]:
    """One split, one fit of each method."""
    train, test = datasets.digits(seed=seed)
    results = {}
    methods = {
        "ParametricTSNE": ParametricTSNE(random_state=seed, **parameters),
        "network alone": ParametricTSNE(placement=False, random_state=seed, **parameters),
        "three stages": ParametricTSNE(
            placement=False,
            random_state=seed,
            pretraining="cd1",
            sampling="batch",
            **parameters,
        ),
        "PCA": PCA(2, random_state=seed),
    }
    for name, method in methods.items():
        start = time.perf_counter()
        method.fit(train[0])
        seconds = time.perf_counter() - start
        Y_train, Y_test = (np.asarray(method.transform(X)) for X in (train[0], test[0]))
        results[name] = {**quality(Y_train, Y_test, train, test), "fit s": seconds}
        print(seed, name, {k: round(v, 3) for k, v in results[name].items()}, flush=True)
    return results


def table(runs: list[dict[str, dict[str, float]]]) -> str:
    """Median (lowest - highest) of each measure."""
    columns = (*MEASURES, "fit s")
    lines = [f"| {len(runs)} seeds, median (range) | " + " | ".join(columns) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    for name in runs[0]:
        cells = []
        for column in columns:
            values = [run[name][column] for run in runs]
            digits = 0 if column == "fit s" else 3
            middle, low, high = statistics.median(values), min(values), max(values)
            cells.append(f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", help="also write every run to this file")
    options = parser.parse_args()
    runs = [run(seed) for seed in range(options.seeds)]
    print("\n" + table(runs))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(runs, file, indent=1)


if __name__ == "__main__":
    main()
