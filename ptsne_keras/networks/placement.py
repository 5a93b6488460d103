"""Placing rows among the places of their nearest reference rows, as a Keras layer."""

import math
from numbers import Real
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from ptsne_keras.typing import FloatArray, Tensor
from ptsne_keras.utils import validation

# Reference rows whose maximum is taken first: the k best rows lie in the k best blocks.
_BLOCK = 32
# Candidates beyond k that are ranked by their exact distances, since products round.
_SPARE = 9
# Search for log β: its bracket around the scale of a row's own distances, into how many parts it is
# divided at a time, and how often. Fewer, larger operations than bisection.
_LOW, _HIGH, _PARTS, _DIVISIONS = -9.0, 23.0, 8, 8
# Neighbours closer than this part of a row's mean distance are the row itself.
_SAME = 1e-3
# Of squares in float32, relative to them.
_ROUNDING = 1e-5
# Features and starting places are clipped here, so that squared distances stay finite.
_FARTHEST = 1e15
# What places rows besides the reference.
_OPTIONS = ("n_neighbors", "perplexity", "dof", "steps")
# Quantiles of the distances of the reference rows that are kept.
_QUANTILES = 1001


@keras.saving.register_keras_serializable(package="ptsne_keras")
class Placement(keras.layers.Layer):
    r"""Places rows on a map by the Student-t weighted mode of their neighbours' places.

    A row x finds its k nearest of M reference rows r_j, weights them by
    p_j ∝ exp(−β ‖x − r_j‖²) with β such that the entropy of p is log(perplexity), and takes a
    fixed number of steps from its starting place (by default Σ_j p_j y_j), ::

        y ← Σ_j p_j w_j y_j / Σ_j p_j w_j,    w_j = 1 / (1 + ‖y − y_j‖² / α)

    This is the fixed-point iteration of the attraction of t-SNE, and no step raises
    Σ_j p_j log(1 + ‖y − y_j‖² / α). It seeks the mode among the neighbours' places, where a
    weighted mean would put a row between two clusters.

    Rows that coincide with reference rows land on their places. Of fewer than k reference rows all
    are used, at a perplexity of at most half their number. Rows with NaN or infinity are placed at
    NaN. The gradient to the features holds β fixed.

    The distance of a row to its neighbours, as a quantile of the distances that reference rows have
    to theirs, is its `novelty`; `set_usual` sets the latter.

    Parameters
    ----------
    n_references : int
        M, the number of reference rows.
    dimensions : int, default=2
        d, the number of dimensions of the map.
    n_neighbors : int, default=15
        k, the number of neighbours of each row.
    perplexity : float, default=5.0
        Effective number of neighbours, above 1 and below k.
    dof : float, default=1.0
        α, the degrees of freedom of the Student-t kernel.
    steps : int, default=30
        Number of steps from the starting place.
    **options
        Options of `keras.layers.Layer`, such as `name`.

    Examples
    --------
    >>> layer = Placement.from_reference(X, Y, n_neighbors=10)
    >>> places = layer([X[:3], Y[:3] + 1.0])
    >>> bool(np.allclose(places, Y[:3], atol=1e-3))  # these rows are in the reference
    True

    References
    ----------
    Kent & Tyler (1991), Redescending M-estimates of multivariate location and scatter, for the
    iteration; van der Maaten & Hinton (2008) for the weights.
    """

    def __init__(
        self,
        n_references: int,
        dimensions: int = 2,
        *,
        n_neighbors: int = 15,
        perplexity: float = 5.0,
        dof: float = 1.0,
        steps: int = 30,
        **options: Any,
    ) -> None:
        options.setdefault("dtype", "float32")
        super().__init__(**options)
        if self.compute_dtype != "float32":
            raise ValueError(f"dtype should be float32. Received: {self.compute_dtype}.")
        self.n_references = validation.check_integer(n_references, "n_references")
        self.dimensions = validation.check_integer(dimensions, "dimensions")
        self.n_neighbors = validation.check_integer(n_neighbors, "n_neighbors")
        self.steps = validation.check_integer(steps, "steps")
        if not isinstance(perplexity, Real) or not 1 < perplexity < max(n_neighbors, 2):
            raise ValueError(
                f"perplexity should be above 1 and below n_neighbors = {n_neighbors}. "
                f"Received: {perplexity!r}."
            )
        if not isinstance(dof, Real) or not 0 < dof < math.inf:
            raise ValueError(f"dof should be a finite number above 0. Received: {dof!r}.")
        self.perplexity: float = float(perplexity)
        self.dof: float = float(dof)

    @classmethod
    def from_reference(
        cls, features: Any, places: Any, outside2: Any = None, **options: Any
    ) -> Self:
        """Return a layer with these reference rows [M, c] and their places [M, d].

        Parameters
        ----------
        features : array-like of shape (n_references, n_features)
            Reference rows, as the layer will see new rows.
        places : array-like of shape (n_references, n_components)
            Their places on the map.
        outside2 : array-like of shape (n_references,), default=None
            Their squared distances to the space that the features span; by default 0.
        **options
            Options of `Placement`.
        """
        Z = validation.check_rows(features, name="features", dtype=np.float32)
        Y = validation.check_rows(places, name="places", dtype=np.float32)
        if (largest := max(Z.max(), -Z.min())) > _FARTHEST:
            raise ValueError(
                f"features should be within ±{_FARTHEST:g}; scale them. Received: {largest:g}."
            )
        if len(Z) != len(Y):
            raise ValueError(
                f"places should be as many as the {len(Z)} rows of features. Received: {len(Y)}."
            )
        layer = cls(len(Z), Y.shape[1], **options)
        layer.set_reference(Z, Y, outside2)
        return layer

    def like(self, features: Any, places: Any, outside2: Any = None, **changes: Any) -> "Placement":
        """Return a layer with other reference rows and the options of this one, but for changes."""
        options = {name: getattr(self, name) for name in _OPTIONS} | changes
        return type(self).from_reference(features, places, outside2, **options)

    def build(self, input_shape: Any) -> None:
        """Create the weights, from the shape of the features, or those of features and start."""
        features = input_shape
        if not isinstance(input_shape[-1], int):
            features = input_shape[0]
        rows = self.n_references + -self.n_references % self._block
        # The reference is data and not trained.
        weights = {"initializer": "zeros", "trainable": False}
        self.shift = self.add_weight(shape=(features[-1],), name="shift", **weights)
        # The last column is −‖r‖²/2, so that one product yields the order of the distances.
        self.features = self.add_weight(shape=(rows, features[-1] + 1), name="features", **weights)
        self.places = self.add_weight(shape=(rows, self.dimensions), name="places", **weights)
        self.outside2 = self.add_weight(shape=(rows,), name="outside2", **weights)
        self.usual = self.add_weight(shape=(_QUANTILES,), name="usual", **weights)
        self.built = True

    def set_reference(
        self, features: FloatArray, places: FloatArray, outside2: FloatArray | None = None
    ) -> None:
        """Set the reference rows [M, c], their places [M, d], and what they are outside by [M]."""
        if not self.built:
            self.build((None, features.shape[1]))
        missing = -self.n_references % self._block
        # Products lose less if the rows lie around 0.
        shift = np.median(features, axis=0)
        self.shift.assign(shift)
        features = features - shift
        squares = 0.5 * np.einsum("ij,ij->i", features, features, dtype=np.float64)
        weights = np.zeros(self.features.shape, np.float32)
        weights[: self.n_references] = np.column_stack([features, -squares])
        # Rows that fill the last block are nobody's neighbours, and yet finite, as what is saved.
        weights[self.n_references :, -1] = np.finfo(np.float32).min
        self.features.assign(weights)
        self.places.assign(np.pad(places, ((0, missing), (0, 0))))
        if outside2 is not None:
            self.outside2.assign(np.pad(outside2, (0, missing)))

    def set_usual(self, distances: FloatArray) -> None:
        """Set what `novelty` compares with: the `distance` of rows to others, as training rows."""
        quantiles = np.quantile(distances, np.linspace(0, 1, _QUANTILES))
        self.usual.assign(quantiles.astype(np.float32))

    def reference(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the features [M, c], places [M, d] and outside2 [M] of the reference."""
        weights = (self.features, self.places, self.outside2)
        features, places, outside2 = (ops.convert_to_numpy(w)[: self.n_references] for w in weights)
        return features[:, :-1] + ops.convert_to_numpy(self.shift), places, outside2

    def call(self, inputs: Any) -> Tensor:
        """Return places [B, d] for features [B, c], or for features and starting places [B, d]."""
        given, start = inputs if isinstance(inputs, list | tuple) else (inputs, None)
        given = ops.cast(given, "float32")
        width = self.shift.shape[0]
        if given.shape[-1] != width or (start is not None and start.shape[-1] != self.dimensions):
            raise ValueError(
                f"The features should be [B, {width}], and the starting places "
                f"[B, {self.dimensions}]. Received: {given.shape} and "
                f"{None if start is None else start.shape}."
            )
        D2, near = self.nearest(given)
        y = self.among(D2, ops.take(self.places, near, axis=0), start)
        return ops.where(ops.all(ops.isfinite(given), axis=1, keepdims=True), y, math.nan)

    def nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the squared distances [B, k], in ascending order, and indices of the neighbours.

        Parameters
        ----------
        features : tensor of shape [B, c]
        """
        x = ops.clip(ops.cast(features, "float32"), -_FARTHEST, _FARTHEST) - self.shift
        near = self._candidate_rows(x)  # [B, k + spare]
        rows = ops.take(self.features, near, axis=0)[:, :, :-1]
        D2 = ops.sum(ops.square(x[:, None] - rows), axis=-1)
        D2 = ops.where(near < self.n_references, D2, math.inf)
        closest, order = ops.top_k(-D2, self._neighbors)
        return -closest, ops.take_along_axis(near, order, axis=1)

    def among(self, D2: Tensor, places: Tensor, start: Tensor | None = None) -> Tensor:
        """Return places [B, d] among neighbours found elsewhere.

        A row whose starting place is not finite is placed at NaN.

        Parameters
        ----------
        D2 : tensor of shape [B, k]
            Squared distances of the rows to their neighbours, in ascending order.
        places : tensor of shape [B, k, d]
            The places of the neighbours.
        start : tensor of shape [B, d], default=None
            The starting places; by default the weighted means of the neighbours' places.
        """
        p = self._probabilities(D2)
        # Relative to the nearest place, in units of the kernel: a map may lie far from the origin
        # in units whose squares overflow. Dimensions come first, which makes sums of k contiguous.
        origin, unit = places[:, 0], math.sqrt(self.dof)
        places = ops.transpose((places - origin[:, None]) / unit, (2, 0, 1))  # [d, B, k]
        if start is None:
            y = ops.sum(p * places, axis=2, keepdims=True)
        else:
            start = (ops.cast(start, "float32") - origin) / unit
            near = ops.clip(start, -_FARTHEST, _FARTHEST)
            y = ops.transpose(ops.where(ops.isfinite(start), near, math.nan))[:, :, None]
        for _ in range(self.steps):
            weights = p / (1.0 + ops.sum(ops.square(y - places), axis=0))  # [B, k]
            weights = weights / ops.sum(weights, axis=1, keepdims=True)
            y = ops.sum(weights * places, axis=2, keepdims=True)
        return origin + unit * ops.transpose(y[:, :, 0])

    def distance(self, D2: Tensor, outside2: Tensor = 0.0) -> Tensor:
        """Return the root mean square distances [B] of rows to their neighbours.

        Parameters
        ----------
        D2 : tensor of shape [B, k]
            Squared distances of the rows to their neighbours.
        outside2 : tensor of shape [B], default=0.0
            Squared distances of the rows to the space that the features span, such as that of
            principal components.
        """
        return ops.sqrt(ops.mean(D2, axis=1) + outside2)

    def novelty(self, D2: Tensor, near: Tensor, outside2: Tensor = 0.0) -> Tensor:
        """Return the distances [B] of rows as quantiles of the usual distances.

        0 is a row that coincides with a reference row, 0.5 a usual row, and 1 a row that is farther
        away than any, or not finite.

        Parameters
        ----------
        D2, near : tensors of shape [B, k]
            Squared distances of the rows to their neighbours, and the indices of these.
        outside2 : tensor of shape [B], default=0.0
            As in `distance`.
        """
        distance = self.distance(D2, outside2)
        last = _QUANTILES - 1
        above = ops.clip(ops.searchsorted(self.usual, distance, side="right"), 1, last)
        low, high = ops.take(self.usual, above - 1), ops.take(self.usual, above)
        inside = ops.clip(ops.divide_no_nan(distance - low, high - low), 0.0, 1.0)
        inside = ops.where(high > low, inside, ops.cast(distance >= high, "float32"))
        quantile = (ops.cast(above - 1, "float32") + inside) / last
        # What the features leave out is compared as well.
        apart2 = ops.abs(ops.take(self.outside2, near) - ops.expand_dims(outside2, -1))
        squares = -ops.take(self.features, near, axis=0)[:, :, -1]
        limit = _SAME * ops.expand_dims(outside2 + ops.mean(D2, axis=1), -1)
        limit = limit + _ROUNDING * (squares + ops.expand_dims(outside2, -1))
        same = self._same(D2) | (_ROUNDING**2 * squares >= D2)
        known = ops.any(same & (apart2 <= limit), axis=1)
        return ops.where(ops.isfinite(distance), ops.where(known, 0.0, quantile), 1.0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the places."""
        features = input_shape if isinstance(input_shape[-1], int) else input_shape[0]
        return (features[0], self.dimensions)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration from which `from_config` makes an equal layer."""
        names = ("n_references", "dimensions", *_OPTIONS)
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    @property
    def _neighbors(self) -> int:
        return min(self.n_neighbors, self.n_references)

    @property
    def _candidates(self) -> int:
        return min(self.n_neighbors + _SPARE, self.n_references)

    @property
    def _block(self) -> int:
        # A second level pays where the best blocks are a small part of all.
        return _BLOCK if self.n_references > 4 * _BLOCK * self._candidates else 1

    def _same(self, D2: Tensor) -> Tensor:
        """Return which neighbours [B, k] are the row itself."""
        return ops.mean(D2, axis=1, keepdims=True) * _SAME**2 >= D2

    def _candidate_rows(self, x: Tensor) -> Tensor:
        """Return the indices of the nearest reference rows [B, k + spare], in no order."""
        x = ops.concatenate([x, ops.ones_like(x[:, :1])], axis=1)
        scores = ops.stop_gradient(ops.matmul(x, ops.transpose(self.features)))  # [B, M]
        if self._block == 1:
            return ops.top_k(scores, self._candidates, sorted=False)[1]
        n_blocks = scores.shape[1] // self._block
        blocks = ops.reshape(scores, (-1, self._block))  # [B · blocks, block]
        highest = ops.reshape(ops.max(blocks, axis=1), (-1, n_blocks))
        best = ops.top_k(highest, self._candidates, sorted=False)[1]
        first = n_blocks * ops.arange(ops.shape(best)[0], dtype="int32")[:, None]
        inside = ops.take(blocks, best + first, axis=0)
        inside = ops.reshape(inside, (-1, self._candidates * self._block))
        place = ops.top_k(inside, self._candidates, sorted=False)[1]
        block = ops.take_along_axis(best, place // self._block, axis=1)
        return block * self._block + place % self._block

    def _probabilities(self, D2: Tensor) -> Tensor:
        """Return p [B, k] of the perplexity for squared distances [B, k] in ascending order."""
        perplexity = self.perplexity
        if self.n_references < self.n_neighbors:
            perplexity = min(perplexity, max(1.0, self.n_references / 2))
        same = self._same(D2)
        delta = D2 - D2[:, :1]
        mean = ops.mean(delta, axis=1, keepdims=True)
        # Neighbours at one distance weigh alike, and their distances have no gradient.
        delta = ops.where(mean > 0, delta, 0.0) / ops.where(mean > 0, mean, 1.0)
        log_beta, width = ops.full_like(D2[:, :1], _LOW), _HIGH - _LOW
        fixed = ops.stop_gradient(delta)[:, None]  # [B, 1, k]
        for _ in range(_DIVISIONS):
            width /= _PARTS
            ends = log_beta + width * np.arange(1, _PARTS, dtype=np.float32)  # [B, parts - 1]
            beta = ops.exp(ends)
            kernel = ops.exp(-beta[:, :, None] * fixed)
            total = ops.sum(kernel, axis=2)
            entropy = ops.log(total) + beta * ops.sum(kernel * fixed, axis=2) / total
            flat = ops.cast(entropy > math.log(perplexity), D2.dtype)
            log_beta += width * ops.sum(flat, axis=1, keepdims=True)
        kernel = ops.exp(-ops.exp(log_beta + 0.5 * width) * delta)
        # A row that is in the reference is placed by its own place alone.
        kernel = ops.where(ops.any(same, axis=1, keepdims=True), ops.cast(same, D2.dtype), kernel)
        return kernel / ops.sum(kernel, axis=1, keepdims=True)
