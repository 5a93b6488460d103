"""Rows of whatever scale are learnt."""

import numpy as np
import pytest
from support.fits import GRAPH, SMALL

from ptsne_keras import ParametricTSNE, metrics

ROWS = {
    "pixels in 0 … 255": lambda X: (X * 255).astype(np.uint8),
    "integers as floats": lambda X: np.rint(X * 16),
    "columns around 0": lambda X: X * 3 - 1,
    "large units": lambda X: (X - 0.5) * 1e6,
    "small units": lambda X: (X - 0.5) * 1e-6,
    "far from 0": lambda X: (X + 100) * 10,
    "negative": lambda X: -X,
    "a constant column": lambda X: np.column_stack([X - 0.5, np.full(len(X), 3.0)]),
    "duplicated rows": lambda X: np.concatenate([X, X[:50], X[:50]]),
}


EVERY_DAY = ("large units", "far from 0")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=[pytest.mark.slow] * (name not in EVERY_DAY))
        for name, make in ROWS.items()
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(SMALL, marks=pytest.mark.slow),
        pytest.param({**SMALL, "pretraining": None}, marks=pytest.mark.slow),
        GRAPH,
    ],
    ids=["rbm", "batch", "graph"],
)
def test_rows_of_any_scale_are_learnt(make, options, X):
    rows = make(X)
    tsne = ParametricTSNE(**{**options, "epochs": 120})
    Y = tsne.fit_transform(rows)
    assert np.isfinite(Y).all()
    assert metrics.trustworthiness(rows, Y, 12) > 0.85  # PCA: 0.82


@pytest.mark.slow
def test_a_new_value_in_a_constant_column_does_not_fling_a_row_away(X):
    rows = np.column_stack([X - 0.5, np.full(len(X), 3.0)])
    tsne = ParametricTSNE(**SMALL).fit(rows)
    moved = rows[:20].copy()
    moved[:, -1] += 0.1
    shift = np.abs(tsne.transform(moved) - tsne.transform(rows[:20])).max()
    assert shift < np.ptp(tsne.embedding_) / 4
