"""Settings of fits, and an encoder, that are small enough for a test."""

import keras
import pytest

# The method of 2009, in small: the network alone.
SMALL = {
    "placement": False,
    "pretraining": "cd1",
    "sampling": "batch",
    "hidden_units": (100, 100),
    "epochs": 30,
    "pretraining_epochs": 3,
    "batch_size": 200,
    "perplexity": 15,
    "random_state": 0,
}
# The default network, in small and alone.
GRAPH = {
    "placement": False,
    "hidden_units": (100, 100),
    "epochs": 30,
    "batch_size": 200,
    "random_state": 0,
}
# The default method, in small: the network, its rows freed, new rows placed among them.
PLACED = GRAPH | {"placement": True}
BOTH = pytest.mark.parametrize(
    "options", [pytest.param(SMALL, marks=pytest.mark.slow), GRAPH], ids=["batch", "graph"]
)
FEW = {"hidden_units": (20, 10), "pretraining_epochs": 2, "epochs": 3, "batch_size": 150}


class Subclassed(keras.Model):
    """A model without symbolic inputs; Keras does not know its class when it loads it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def conv():
    keras.utils.set_random_seed(0)
    first = [keras.Input((8, 8, 1)), keras.layers.Conv2D(8, 3, activation="relu")]
    return keras.Sequential([*first, keras.layers.Flatten(), keras.layers.Dense(2)])
