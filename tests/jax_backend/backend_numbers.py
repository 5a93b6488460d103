"""Numbers that are the same on every backend; `python backend_numbers.py FILE` saves them.

Weights come from NumPy, and the hidden units of RBMs are rounded instead of sampled, because
backends draw different random numbers for the same seed.
"""

import sys

import keras
import numpy as np

from ptsne_keras import callbacks, losses, networks, training
from ptsne_keras.data import batches, order
from ptsne_keras.metrics import NeighborRecall, Trustworthiness
from ptsne_keras.networks import rbm

CASES = {
    f"d{d}_dof{dof}_c{c}": (d, dof, c)
    for d in (1, 2, 20)
    for dof in (0.5, 1.0, 4.0)
    for c in (1.0, 4.0)
}
B = 30


def inputs(d):
    """P [B, B] and Y [B, d], float32."""
    rng = np.random.default_rng(d)
    P = rng.random((B, B)) ** 3
    P = P + P.T
    np.fill_diagonal(P, 0)
    return np.float32(P / P.sum()), np.float32(3 * rng.normal(size=(B, d)))


def rows(n=96, features=6):
    return np.random.default_rng(0).normal(size=(n, features)).astype("float32")


def value_and_gradient(function, Y):
    if keras.backend.backend() == "jax":
        import jax

        return jax.value_and_grad(function)(Y)
    import tensorflow as tf

    Y = tf.constant(Y)
    with tf.GradientTape() as tape:
        tape.watch(Y)
        value = function(Y)
    return value, tape.gradient(value, Y)


def with_weights(model):
    rng = np.random.default_rng(1)
    model.set_weights([np.float32(0.3 * rng.normal(size=w.shape)) for w in model.get_weights()])
    return model


def encoder(d=2):
    return with_weights(networks.encoder(6, d, hidden_units=(20,), activation="gelu"))


class RoundedRBM(rbm.RBM):
    def sample_hidden(self, mean):
        return keras.ops.round(mean) if self.hidden == "bernoulli" else mean


def loss_values():
    for name, (d, dof, c) in CASES.items():
        P, Y = inputs(d)

        def divergence(Y, P=P, dof=dof, c=c):
            return keras.ops.sum(losses.tsne(P, Y, dof=dof, exaggeration=c))

        value, gradient = value_and_gradient(divergence, Y)
        yield f"loss_{name}", value
        yield f"gradient_{name}", gradient


def fits():
    """Loss curves of `fit` from the same weights and batches.

    The order derives from the epoch, because Keras on JAX reads a first batch before it trains.
    """
    epoch = callbacks.Schedule()
    options = {"seed": 0, "epoch": epoch.value}
    array = batches.from_array(rows(), 8, 32, **options)
    stacked = batches.from_array(rows(), 8, 24, replicas=2, **options)
    graph = batches.from_graph(rows(), 8, 32, **options)
    pairs = batches.from_graph(rows(), 8, 24, replicas=2, **options)

    def fit(model, data, **options):
        return model.fit(
            data, epochs=3, verbose=0, shuffle=False, callbacks=[epoch], **options
        ).history

    for name, data, blocks in (
        ("array", array, 1), ("blocks", stacked, 2), ("graph", graph, 1), ("pair_blocks", pairs, 2)
    ):  # fmt: skip
        model = encoder()
        model.compile(keras.optimizers.SGD(0.1), loss=losses.TSNE(dof=2.0, blocks=blocks))
        yield f"fit_{name}", fit(model, data)["loss"]
    trainer = training.Trainer(encoder(3), dof="learn", exaggeration=2.0, dof_warmup=3)
    metrics = [NeighborRecall(3), Trustworthiness(3)]
    trainer.compile(keras.optimizers.SGD(0.1), metrics=metrics)
    history = fit(trainer, array, validation_data=array)
    yield from ((f"trainer_{name}", curve) for name, curve in history.items())
    trainer = training.Trainer(encoder(), blocks=2)
    trainer.compile(keras.optimizers.SGD(0.1), metrics=[NeighborRecall(3, blocks=2)])
    history = fit(trainer, pairs, validation_data=stacked)
    yield from ((f"trainer_blocks_{name}", curve) for name, curve in history.items())


def rbms():
    """CD-3 across the change of the momentum, PCD, and the unrolled stack."""
    X = 1 / (1 + np.exp(-rows()))
    below = RoundedRBM(12, k=3, momentum=(0.5, 0.9, 2))
    top = RoundedRBM(2, hidden="gaussian", persistent=True, chains=10)
    for name, model, V in (("below", below, X), ("top", top, None)):
        V = np.asarray(below(X)) if V is None else V
        model.build(V.shape)
        with_weights(model)
        data = order.from_array(V, 24, shuffle=False)
        history = model.fit(data, epochs=4, verbose=0).history
        yield from ((f"rbm_{name}_{key}", curve) for key, curve in history.items())
        yield f"rbm_{name}_kernel", model.kernel
    yield "unrolled", networks.unroll([below, top])(X)


def numbers():
    return {
        name: keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(value))
        for part in (loss_values, fits, rbms)
        for name, value in part()
    }


if __name__ == "__main__":
    np.savez(sys.argv[1], **numbers())
