"""What tests read from a pipeline of batches."""

import numpy as np


def arrays(dataset):
    return list(dataset.as_numpy_iterator())


def assert_every_row_once(parts, X):
    seen = np.concatenate(parts)
    np.testing.assert_array_equal(seen[np.lexsort(seen.T)], X[np.lexsort(X.T)])
