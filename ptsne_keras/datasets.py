"""Small real data sets, as arrays."""

import numpy as np
import numpy.typing as npt
import sklearn.datasets
from sklearn.model_selection import train_test_split

from ptsne_keras.typing import FloatArray

Labels = npt.NDArray[np.int64]


def digits(
    test_size: float = 0.3, seed: int = 0
) -> tuple[tuple[FloatArray, Labels], tuple[FloatArray, Labels]]:
    """Load 1,797 handwritten digits of 8 x 8 pixels in [0, 1], as training and test rows.

    The split is stratified by class.

    Parameters
    ----------
    test_size : float, default=0.3
        Share of the rows in the test set.
    seed : int, default=0
        Seed of the split.

    Returns
    -------
    (X_train, labels_train), (X_test, labels_test) : tuple of tuples of ndarray
        X is float32 of shape (n_samples, 64), labels are int64 of shape (n_samples,).

    Examples
    --------
    >>> (X_train, labels_train), (X_test, labels_test) = digits()
    >>> X_train.shape, X_test.shape
    ((1257, 64), (540, 64))

    References
    ----------
    Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository; the copy in scikit-learn.
    """
    X, labels = sklearn.datasets.load_digits(return_X_y=True)
    X_train, X_test, labels_train, labels_test = train_test_split(
        (X / 16).astype(np.float32), labels, test_size=test_size, stratify=labels, random_state=seed
    )
    return (X_train, labels_train), (X_test, labels_test)
