"""The figure of docs/choosing.md: digits at three perplexities.

python benchmarks/choosing.py docs/choosing.png
"""

import sys

import matplotlib.pyplot as plt

from ptsne_keras import ParametricTSNE, datasets, metrics, plotting


def main(path: str = "docs/choosing.png") -> None:
    """Fit, measure, draw."""
    (X, labels), (X_new, labels_new) = datasets.digits()
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.4), layout="constrained")
    for ax, perplexity in zip(axes, (3, 30, 300), strict=True):
        tsne = ParametricTSNE(perplexity=perplexity, random_state=0).fit(X)
        Y, Y_new = tsne.embedding_, tsne.transform(X_new)
        plotting.scatter(Y, labels, ax=ax)
        trust = metrics.trustworthiness(X, Y, 5)
        right = metrics.knn_accuracy(Y, labels, Y_new, labels_new, 5)
        ax.set_title(f"perplexity {perplexity}: T(5) {trust:.3f}, 5-NN of new rows {right:.3f}")
        ax.title.set_fontsize(10)
        if ax is not axes[-1] and ax.get_legend():
            ax.get_legend().remove()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main(*sys.argv[1:])
