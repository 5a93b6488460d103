import numpy as np
import pytest
from support.fits import GRAPH, PLACED, SMALL

from ptsne_keras import ParametricTSNE


@pytest.fixture(scope="session")
def X(digits):
    return digits[0][0][:400]


@pytest.fixture(scope="session")
def new(digits):
    return digits[1][0][:50]


@pytest.fixture(scope="session")
def fitted(X):
    return ParametricTSNE(**SMALL).fit(X)


@pytest.fixture(scope="session")
def wide(X):
    """More columns than the principal components that the default method takes."""
    return np.column_stack([X, X[:, ::-1] * 0.3, X[:, ::2] - 0.1])


@pytest.fixture(scope="session")
def mapped(wide):
    return ParametricTSNE(**GRAPH).fit(wide)


@pytest.fixture(scope="session")
def placed(wide):
    return ParametricTSNE(**PLACED).fit(wide)
