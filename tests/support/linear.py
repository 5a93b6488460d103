"""A linear map behind the stand-in for TensorFlow Serving, and what its client should answer."""

import numpy as np
import pytest
import tensorflow as tf

from ptsne_keras.serving import ServingError

D = 5
MODEL = "digits"
# Seconds that a slow answer takes.
SLOW = 1.5


def rows(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, D)).astype("float32")


class Served(tf.Module):
    """A linear map to 2-D with the three signatures; novelty is the squared length."""

    def __init__(self, scale):
        super().__init__()
        self.weights = tf.Variable(scale * np.arange(1, 2 * D + 1).reshape(D, 2), dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, D], tf.float32, "features")])
    def embed(self, features):
        return {"embedding": features @ self.weights}

    @tf.function(input_signature=[tf.TensorSpec([None, D], tf.float32, "features")])
    def embed_with_novelty(self, features):
        novelty = tf.reduce_sum(features**2, axis=1)
        return {"embedding": features @ self.weights, "novelty": novelty}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
    def embed_examples(self, examples):
        spec = {"features": tf.io.FixedLenFeature([D], tf.float32)}
        return self.embed(tf.io.parse_example(examples, spec)["features"])


def assert_embeds(Y, X, scale=1.0):
    assert Y.dtype == np.float32
    weights = scale * np.arange(1, 2 * D + 1).reshape(D, 2)
    np.testing.assert_allclose(Y, np.asarray(X, np.float32) @ weights, rtol=1e-6, atol=1e-4)


def refusal(act):
    with pytest.raises(ServingError) as caught:
        act()
    assert "\n" not in str(caught.value)
    assert caught.value.attempts == 1
    return caught.value


def counts(server):
    return [request.rows for request in server.requests]
