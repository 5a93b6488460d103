"""Labels of none, some or all rows of MNIST: the class of new rows by their neighbours on the map.

    python benchmarks/labels.py [--weights 0.2 0.5] [--seed 0]

Told are 1-NN and 5-NN accuracy of the test rows among all training rows, whose labels the vote
knows whatever the fit did, and T(12) of the training rows, for no labels, for 1 % and for all.
"""

import argparse

import data
import numpy as np

from ptsne_keras import ParametricTSNE, metrics


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", nargs="+", type=float, default=[0.2, 0.5])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    (X, labels), (X_new, labels_new) = data.load("mnist")
    some = np.random.default_rng(options.seed).random(len(X)) < 0.01
    parts = {"1 %": np.where(some, labels, -1), "all": labels}
    print("| labels | weight | 1-NN | 5-NN | T(12) |\n|---|---|---|---|---|")
    cases = [("none", None, 0.0)]
    cases += [(name, y, w) for name, y in parts.items() for w in options.weights]
    for name, y, weight in cases:
        tsne = ParametricTSNE(label_weight=weight, random_state=options.seed).fit(X, y)
        Y, Y_new = tsne.embedding_, tsne.transform(X_new)
        right = [metrics.knn_accuracy(Y, labels, Y_new, labels_new, k) for k in (1, 5)]
        trust = metrics.trustworthiness(X[:10_000], Y[:10_000], 12)
        print(f"| {name} | {weight} | {right[0]:.4f} | {right[1]:.4f} | {trust:.3f} |", flush=True)


if __name__ == "__main__":
    main()
