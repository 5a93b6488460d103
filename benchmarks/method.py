"""The figure of docs/method.md: a row between two clusters, by mean, by network, by placement.

    python benchmarks/method.py docs/method.png

The map is the default one of digits; the row is the test row whose neighbours lie farthest apart.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

from ptsne_keras import ParametricTSNE, datasets, networks
from ptsne_keras.networks import Placement
from ptsne_keras.plotting import PALETTE

STYLES = {
    "mean of the neighbours": {"marker": "X", "color": "black", "s": 110},
    "the network": {"marker": "^", "color": "tab:blue", "s": 110},
    "placement: their mode": {"marker": "*", "color": "crimson", "s": 260},
}


def main(path: str = "docs/method.png") -> None:
    """Fit, place, draw."""
    (X, labels), (X_new, _) = datasets.digits()
    tsne = ParametricTSNE(random_state=0).fit(X)
    Y, layer = tsne.embedding_, tsne.encoder_.layers[-1]
    D2, near = (np.asarray(part) for part in layer.nearest(networks.front(tsne.encoder_)(X_new)[0]))
    p = np.asarray(layer._probabilities(D2))
    means = (p[:, :, None] * Y[near]).sum(axis=1)
    start, placed = tsne.transform(X_new, placement=False), tsne.transform(X_new)
    spread = (p * np.linalg.norm(Y[near] - means[:, None], axis=2)).sum(axis=1)
    row = int(np.argmax(spread))
    path_of = [start[row]]
    for steps in (1, 2, 4, 8, 15, 30):
        walk = Placement(layer.n_references, n_neighbors=layer.n_neighbors, steps=steps)
        path_of.append(np.asarray(walk.among(D2[[row]], Y[near[[row]]], start[[row]]))[0])

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    colors = np.array(PALETTE)[labels]
    for axes in (left, right):
        axes.scatter(*Y.T, s=8, c=colors, alpha=0.35, linewidths=0)
        axes.set_xticks([])
        axes.set_yticks([])
    left.scatter(*Y[near[row]].T, s=40 + 900 * p[row], facecolors="none", edgecolors="black")
    left.plot(*np.array(path_of).T, color="crimson", linewidth=1)
    for (name, style), place in zip(STYLES.items(), (means, start, placed), strict=True):
        left.scatter(*place[row], label=name, zorder=3, edgecolors="white", **style)
    left.set_title("One row: its neighbours (circles, by weight) lie in two clusters", fontsize=11)
    left.legend(loc="best", fontsize=9)
    inside = np.concatenate([Y[near[row]], means[[row]], start[[row]]])
    low, high = inside.min(axis=0), inside.max(axis=0)
    margin = 0.25 * (high - low).max()
    left.set_xlim(low[0] - margin, high[0] + margin)
    left.set_ylim(low[1] - margin, high[1] + margin)
    split = np.argsort(-spread)[:60]
    for name, place in (("mean of the neighbours", means), ("placement: their mode", placed)):
        style = STYLES[name] | {"s": 26 if name.startswith("mean") else 60}
        right.scatter(*place[split].T, label=name, zorder=3, edgecolors="white", **style)
    right.set_title("The 60 test rows whose neighbours lie farthest apart", fontsize=11)
    right.legend(loc="best", fontsize=9)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
