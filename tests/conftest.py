import gc
import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# Several processes run the tests: threads that wait for one another would take their cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import keras
import numpy as np
import pytest
from support.tables import table

from ptsne_keras import datasets

# A shell that starts pytest in the background makes it ignore SIGINT, and some parents SIGCHLD; the
# processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)


# The slowest files. They start first, or one of them would run alone at the end.
LONGEST = (
    *("test_notebooks", "test_sklearn_checks", "test_readme"),
    *("test_scales", "test_cli", "test_checkpoint", "test_dtypes"),
)


def pytest_collection_modifyitems(items):
    """Start with the slowest files."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)
    # Imported modules stay, and looking through them would add a second to each collection.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def same_start():
    """Draw the same random numbers whatever ran before, and leave no figure to the next test."""
    keras.utils.set_random_seed(0)
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True, scope="module")
def released_graphs():
    """Leave no graph of TensorFlow to the next file, or memory grows."""
    yield
    keras.utils.clear_session()  # and collects


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
