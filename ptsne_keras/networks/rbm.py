"""Restricted Boltzmann machines, trained by contrastive divergence."""

from typing import Any

import keras
from keras import ops

from ptsne_keras.data import order
from ptsne_keras.typing import Callbacks, Tensor, Units
from ptsne_keras.utils import distribution, validation


@keras.saving.register_keras_serializable(package="ptsne_keras")
class RBM(keras.Model):
    """A restricted Boltzmann machine with Bernoulli or unit-variance Gaussian units.

    With weights W [D, H] and biases b [D], c [H] the free energy of visible rows v is ::

        F(v) = visible(v) - Σ_j hidden(c_j + Σ_i v_i W_ij)

    where visible(v) = -b·v for Bernoulli and ½‖v - b‖² for Gaussian visible units, and
    hidden(a) = log(1 + eᵃ) for Bernoulli and ½a² for Gaussian (linear) hidden units. Contrastive
    divergence minimises mean F(data) - mean F(model rows), the model rows held constant: its
    gradient in W is exactly -⟨v p(h|v)⟩_data + ⟨v p(h|v)⟩_model.

    `fit`, `evaluate`, callbacks and `save` are those of Keras. A call returns the means of the
    hidden units, so that a stack of RBMs is the forward pass of the unrolled network.

    Parameters
    ----------
    units : int
        H, the number of hidden units.
    visible, hidden : {"bernoulli", "gaussian"}, default="bernoulli"
        Distribution of the units. Bernoulli visible rows are probabilities in [0, 1]; Gaussian
        visible rows should have at most unit variance.
    k : int, default=1
        Gibbs steps (CD-k).
    persistent : bool, default=False
        Whether the Gibbs chains continue from batch to batch (PCD) instead of starting at the data.
    chains : int, default=100
        Number of persistent chains.
    learning_rate : float, default=None
        None is the paper's: 0.1; 0.001 with any Gaussian layer; 0.02 with PCD.
    weight_decay : float, default=None
        λ in ½λ‖W‖². None is 2e-4, or 0 with PCD.
    momentum : tuple of (float, float, int), default=(0.5, 0.9, 5)
        Initial momentum, later momentum, and the epoch at which it changes.
    seed : int, default=None
        Seed of the initial weights, the Gibbs samples and the order of rows in `fit`.
    name, dtype, **kwargs
        As in `keras.Model`; by default float32 whatever the global policy.

    Raises
    ------
    ValueError
        If an option is not one of these.

    Examples
    --------
    >>> rbm = RBM(500, seed=0)
    >>> history = rbm.fit(X, epochs=30)  # X [N, D] in [0, 1]
    >>> H = rbm(X)  # [N, 500]

    References
    ----------
    Hinton (2002), training products of experts; Tieleman (2008), PCD; constants from
    van der Maaten (2009), section 4.1.
    """

    def __init__(
        self,
        units: int,
        *,
        visible: Units = "bernoulli",
        hidden: Units = "bernoulli",
        k: int = 1,
        persistent: bool = False,
        chains: int = 100,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        momentum: tuple[float, float, int] = (0.5, 0.9, 5),
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = "float32",
        **kwargs: Any,
    ) -> None:
        # Not the global policy: updates of 1e-3 of a weight are lost in half precision.
        super().__init__(name=name, dtype=dtype, **kwargs)
        for argument, value in (("visible", visible), ("hidden", hidden)):
            if value not in ("bernoulli", "gaussian"):
                raise ValueError(
                    f'{argument} should be "bernoulli" or "gaussian". Received: {value!r}.'
                )
        self.units = validation.check_integer(units, "units")
        self.k = validation.check_integer(k, "k")
        self.chains = validation.check_integer(chains, "chains")
        if learning_rate is not None and not learning_rate > 0:
            raise ValueError(f"learning_rate should be above 0. Received: {learning_rate!r}.")
        self.visible, self.hidden, self.persistent = visible, hidden, persistent
        if learning_rate is None:
            learning_rate = 0.02 if persistent else 0.1
            learning_rate = 0.001 if "gaussian" in (visible, hidden) else learning_rate
        if weight_decay is None:
            weight_decay = 0.0 if persistent else 2e-4
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.momentum, self.seed = momentum, seed
        self.noise = keras.random.SeedGenerator(seed)
        self._energy = keras.metrics.Mean(name="free_energy")
        self._error = keras.metrics.Mean(name="reconstruction_error")
        self.compile(optimizer=MomentumSGD(self.learning_rate))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights: W = 0.1 · randn, zero biases."""
        features = input_shape[-1]
        normal = keras.initializers.RandomNormal(stddev=0.1, seed=self.seed)
        self.kernel = self.add_weight((features, self.units), normal, name="kernel")
        self.visible_bias = self.add_weight((features,), "zeros", name="visible_bias")
        self.hidden_bias = self.add_weight((self.units,), "zeros", name="hidden_bias")
        if self.persistent:
            start = keras.initializers.RandomUniform(0.0, 1.0, seed=self.seed)
            self.fantasies = self.add_weight(
                (self.chains, features), start, trainable=False, name="fantasies"
            )
        self.built = True

    def call(self, V: Tensor) -> Tensor:
        """Return the hidden means σ(c + vW) of rows, or c + vW for Gaussian units."""
        return self._hidden_mean(self._activation(V))

    def _activation(self, V: Tensor) -> Tensor:
        return ops.matmul(V, self.kernel) + self.hidden_bias

    def _hidden_mean(self, A: Tensor) -> Tensor:
        return ops.sigmoid(A) if self.hidden == "bernoulli" else A

    def visible_mean(self, H: Tensor) -> Tensor:
        """Return the visible means σ(b + Wh) of hidden units, or b + Wh for Gaussian ones."""
        H = ops.convert_to_tensor(H, dtype=self.compute_dtype)
        A = ops.matmul(H, ops.transpose(self.kernel)) + self.visible_bias
        return ops.sigmoid(A) if self.visible == "bernoulli" else A

    def sample_hidden(self, mean: Tensor) -> Tensor:
        """Sample hidden units given their means [B, H]: 0 or 1, or N(mean, 1)."""
        mean = ops.convert_to_tensor(mean, dtype=self.compute_dtype)
        if self.hidden == "gaussian":
            return mean + keras.random.normal(ops.shape(mean), dtype=mean.dtype, seed=self.noise)
        uniform = keras.random.uniform(ops.shape(mean), dtype=mean.dtype, seed=self.noise)
        return ops.cast(uniform < mean, mean.dtype)

    def gibbs(self, V: Tensor, steps: int = 1) -> Tensor:
        """Return rows [B, D] after steps of v → h → v: hidden units sampled, visible ones means."""
        for _ in range(steps):
            V = self.visible_mean(self.sample_hidden(self(V)))
        return V

    def free_energy(self, V: Tensor) -> Tensor:
        """Return F(v) = -log Σ_h exp(-E(v, h)) + constant [B], in nats, for rows V [B, D]."""
        V = ops.convert_to_tensor(V, dtype=self.compute_dtype)
        return self._energy_of(V, self._activation(V))

    def _energy_of(self, V: Tensor, A: Tensor) -> Tensor:
        """Return F [B] for rows and their activations [B, H]."""
        hidden = ops.softplus(A) if self.hidden == "bernoulli" else 0.5 * ops.square(A)
        if self.visible == "bernoulli":
            visible = -ops.matmul(V, self.visible_bias)
        else:
            visible = 0.5 * ops.sum(ops.square(V - self.visible_bias), axis=-1)
        return visible - ops.sum(hidden, axis=-1)

    def fit(
        self, x: Any, *, batch_size: int = 100, callbacks: Callbacks = None, **kwargs: Any
    ) -> Any:
        """Train by contrastive divergence as `keras.Model.fit` does, and return its History.

        x is array-like of shape (n_samples, n_features), shuffled by the RBM's own seed, or a
        `tf.data.Dataset` of rows [b, D]. The History has, per epoch and row, `free_energy` of the
        data in nats, `reconstruction_error` (mean squared difference from the one-step
        reconstruction) and `loss` (what contrastive divergence minimises).

        Raises
        ------
        ValueError
            If an array x has values that are not finite, or outside [0, 1] for Bernoulli units.
        """
        distribution.check_backend()
        if hasattr(x, "__array__") or isinstance(x, list | tuple):
            x = validation.check_rows(x)
            check_range(x, self.visible)
            x = order.from_array(x, batch_size, seed=self.seed)
            steps = int(x.cardinality())
            if keras.backend.backend() == "tensorflow" and self.steps_per_execution != steps:
                # One call from Python per epoch, because a step takes no longer than a call. No
                # XLA, whose matrix products and random numbers are slower on CPUs.
                options = {"jit_compile": False, "run_eagerly": self.run_eagerly}
                self.compile(self.optimizer, steps_per_execution=steps, **options)
            kwargs["steps_per_epoch"] = steps
            x = x.repeat()  # one iterator for all epochs: starting one costs several steps
        if not self.built and hasattr(x, "element_spec"):
            # Keras would build it while tracing the step, which calls only parts of the model.
            self.build(tuple(keras.tree.flatten(x.element_spec)[0].shape))
        if self.built:  # or the first step is traced twice, to create the slots
            validation.check_trained(self.trainable_variables)
            self.optimizer.build(self.trainable_variables)
        kwargs.setdefault("shuffle", False)  # a dataset has its own order; True would warn
        first, later, switch = self.momentum
        schedule = keras.callbacks.LambdaCallback(
            lambda epoch, _: self.optimizer.momentum.assign(first if epoch < switch else later)
        )
        return super().fit(x, callbacks=[schedule, *keras.tree.flatten(callbacks or [])], **kwargs)

    def compute_loss(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """Return mean F(data) - mean F(model rows) + ½λ‖W‖², the model rows held constant."""
        V = ops.cast(x, self.compute_dtype)
        reconstruction = ops.stop_gradient(self.visible_mean(self.sample_hidden(y_pred)))
        model_rows = self._model_rows(reconstruction, training)
        self._error.update_state(ops.mean(ops.square(V - reconstruction), axis=-1))
        return self._difference(self.free_energy(V), self.free_energy(model_rows))

    def train_step(self, *arguments: Any) -> Any:
        """Run one update, on TensorFlow by the closed form of the gradient of `compute_loss`.

        Automatic differentiation, as elsewhere, takes twice the passes over the weights.
        """
        whole = len(self.trainable_variables) == 3  # built, and nothing frozen
        if keras.backend.backend() != "tensorflow" or distribution.replicas() > 1 or not whole:
            return super().train_step(*arguments)
        V, *_ = keras.utils.unpack_x_y_sample_weight(*arguments)
        V = ops.cast(V, self.compute_dtype)
        A = self._activation(V)
        H = self._hidden_mean(A)  # [B, H]
        reconstruction = self.visible_mean(self.sample_hidden(H))
        model_rows = self._model_rows(reconstruction, training=True)  # [M, D]
        model_A = self._activation(model_rows)
        model_H = self._hidden_mean(model_A)
        # Before the update: the logs describe the weights that the batch has met.
        loss = self._difference(self._energy_of(V, A), self._energy_of(model_rows, model_A))
        self._error.update_state(ops.mean(ops.square(V - reconstruction), axis=-1))
        self._loss_tracker.update_state(loss, sample_weight=ops.shape(V)[0])
        self._descend((V, H), (model_rows, model_H))
        return self.get_metrics_result()

    def _descend(self, data: tuple[Tensor, Tensor], model: tuple[Tensor, Tensor]) -> None:
        """Apply -⟨v p(h|v)⟩_data + ⟨v p(h|v)⟩_model, given rows and hidden means of both."""
        (V, H), (model_rows, model_H) = data, model
        B, M = (ops.cast(ops.shape(x)[0], H.dtype) for x in (V, model_rows))
        both = ops.transpose(ops.concatenate([V / -B, model_rows / M]))  # [D, B + M]
        gradients = [
            ops.matmul(both, ops.concatenate([H, model_H])) + self.weight_decay * self.kernel,
            ops.mean(model_rows, axis=0) - ops.mean(V, axis=0),
            ops.mean(model_H, axis=0) - ops.mean(H, axis=0),
        ]
        self.optimizer.apply(gradients, [self.kernel, self.visible_bias, self.hidden_bias])

    def _difference(self, energy: Tensor, model_energy: Tensor) -> Tensor:
        """Return what contrastive divergence minimises; update the metric of the data's energy."""
        self._energy.update_state(energy)
        decay = 0.5 * self.weight_decay * ops.sum(ops.square(self.kernel))
        return ops.mean(energy) - ops.mean(model_energy) + decay

    def _model_rows(self, reconstruction: Tensor, training: bool) -> Tensor:
        """Return rows of the model: k Gibbs steps from the data, or from the last batch's rows."""
        if not self.persistent:
            return ops.stop_gradient(self.gibbs(reconstruction, self.k - 1))
        fantasies = ops.stop_gradient(self.gibbs(self.fantasies, self.k))
        if training:
            self.fantasies.assign(fantasies)
        return fantasies

    def get_config(self) -> dict[str, Any]:
        """Return the configuration from which `from_config` makes an equal RBM."""
        own = "units visible hidden k persistent chains learning_rate weight_decay momentum seed"
        return {**super().get_config(), **{key: getattr(self, key) for key in own.split()}}


