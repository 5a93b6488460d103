"""The gallery of docs/pictures.md: six plots of a map of the digits.

python benchmarks/pictures.py [docs/pictures.png]
"""

import sys

import matplotlib.pyplot as plt

from ptsne_keras import ParametricTSNE, datasets, plotting
from ptsne_keras.networks import rbm


def main(path: str = "docs/pictures.png") -> None:
    """Fit, draw and save."""
    (X, labels), (X_test, labels_test) = datasets.digits(seed=0)
    tsne = ParametricTSNE(random_state=0).fit(X)
    Y, Y_test = tsne.embedding_, tsne.transform(X_test)
    machine = rbm.RBM(100, seed=0)
    machine.fit(X / X.max(), epochs=100, verbose=0)
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.6), layout="constrained")
    plotting.overlay(Y, labels, Y_test, labels_test, ax=axes[0, 0])
    plotting.scatter(Y, X.mean(axis=1), continuous=True, ax=axes[0, 1])
    axes[0, 1].set_title("mean ink of a digit", fontsize=10)
    plotting.point_quality(X, Y, ax=axes[0, 2])
    plotting.shepard(X, Y, ax=axes[1, 0])
    plotting.recall_curve(X, Y, X_test=X_test, Y_test=Y_test, ax=axes[1, 1])
    plotting.rbm_filters(machine, ax=axes[1, 2])
    figure.savefig(path, dpi=68, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main(*sys.argv[1:])
