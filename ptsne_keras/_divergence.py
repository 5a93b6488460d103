"""KL(P‖Q) of several maps of the same rows, each at the size that suits it."""

from typing import Any

import numpy as np
import scipy.optimize

from ptsne_keras import metrics
from ptsne_keras.estimators.parametric_tsne import ParametricTSNE
from ptsne_keras.estimators.scoring import scored_rows
from ptsne_keras.typing import FloatArray

# Sizes of a map, its coordinates' deviation, among which that of least divergence is sought.
_SIZES = (1e-2, 1e4)


class Divergence:
    """KL(P‖Q) of an estimator's map, and of others beside it, with the P of `score`."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        self.dof = getattr(estimator, "dof_", 1.0)
        self.scales: dict[str, float] = {}
        if isinstance(estimator, ParametricTSNE):
            self.scales[type(estimator).__name__] = 1.0

    def of(self, X: Any, maps: dict[str, FloatArray]) -> dict[str, float | None]:
        """Measure maps of rows X [N, D], the estimator's under the name of its class, in nats."""
        total, count = dict.fromkeys(maps, 0.0), 0
        for P, i in scored_rows(self.estimator, X).joint():
            for name, Y in maps.items():
                if name not in self.scales:
                    self.scales[name] = _best_scale(P, Y[i], self.dof)
                found = metrics.kl_divergence(P, self.scales[name] * Y[i], dof=self.dof)
                total[name] += len(i) * found
            count += len(i)
        return {name: total[name] / count if count else None for name in maps}


def _best_scale(P: Any, Y: FloatArray, dof: float) -> float:
    """Find the factor by which a map in units of its own has the least divergence."""
    deviation = float(np.std(Y, axis=0).max()) or 1.0

    def divergence(log_size: float) -> float:
        return metrics.kl_divergence(P, np.exp(log_size) / deviation * Y, dof=dof)

    bounds = np.log(_SIZES)
    found = scipy.optimize.minimize_scalar(divergence, bounds=bounds, options={"xatol": 0.02})
    return float(np.exp(found.x)) / deviation
