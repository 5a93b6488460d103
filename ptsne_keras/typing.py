"""Type aliases: what a name in a signature stands for."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Tensor: TypeAlias = Any
"""A tensor of the Keras backend in use, or anything that converts to one."""

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
"""A NumPy array of floating-point numbers."""

Dof: TypeAlias = float | Literal["auto"]
"""Degrees of freedom α of the Student-t kernel; "auto" is max(d - 1, 1)."""

Perplexity: TypeAlias = float | Sequence[float] | Tensor
"""A perplexity; or several, over which probabilities are averaged; or a variable that changes."""

Units: TypeAlias = Literal["bernoulli", "gaussian"]
"""Distribution of a layer of RBM units given the other layer."""

Scaling: TypeAlias = tuple[Any, Any]
"""(shift, scale), numbers or arrays [D]: rows x become (x - shift) / scale."""
