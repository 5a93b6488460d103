"""Small real data sets as arrays."""

import numpy as np
import numpy.typing as npt
import sklearn.datasets
from sklearn.model_selection import train_test_split

from ptsne_keras.typing import FloatArray

Labels = npt.NDArray[np.int64]


def digits(
    test_size: float = 0.3, seed: int = 0
) -> tuple[tuple[FloatArray, Labels], tuple[FloatArray, Labels]]:
    """Handwritten digits, 1,797 rows of 8 x 8 pixels in [0, 1], split by class into train and test.

    Parameters
    ----------
    test_size : float
        Share of the rows that goes to the test set.
    seed : int
        Of the split.

    Returns
    -------
    (X_train, labels_train), (X_test, labels_test)
        X float32 [N, 64], labels int64 [N].

    Examples
    --------
    >>> (X_train, labels_train), (X_test, labels_test) = digits()
    >>> X_train.shape, X_test.shape
    ((1257, 64), (540, 64))

    References
    ----------
    UCI optical recognition of handwritten digits (Alpaydin & Kaynak, 1998), from scikit-learn.
    """
    X, labels = sklearn.datasets.load_digits(return_X_y=True)
    X_train, X_test, labels_train, labels_test = train_test_split(
        (X / 16).astype(np.float32), labels, test_size=test_size, stratify=labels, random_state=seed
    )
    return (X_train, labels_train), (X_test, labels_test)
