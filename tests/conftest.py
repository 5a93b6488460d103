import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
from support.tables import table

from ptsne_keras import datasets


@pytest.fixture(scope="session")
def digits():
    """((X_train, labels_train), (X_test, labels_test))."""
    return datasets.digits()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def X(rng):
    """Ninety rows of five columns; many files have rows of their own."""
    return rng.normal(size=(90, 5)).astype("float32")


@pytest.fixture
def frame(X):
    """The same rows as a table, with names and classes."""
    return table(X)
