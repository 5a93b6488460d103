"""Type aliases for signatures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # aliases alone should not take the seconds that Keras does
    import keras

Tensor: TypeAlias = Any
"""A tensor of the Keras backend in use, or anything that converts to one."""

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
"""A NumPy array of floating-point numbers."""

Dof: TypeAlias = float | Literal["auto"]
"""Degrees of freedom α of the Student-t kernel; "auto" is max(d - 1, 1)."""

Perplexity: TypeAlias = float | Sequence[float] | Tensor
"""One perplexity, several whose probabilities are averaged, or a variable that may change."""

Units: TypeAlias = Literal["bernoulli", "gaussian"]
"""Conditional distribution of the units of an RBM layer, given the other layer."""

Callbacks: TypeAlias = "keras.callbacks.Callback | Sequence[keras.callbacks.Callback] | None"
"""As in `keras.Model.fit`."""

Scaling: TypeAlias = tuple[Any, Any]
"""(shift, scale), numbers or arrays [D]: a row x becomes (x - shift) / scale."""