def check_range(X: Any, visible: str) -> None:
    """Raise a ValueError if rows are outside [0, 1] with Bernoulli visible units."""
    if visible == "bernoulli" and (X.min() < 0 or X.max() > 1):
        raise ValueError(
            "X should be in [0, 1] for Bernoulli visible units; rescale it or use "
            f'visible="gaussian". Received: values from {X.min():g} to {X.max():g}.'
        )


@keras.saving.register_keras_serializable(package="ptsne_keras")
class MomentumSGD(keras.optimizers.Optimizer):
    """Gradient descent with a momentum m that may change: u ← m u - η ∇, w ← w + u."""

    def __init__(self, learning_rate: float = 0.1, name: str = "momentum_sgd", **kw: Any) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kw)
        self.momentum = self.add_variable((), initializer="zeros", name="momentum")

    def build(self, variables: list[Any]) -> None:
        """Create an update u for each variable."""
        if self.built:
            return
        super().build(variables)
        self.updates = self.add_optimizer_variables(variables, "update")

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        """Update one variable."""
        update = self.updates[self._get_variable_index(variable)]
        rate = ops.cast(learning_rate, variable.dtype)
        momentum = ops.cast(self.momentum, variable.dtype)
        self.assign(update, momentum * update - rate * ops.cast(gradient, variable.dtype))
        self.assign_add(variable, update)
