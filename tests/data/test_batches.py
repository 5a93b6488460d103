import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.pipelines import arrays, assert_every_row_once

from ptsne_keras import affinities
from ptsne_keras.data import batches
from ptsne_keras.losses import TSNE


@pytest.fixture
def X(digits):
    return digits[0][0][:200]


@pytest.mark.parametrize("n", [200, 193])
@pytest.mark.parametrize("shuffle", [True, "once", False])
def test_an_epoch_has_every_row_once_and_P_belongs_to_the_rows_of_its_batch(X, n, shuffle):
    dataset = batches.from_array(X[:n], 10, 64, shuffle=shuffle, seed=0)
    assert dataset.cardinality() == 4
    epochs = [arrays(dataset) for _ in range(2)]
    for found in epochs:
        assert_every_row_once([x for x, _ in found], X[:n])
        for x, P in found:
            assert n // 4 <= len(x) <= n // 4 + 1
            expected = affinities.joint_probabilities(x, 10)
            np.testing.assert_allclose(P, expected, rtol=1e-4, atol=1e-9)
    same = [np.array_equal(a[0], b[0]) for a, b in zip(*epochs, strict=True)]
    assert same == [shuffle is not True] * 4


@pytest.mark.parametrize(
    ("shuffle", "batch_size", "count"), [("once", 64, 4), (False, 64, 4), (True, 1000, 1)]
)
def test_fixed_batches_are_calibrated_once(X, shuffle, batch_size, count, monkeypatch):
    """A single batch of all rows is fixed, too, whatever their order."""
    calls = tf.Variable(0)
    real = affinities.joint_probabilities
    monkeypatch.setattr(
        affinities, "joint_probabilities", lambda *a: (calls.assign_add(1), real(*a))[1]
    )
    dataset = batches.from_array(X, 10, batch_size, shuffle=shuffle, seed=0)
    first, *later = (arrays(dataset) for _ in range(3))
    assert calls == count == len(first)
    for epoch in later:
        for (x, P), (x_again, P_again) in zip(first, epoch, strict=True):
            np.testing.assert_array_equal(x, x_again)
            np.testing.assert_array_equal(P, P_again)


@pytest.mark.parametrize(
    "make", [pytest.param(batches.from_array, marks=pytest.mark.slow), batches.from_graph]
)
def test_a_users_own_model_trains_on_them(make, X):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(50, "relu"), keras.layers.Dense(2)])
    model.compile("adam", loss=TSNE(exaggeration=2.0))
    data = make(X, 10, 100, seed=0)
    history = model.fit(data, epochs=30, verbose=0, shuffle=False).history["loss"]
    assert history[-1] < history[0] - 0.3


@pytest.mark.parametrize("make", [batches.from_array, batches.from_graph])
def test_the_pipeline_is_graph_ops_alone(make, X):
    """It never calls back into Python, so it can be serialised and run elsewhere."""
    options = {"jitter": 0.4} if make is batches.from_graph else {}
    dataset = make(X, 10, 64, **options)
    definition = tf.compat.v1.GraphDef.FromString(dataset._as_serialized_graph().numpy())
    functions = definition.library.function
    ops = {node.op for node in definition.node} | {n.op for f in functions for n in f.node_def}
    assert ("MatMul" in ops) == (make is batches.from_array)
    assert not ops & {"PyFunc", "EagerPyFunc", "PyFuncStateless", "GeneratorDataset"}


def test_too_many_duplicates_are_reported_once_for_the_whole_array(X):
    repeated = np.concatenate([X, np.repeat(X[:2], 30, axis=0)])
    with pytest.warns(UserWarning, match="62 of the rows") as caught:
        batches_and_P = arrays(batches.from_array(repeated, 10, 64, seed=0))
    assert len(caught) == 1
    assert all(np.isfinite(P).all() for _, P in batches_and_P)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches.from_array(X, 10, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perplexity": 64}, r"below B - 1 = 49.*200 rows in 4. Received: 64"),
        ({"perplexity": 1.0}, "above 1"),
        ({"perplexity": float("nan")}, "above 1"),
        ({"batch_size": 2}, "batch_size should be an integer of at least 3"),
        ({"replicas": 0}, "replicas should be an integer of at least 1"),
        ({"X": np.eye(2), "perplexity": 1.5}, "at least 3 rows"),
        ({"X": np.full((50, 2), np.nan)}, "first at index 0"),
    ],
)
def test_bad_input_is_named_at_once(X, options, message):
    with pytest.raises(ValueError, match=message):
        batches.from_array(**{"X": X, "perplexity": 10, "batch_size": 64, **options})


TWO_REPLICAS = """
    import keras, numpy as np, tensorflow as tf
    from ptsne_keras import losses, networks, training
    from ptsne_keras.data import batches

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    X = np.random.default_rng(0).normal(size=(103, 5)).astype("float32")

    def data(replicas):
        if {graph}:
            same = tf.Variable(0, dtype=tf.int64)  # draws, in each epoch
            return batches.from_graph(X, 8, 26, seed=0, epoch=same, replicas=replicas)
        return batches.from_array(X, 8, 26, shuffle=False, replicas=replicas)

    def fit(strategy, blocks):
        with strategy.scope():
            encoder = networks.encoder(5, 2, hidden_units=(16,), activation="relu", seed=0)
            model = training.Trainer(encoder, blocks=blocks) if {trainer} else encoder
            loss = None if {trainer} else losses.TSNE(blocks=blocks)
            model.compile(keras.optimizers.SGD(0.5), loss=loss)
        curve = model.fit(data(2), epochs=3, shuffle=False, verbose=0).history["loss"]
        return curve, encoder.get_weights()

    curve, weights = fit(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), 1)
    expected, expected_weights = fit(tf.distribute.get_strategy(), 2)  # the mean of two blocks
    np.testing.assert_allclose(curve, expected, rtol=1e-5)
    for a, b in zip(weights, expected_weights):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert curve[-1] < curve[0]
    print("equal")
"""


@pytest.mark.slow
# Processes of their own, each of which starts TensorFlow.
@pytest.mark.parametrize(("graph", "trainer"), [(False, False), (True, True)])
def test_two_replicas_train_as_one_device_on_the_same_blocks(graph, trainer):
    code = textwrap.dedent(TWO_REPLICAS).format(graph=graph, trainer=trainer)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "equal" in result.stdout, result.stderr[-2000:]


def test_stacked_batches_leave_out_few_rows(X):
    X = X[:199]
    pipeline = batches.from_array(X, 8, 30, seed=0, replicas=4)
    passes = [list(pipeline), list(pipeline)]
    (x, P), *_ = passes[0]
    size = P.shape[1]
    assert x.shape[0] == P.shape[0] == 4 * size
    left_out = [len(X) - sum(len(x) for x, _ in found) for found in passes]
    assert left_out == [len(X) % (len(passes[0]) * 4)] * 2
    for block in np.split(P, 4):
        assert block.sum() == pytest.approx(1, abs=1e-5)
