"""A linear map behind the stand-in for TensorFlow Serving, and what its client should answer."""

import keras
import numpy as np
import pytest

from ptsne_keras.serving import ServingError

D = 5
MODEL = "digits"
# Seconds that a slow answer takes; a client that waits for one fails its test.
SLOW = 20.0


def rows(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, D)).astype("float32")


def encoder(scale):
    model = keras.Sequential([keras.Input((D,)), keras.layers.Dense(2, use_bias=False)])
    model.set_weights([scale * np.arange(1, 2 * D + 1).reshape(D, 2)])
    return model


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
