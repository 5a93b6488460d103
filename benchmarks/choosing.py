"""The figure of docs/choosing.md, digits at three perplexities, and how a map takes in a new kind.

python benchmarks/choosing.py docs/choosing.png
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

from ptsne_keras import ParametricTSNE, datasets, metrics, plotting


def grow(kind: int, *, refine_new: bool) -> float:
    """Return the share of its own among the 5 nearest of a class that the fit did not see."""
    (X, labels), _ = datasets.digits()
    new = labels == kind
    tsne = ParametricTSNE(random_state=0).fit(X[~new])
    Y = tsne.extend(X[new], refine_new=refine_new)
    D = np.linalg.norm(Y[:, None] - tsne.embedding_, axis=2)
    near = np.argsort(D, axis=1)[:, 1:6]  # without itself
    return float((near >= np.sum(~new)).mean())


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
    for kind in (0, 4, 8):
        shares = [grow(kind, refine_new=free) for free in (False, True)]
        print(f"{kind}: {shares[0]:.2f} of the 5 nearest are its own, refined {shares[1]:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
