"""Principal components: fewer columns to search, store and train on."""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from sklearn.decomposition import PCA

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays

# Components are estimated from at most this many rows: the error, ~1/√rows, is then negligible, and
# memory does not grow with the number of rows.
_SAMPLE = 100_000


class Projection(NamedTuple):
    """The affine map z = ((x - shift) / scale) · components, x [D] → z [m]."""

    shift: FloatArray
    """[D], the mean row"""
    scale: float
    components: FloatArray
    """[D, m], orthogonal columns of one length"""

    def apply(self, X: Any) -> FloatArray:
        """Return the float32 components [N, m] of rows [N, D], dense or sparse, block by block."""
        Z = np.empty((X.shape[0], self.components.shape[1]), np.float32)
        start = 0
        for part in arrays.row_blocks(X):
            Z[start : start + len(part)] = ((part - self.shift) / self.scale) @ self.components
            start += len(part)
        return Z

    def first(self, m: int) -> "Projection":
        """Return the projection onto the first m components."""
        return self._replace(components=self.components[:, :m])

    def outside2(self, X: Any, Z: FloatArray) -> FloatArray:
        """Return the squared distances [N] of rows to the space of their components Z [N, m]."""
        length2 = float(np.square(self.components[:, 0], dtype=np.float64).sum())
        whole2 = [
            np.square((x - self.shift) / self.scale).sum(axis=1) for x in arrays.row_blocks(X)
        ]
        inside2 = np.square(Z).sum(axis=1)
        return np.maximum(length2 * np.concatenate(whole2) - inside2, 0).astype(np.float32)


def principal_components(X: Any, m: int, *, seed: int | None = None) -> Projection:
    """Return the first m principal components of rows, scaled so that z has mean square 1."""
    n, features = X.shape
    if not 1 <= m <= min(n, features):
        raise ValueError(f"m should be from 1 to min(N, D) = {min(n, features)}. Received: {m!r}.")
    rng = np.random.default_rng(seed)
    if n > _SAMPLE:
        X = X[np.sort(rng.choice(n, _SAMPLE, replace=False))]
    if scipy.sparse.issparse(X) and m == min(X.shape):
        X = X.toarray()  # the sparse solver cannot find all components; they are as large as this
    sparse = scipy.sparse.issparse(X)
    values = X.data if sparse else X
    largest = float(max(values.max(initial=0.0), -values.min(initial=0.0))) or 1.0
    X = X / np.float32(largest)  # squares of 1e±30 stay within range
    solver = "arpack" if sparse else "auto"
    pca = PCA(m, svd_solver=solver, copy=False, random_state=int(rng.integers(2**31)))
    with np.errstate(invalid="ignore"):  # the explained share of a variance of 0
        Z = pca.fit_transform(X)
    length = float(np.sqrt(np.mean(np.square(Z)))) or 1.0
    components = (pca.components_.T / length).astype(np.float32)
    return Projection((pca.mean_ * largest).astype(np.float32), largest, components)
