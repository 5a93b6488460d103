"""Settings of fits that are small enough for a test."""

import pytest

# The method of 2009, in small.
SMALL = {
    "pretraining": "cd1",
    "sampling": "batch",
    "hidden_units": (100, 100),
    "epochs": 30,
    "pretraining_epochs": 3,
    "batch_size": 200,
    "perplexity": 15,
    "random_state": 0,
}
# The default method, in small.
GRAPH = {"hidden_units": (100, 100), "epochs": 30, "batch_size": 200, "random_state": 0}
BOTH = pytest.mark.parametrize("options", [SMALL, GRAPH], ids=["batch", "graph"])
FEW = {"hidden_units": (20, 10), "pretraining_epochs": 2, "epochs": 3, "batch_size": 150}
