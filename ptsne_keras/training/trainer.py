"""A Keras model that trains an encoder on the t-SNE divergence of batches (X, P)."""

import functools
import math
from typing import Any

import keras
from keras import ops

from ptsne_keras.losses.tsne import TSNE, degrees_of_freedom
from ptsne_keras.typing import Tensor
from ptsne_keras.utils import distribution


@keras.saving.register_keras_serializable(package="ptsne_keras")
class Trainer(keras.Model):
    """Trains an encoder on KL(P‖Q) of batches (X, P): `compile`, `fit`, `evaluate` as usual.

    Compared with `encoder.compile(loss=TSNE())`, it can learn the degrees of freedom, its
    validation loss is KL(P‖Q) whatever the exaggeration, and it leaves the encoder uncompiled, so
    that the encoder saves and loads without this package.

    Parameters
    ----------
    encoder : keras.Model
        Any model from rows, of one or several inputs, to map coordinates [B, d].
    dof : float, "auto" or "learn", default=1.0
        Degrees of freedom α of the Student-t kernel. "auto" is max(d - 1, 1). "learn" starts there
        and trains α = exp(a) with the weights; the logs then have it as "dof". Weight decay would
        pull α to 1: `optimizer.exclude_from_weight_decay(var_names=["log_dof"])`.
    exaggeration : float or scalar variable, default=1.0
        Weight c of the attraction in training; see `losses.TSNE`.
    dof_warmup : int, default=0
        Steps for which "learn" holds α at its start.
    jit_loss : bool, default=True
        Whether XLA compiles the loss where it does not compile the whole step.
    blocks : int, default=1
        Number of blocks stacked in one batch; see `losses.TSNE`.
    name, **kwargs
        Options of `keras.Model`; the name is "trainer" by default.

    Raises
    ------
    ValueError
        If a value is out of range, the encoder has several outputs, or α should start from d and
        the encoder does not tell d.

    Examples
    --------
    >>> trainer = Trainer(networks.encoder(X.shape[1], 2), dof="learn")
    >>> trainer.compile("adam")
    >>> history = trainer.fit(data.from_array(X, 30, seed=0), epochs=5, shuffle=False)
    >>> trainer.encoder.save("encoder.keras")

    References
    ----------
    van der Maaten (2009), section 3.2, for learned degrees of freedom.
    """

    def __init__(
        self,
        encoder: keras.Model,
        *,
        dof: Any = 1.0,
        exaggeration: float | Tensor = 1.0,
        dof_warmup: int = 0,
        jit_loss: bool = True,
        blocks: int = 1,
        name: str = "trainer",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if len(getattr(encoder, "outputs", None) or [None]) > 1:
            raise ValueError(
                "encoder should have one output, map coordinates [B, d]. "
                f"Received: {len(encoder.outputs)}."
            )
        self.encoder, self._exaggeration = encoder, exaggeration
        self._dof, self._dof_warmup = dof, dof_warmup
        self._jit_loss, self._blocks = jit_loss, blocks
        self._own_loss = True
        self.built = bool(encoder.built)  # Keras asks this before it restores a backup
        TSNE(1.0 if dof == "learn" else dof, exaggeration, blocks=blocks)  # reports bad values
        if dof == "learn":
            self._dof_tracker = keras.metrics.Mean(name="dof")
            start = math.log(degrees_of_freedom("auto", _dimensions(encoder)))
            self._log_dof = self.add_weight(
                (), keras.initializers.Constant(start), dtype="float32", name="log_dof"
            )
            self._step = self.add_weight(
                (), "zeros", dtype="int", trainable=False, name="step",
                aggregation="only_first_replica",
            )  # fmt: skip

    @property
    def dof(self) -> float:
        """Current degrees of freedom α."""
        if self._dof == "learn":
            return math.exp(float(ops.convert_to_numpy(self._log_dof)))
        d = _dimensions(self.encoder) if self._dof == "auto" else 1
        return float(degrees_of_freedom(self._dof, d))

    def call(self, X: Any, training: bool = False) -> Tensor:
        """Map rows X to Y [B, d]."""
        return self.encoder(X, training=training)

    def compile(self, optimizer: Any = "adam", loss: Any = None, **options: Any) -> None:
        """Configure training as in every Keras model; the default loss is KL(P‖Q).

        Raises
        ------
        ValueError
            If the loss or a metric compares y_true with y_pred element by element, as Keras's own
            do; if a `keras.distribution` is set that does nothing on this backend.
        """
        distribution.check_backend()
        for name in ("metrics", "weighted_metrics"):
            for metric in keras.tree.flatten(options.get(name) or []):
                _check_own(metric, "metrics", "metrics")
                blocks = getattr(metric, "blocks", self._blocks)
                if loss is None and blocks != self._blocks:
                    raise ValueError(
                        f"metrics should have the trainer's blocks={self._blocks}. "
                        f"Received: {metric.name!r} with blocks={blocks}."
                    )
        for part in keras.tree.flatten([] if loss is None else loss):
            _check_own(part, "loss", "losses")
        if loss is not None and self._dof == "learn":
            raise ValueError(
                'loss should be None with dof="learn", which is part of the default loss. '
                f"Received: {loss!r}."
            )
        super().compile(optimizer, loss=loss, **options)
        # Keras keeps the loss of an earlier call where a later one has none.
        self._own_loss = loss is None

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as the trainer was compiled when it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Return KL(P‖Q) in nats, exaggerated in training only, plus regularisation losses."""
        if y is None:
            raise ValueError(
                "Data should be batches (X, P), as batches.from_array makes them. "
                "Received: X alone."
            )
        if not self._own_loss:
            return super().compute_loss(x, y, y_pred, sample_weight, training=training)
        # A Keras loss, not the sum of its terms: the reduction scales for several replicas.
        loss = TSNE(
            dof=self._learned_dof(training) if self._dof == "learn" else self._dof,
            exaggeration=self._exaggeration if training else 1.0,
            jit_compile=self._jit_loss and not self.jit_compile,
            blocks=self._blocks,
        )
        return sum(map(ops.sum, self.losses), start=loss(y, y_pred, sample_weight))

    def _learned_dof(self, training: bool) -> Tensor:
        """Return α = exp(a), without a gradient during the warm-up; count the step."""
        a = ops.convert_to_tensor(self._log_dof)
        if training:
            a = ops.where(self._step < self._dof_warmup, ops.stop_gradient(a), a)
            self._step.assign_add(1)
        alpha = ops.exp(a)
        self._dof_tracker.update_state(alpha)
        return alpha

    def export(self, *arguments: Any, **options: Any) -> Any:
        """Export the encoder; see `serving.export_saved_model` for servers."""
        return self.encoder.export(*arguments, **options)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration from which `from_config` makes an equal trainer."""
        return {
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "dof": self._dof,
            "exaggeration": TSNE(exaggeration=self._exaggeration).get_config()["exaggeration"],
            "dof_warmup": self._dof_warmup,
            "jit_loss": self._jit_loss,
            "blocks": self._blocks,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Trainer":
        """Return the trainer that `get_config` describes."""
        encoder = keras.saving.deserialize_keras_object(
            config["encoder"], custom_objects=custom_objects
        )
        return cls(**config | {"encoder": encoder})


def _dimensions(encoder: keras.Model) -> int:
    """Return d, or raise a ValueError if the encoder is not built."""
    try:
        return int(encoder.output_shape[-1])
    except AttributeError:
        raise ValueError(
            'encoder should be a built functional or Sequential model if dof is "auto" or "learn", '
            f"which start from d. Received: {encoder.name}, without an output shape."
        ) from None


def _check_own(given: Any, name: str, ours: str) -> None:
    """Raise a ValueError for losses and metrics of Keras, which expect y_true like y_pred."""
    function = given
    if isinstance(given, keras.metrics.Metric | keras.losses.Loss):
        function = given.__class__
    if isinstance(given, keras.metrics.MeanMetricWrapper):
        function = given._fn
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, str) or function.__module__.split(".")[0] == "keras":
        received = given if isinstance(given, str) else getattr(function, "__name__", given)
        raise ValueError(
            f"{name} should take P [B, B] and map coordinates Y [B, d], as in "
            f"ptsne_keras.{ours}; Keras's own compare y_true with y_pred element by element. "
            f"Received: {received!r}."
        )
