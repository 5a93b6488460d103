"""Which placements to trust: how far rows are from those that they lie among on the map."""

from typing import Any, NamedTuple, Self

import numpy as np
from scipy.spatial import cKDTree

from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays, pca
from ptsne_keras.utils.pca import Projection

# Principal components by which rows are compared, at most.
_DIMS = 50
# Neighbours on the map that a row is compared with: some may be of another cluster.
_NEIGHBORS = 15
# Rows that are compared at a time.
_BLOCK = 4096


class Reference(NamedTuple):
    """Training rows that placements are compared with, and how far apart is usual."""

    reduced: Projection
    """From rows to those of their components that are compared."""
    Z: FloatArray
    """Components [m, p] of training rows."""
    R2: FloatArray
    """What the components leave of the squares of these rows [m]."""
    Y: FloatArray
    """Their places [m, d]."""
    usual: FloatArray
    """Distances of held-out rows, ascending."""

    @classmethod
    def of(cls, X: Any, Y: FloatArray, held_out: Any, placed: FloatArray, *, seed: int) -> Self:
        """Compare training rows X [m, D] at Y [m, d] with held-out rows [h, D]."""
        m = min(_DIMS, *X.shape)
        reduced = pca.principal_components(X, m, seed=seed)
        found = cls(reduced, *_components(reduced, X), np.asarray(Y, np.float32), np.zeros(0))
        return found._replace(usual=np.sort(found.distances(held_out, placed)))

    def distances(self, X: Any, placed: FloatArray) -> FloatArray:
        """Distance [n] to the nearest, in the data, of the 15 rows that are nearest on the map."""
        Z, R2 = _components(self.reduced, X)
        tree = cKDTree(self.Y)
        k = min(_NEIGHBORS, len(self.Y))
        nearest = np.empty(len(Z))
        for start in range(0, len(Z), _BLOCK):
            part = slice(start, start + _BLOCK)
            near = tree.query(placed[part], k)[1].reshape(-1, k)  # [b, k]
            D2 = np.square(self.Z[near] - Z[part, None]).sum(axis=2) + self.R2[near]  # [b, k]
            nearest[part] = np.sqrt(D2.min(axis=1) + R2[part])
        return nearest

    def errors(self, X: Any, placed: FloatArray) -> FloatArray:
        """Distances [n] in units of what is usual."""
        return self.distances(X, placed) / (float(np.median(self.usual)) or 1.0)

    def confidence(self, X: Any, placed: FloatArray) -> FloatArray:
        """Part [n] of the held-out rows whose distance is larger."""
        below = np.searchsorted(self.usual, self.distances(X, placed), side="left")
        return 1.0 - below / len(self.usual)

    def arrays(self) -> dict[str, Any]:
        """Give all of it as arrays to be saved."""
        return {
            "shift": self.reduced.shift,
            "scale": np.float64(self.reduced.scale),
            "components": self.reduced.components,
            "reference": self.Z,
            "rest": self.R2,
            "places": self.Y,
            "usual": self.usual,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> Self:
        """Make it again from `arrays`."""
        reduced = Projection(arrays["shift"], float(arrays["scale"]), arrays["components"])
        names = ("reference", "rest", "places", "usual")
        return cls(reduced, *(arrays[name] for name in names))


def _components(reduced: Projection, X: Any) -> tuple[FloatArray, FloatArray]:
    """Components Z [n, p] of rows, and the squares that these leave [n]."""
    Z = reduced.apply(X)
    length2 = np.square(reduced.components[:, 0]).sum()
    whole = [
        np.square((part - reduced.shift) / reduced.scale).sum(axis=1)
        for part in arrays.row_blocks(X)
    ]
    R2 = length2 * np.concatenate(whole) - np.square(Z).sum(axis=1)
    return Z, np.maximum(R2, 0.0).astype(np.float32)
