"""Which rows a fit should learn from that cannot learn from all: what a rare class loses.

    python benchmarks/sample.py [--classes 8 4 1]

One class of MNIST is thinned to a thousandth of the rows; a fit learns from 10,000 of 45,000. They
are drawn uniformly, as the package does, or along a coarse quantiser of 256 cells, a row by the
inverse of its cell's size or of the root of it. 1-NN accuracy of 10,000 validation rows, on the map
of all training rows, and of those of the rare class.
"""

import argparse
from collections.abc import Callable
from typing import Any
from unittest import mock

import data
import faiss
import numpy as np
from scipy.spatial import cKDTree

from ptsne_keras import ParametricTSNE
from ptsne_keras.estimators import _fit
from ptsne_keras.utils import pca

_RARE, _LEARNED, _CELLS, _HELD_OUT = 0.001, 10_000, 256, 10_000


def drawn_by(weights: Any) -> Callable[[int, int, int], Any]:
    """Return a stand-in for the package's draw, of rows by weights and without repetition."""

    def draw(n: int, most: int, seed: int) -> Any:
        keys = np.log(weights) + np.random.default_rng(seed).gumbel(size=n)
        return np.sort(np.argpartition(-keys, most)[:most])

    return draw


def cell_sizes(X: Any) -> Any:
    """Return for each row [N] how many rows its cell of the quantiser has."""
    Z = pca.principal_components(X, 50, seed=0).apply(X)
    kmeans = faiss.Kmeans(Z.shape[1], _CELLS, niter=10, seed=1)
    kmeans.train(Z)
    cell = kmeans.index.search(Z, 1)[1][:, 0]
    return np.bincount(cell, minlength=_CELLS)[cell]


def main() -> None:
    """Fit with each way of drawing, for each rare class, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", nargs="+", type=int, default=[8, 4, 1])
    X_all, labels_all = data.load("mnist")[0]
    X_new, labels_new = X_all[-_HELD_OUT:], labels_all[-_HELD_OUT:]
    print("| rare | drawn | its rows learned | 1-NN | of the others | of the rare |")
    print("|---|---|---|---|---|---|")
    for rare in parser.parse_args().classes:
        labels = labels_all[:-_HELD_OUT]
        of_class = np.random.default_rng(rare).permutation(np.flatnonzero(labels == rare))
        kept = np.delete(np.arange(len(labels)), of_class[round(_RARE * len(labels)) :])
        X, labels = X_all[kept], labels[kept]
        size = cell_sizes(X)
        ways = {"uniformly": _fit.drawn}
        ways |= {"1/√cell": drawn_by(size**-0.5), "1/cell": drawn_by(1 / size)}
        for name, draw in ways.items():
            with mock.patch.object(_fit, "drawn", mock.Mock(side_effect=draw)) as drawn:
                tsne = ParametricTSNE(random_state=0, max_train_rows=_LEARNED).fit(X)
            learned = int((labels[draw(*drawn.call_args.args)] == rare).sum())
            right = labels[cKDTree(tsne.embedding_).query(tsne.transform(X_new))[1]] == labels_new
            parts = (right, right[labels_new != rare], right[labels_new == rare])
            shares = " | ".join(f"{part.mean():.3f}" for part in parts)
            print(f"| {rare} | {name} | {learned} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
