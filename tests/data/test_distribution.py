"""Blocks of rows, one for each device, and `keras.distribution`."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import reference

from ptsne_keras import losses, networks
from ptsne_keras.data import batches
from ptsne_keras.losses import TSNE
from ptsne_keras.metrics import NeighborRecall, Trustworthiness
from ptsne_keras.training import stages
from ptsne_keras.training.trainer import Trainer


def stack(rng, blocks, pairs=False, b=12):
    """P and Y of each block."""
    P = [np.full((b, 1), 1 / b) if pairs else reference.random_P(b, s) for s in range(blocks)]
    return P, [3 * rng.normal(size=(b, 2)) for _ in range(blocks)]


def terms_and_gradient(P, Y, blocks=1):
    Y = tf.convert_to_tensor(Y)
    with tf.GradientTape() as tape:
        tape.watch(Y)
        terms = losses.tsne(P, Y, dof=2.0, exaggeration=1.5, blocks=blocks)
        total = tf.reduce_sum(terms)
    return terms, tape.gradient(total, Y)


@pytest.mark.parametrize(("pairs", "blocks"), [(False, 3), (True, 2)])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_row_terms_of_blocks_are_those_of_each(pairs, blocks, jit_compile, rng):
    P, Y = stack(rng, blocks, pairs)
    compiled = tf.function(terms_and_gradient, jit_compile=jit_compile)
    terms, gradient = compiled(tf.concat(P, 0), tf.concat(Y, 0), blocks)
    each = [terms_and_gradient(p, y) for p, y in zip(P, Y, strict=True)]
    np.testing.assert_allclose(terms, np.concatenate([t for t, _ in each]), rtol=1e-10)
    expected = np.concatenate([g for _, g in each])
    np.testing.assert_allclose(gradient, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_keras_loss_is_the_mean_of_the_blocks_losses(jit_compile, rng):
    P, Y = stack(rng, 3)
    mean = np.mean([reference.tsne(p, y) for p, y in zip(P, Y, strict=True)])
    loss = TSNE(blocks=3, jit_compile=jit_compile)
    data = np.float32(np.concatenate(Y)), np.float32(np.concatenate(P))
    assert float(loss(data[1], data[0])) == pytest.approx(mean, rel=1e-5)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(1.0)])
    model.compile(loss=loss, jit_compile=False)
    # Of unknown shape in the graph, as the pipelines' batches are.
    batch = tf.data.Dataset.from_generator(
        lambda: iter([data]), output_signature=(tf.TensorSpec([None, 2]), tf.TensorSpec([None] * 2))
    )
    assert model.evaluate(batch, verbose=0) == pytest.approx(mean, rel=1e-5)


def test_a_trainer_takes_blocks(rng):
    X = rng.normal(size=(48, 5)).astype("float32")
    data = batches.from_array(X, 5, 24, replicas=2, seed=0, shuffle="once")
    trainer = Trainer(networks.encoder(5, 2, hidden_units=(4,), seed=0), blocks=2)
    assert Trainer.from_config(trainer.get_config()).get_config()["blocks"] == 2
    trainer.compile("adam", metrics=[Trustworthiness(3, blocks=2)])
    ((x, P),) = data
    Y = np.asarray(trainer(x))
    terms = [reference.tsne(P[i : i + 24], Y[i : i + 24]) for i in (0, 24)]
    found = trainer.evaluate(data, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(np.mean(terms), rel=1e-5)
    metric = Trustworthiness(3)
    for i in (0, 24):
        metric.update_state(P[i : i + 24], Y[i : i + 24])
    assert found["trustworthiness"] == pytest.approx(float(metric.result()), abs=1e-6)


@pytest.mark.parametrize("pairs", [False, True])
def test_metrics_look_at_each_block(pairs, rng):
    P, Y = stack(rng, 3, pairs)
    each, whole = NeighborRecall(3), NeighborRecall(3, blocks=3)
    for p, y in zip(P, Y, strict=True):
        each.update_state(p, y)
    whole.update_state(np.concatenate(P), np.concatenate(Y))
    assert float(whole.result()) == pytest.approx(float(each.result()), abs=1e-6)
    assert keras.metrics.deserialize(keras.metrics.serialize(whole)).blocks == 3


def test_metrics_of_other_blocks_than_the_trainers_are_named():
    trainer = Trainer(networks.encoder(5, 2, hidden_units=(4,)), blocks=2)
    with pytest.raises(ValueError, match=r"trainer's blocks=2.*'neighbor_recall' with blocks=1"):
        trainer.compile("adam", metrics=[NeighborRecall(3)])


# Several processes


@pytest.fixture
def process(monkeypatch):
    """Set a distribution that is one process of several."""

    def choose(number, processes=2, sharded=False):
        facts = {"num_processes": processes, "num_model_replicas": 4, "data_shard_id": number}
        distribution = SimpleNamespace(**facts, auto_shard_dataset=sharded)
        monkeypatch.setattr(keras.distribution, "distribution", lambda: distribution)

    return choose


PIPELINES = {
    "array": lambda X, **o: batches.from_array(X, 4, 12, **o),
    "once": lambda X, **o: batches.from_array(X, 4, 12, shuffle="once", **o),
    "graph": lambda X, **o: batches.from_graph(X, 4, 12, jitter=0.5, **o),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", PIPELINES.values(), ids=PIPELINES)
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_feed_what_one_feeds_and_every_row_once(make, processes, process, rng):
    X = rng.normal(size=(96, 5)).astype("float32")
    whole = make(X, replicas=4, seed=0)
    parts = []
    for number in range(processes):
        process(number, processes)
        parts.append(make(X, replicas=4, seed=0))
    for _ in range(2):  # epochs
        assert [int(part.cardinality()) for part in parts] == [int(whole.cardinality())] * processes
        for (x, P), *own in zip(whole, *parts, strict=True):
            np.testing.assert_array_equal(x, np.concatenate([x for x, _ in own]))
            np.testing.assert_array_equal(P, np.concatenate([P for _, P in own]))


@pytest.mark.parametrize(
    ("replicas", "seed", "sharded", "message"),
    [
        (3, 0, False, "replicas should be a multiple of the 2 processes"),
        (1, 0, False, "replicas should be a multiple of the 2 processes"),
        (4, None, False, "seed should be the same number on all 2 processes"),
        (4, 0, True, "auto_shard_dataset should be False"),
    ],
)
def test_settings_that_feed_wrong_rows_are_named(replicas, seed, sharded, message, process, rng):
    process(0, sharded=sharded)
    for make in (PIPELINES["array"], PIPELINES["graph"]):
        with pytest.raises(ValueError, match=message):
            make(rng.normal(size=(96, 5)), replicas=replicas, seed=seed)


# On TensorFlow, where Keras ignores a distribution


@pytest.fixture
def data_parallel():
    loss = TSNE()
    trainer = Trainer(networks.encoder(5, 2, hidden_units=(4,)))
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0"]))
    yield SimpleNamespace(loss=loss, trainer=trainer)
    keras.distribution.set_distribution(None)


@pytest.mark.parametrize(
    "use",
    [
        lambda given: TSNE(),
        lambda given: given.loss(np.ones((4, 4)), np.ones((4, 2))),
        lambda given: Trainer(given.trainer.encoder),
        lambda given: given.trainer.compile("adam"),
        lambda given: stages.finetune(
            given.trainer.encoder, tf.data.Dataset.from_tensors((np.ones((4, 5)), np.ones((4, 4))))
        ),
        lambda given: stages.pretrain(np.ones((4, 5)), (2,)),
    ],
    ids=["loss", "call", "trainer", "compile", "finetune", "pretrain"],
)
def test_a_distribution_that_does_nothing_is_refused(use, data_parallel):
    message = r"keras.distribution does nothing on the TensorFlow backend.*Received: <DataParallel"
    with pytest.raises(ValueError, match=message):
        use(data_parallel)
