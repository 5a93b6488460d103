"""The way back from the map: errors of the decoder on held-out rows, beside means of near rows.

    python benchmarks/decoder.py [--datasets digits cells mnist] [--picture docs/inverse.png]

Fits five sixths of the training rows and goes back from where `transform` puts the others. Told are
mean squared errors as parts of the variance: of the decoder, and of the mean of the k training rows
that are nearest on the map. The picture is of the last data set: what lies where on a grid.
"""

import argparse
from typing import Any

import data
import matplotlib.pyplot as plt
import numpy as np
from sklearn.neighbors import NearestNeighbors

from ptsne_keras import ParametricTSNE, plotting

K = (1, 5, 10, 15, 30, 100)
TILES = 24


def nearest_means(Y: Any, X: Any, Y_new: Any) -> list[Any]:
    """Return the mean of the k nearest rows, for each k."""
    near = NearestNeighbors(n_neighbors=max(K)).fit(Y).kneighbors(Y_new, return_distance=False)
    return [np.mean([X[near[:, i]] for i in range(k)], axis=0) for k in K]


def draw(tsne: ParametricTSNE, labels: Any, path: str) -> None:
    """Draw the map, and beside it the rows at the middle of each tile in which there are any."""
    Y, side = tsne.embedding_, round(tsne.n_features_in_**0.5)
    low, size = Y.min(axis=0), np.ptp(Y, axis=0).max() / TILES
    count = np.histogram2d(*((Y - low) / size).T, bins=TILES, range=[(0, TILES)] * 2)[0]
    at = np.argwhere(count > 0)
    rows = tsne.inverse_transform(low + (at + 0.5) * size)
    whole = np.full((TILES, side, TILES, side), np.nan)
    whole[TILES - 1 - at[:, 1], :, at[:, 0]] = rows.reshape(-1, side, side)
    figure, axes = plt.subplots(1, 2, figsize=(13, 6.5), layout="constrained")
    plotting.scatter(Y, labels, ax=axes[0])
    axes[1].imshow(whole.reshape(TILES * side, -1), cmap="gray_r", vmin=0, vmax=1)
    axes[1].set_axis_off()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["digits", "cells", "mnist"])
    parser.add_argument("--picture", help="where to draw the last data set, of square images")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    heads = " | ".join(f"mean of {k}" for k in K)
    print(f"| rows | decoder | {heads} | decoder, s | fit, s |\n|---|---|" + "---|" * (len(K) + 2))
    for name in options.datasets:
        (X, labels), _ = data.load(name)
        order = np.random.default_rng(123).permutation(len(X))
        held, kept = order[: len(X) // 6], order[len(X) // 6 :]
        X_new, X, labels = X[held], X[kept], labels[kept]
        tsne = ParametricTSNE(decoder=True, random_state=options.seed).fit(X)
        Y_new, variance = tsne.transform(X_new), np.square(X_new - X.mean(axis=0)).mean()
        found = [tsne.inverse_transform(Y_new), *nearest_means(tsne.embedding_, X, Y_new)]
        errors = " | ".join(f"{np.square(F - X_new).mean() / variance:.3f}" for F in found)
        seconds = tsne.history_["seconds"]
        took = f"{seconds['decoder']:.0f} | {sum(seconds.values()):.0f}"
        print(f"| {name}, {len(X):,} | {errors} | {took} |", flush=True)
    if options.picture:
        draw(tsne, labels, options.picture)


if __name__ == "__main__":
    main()
