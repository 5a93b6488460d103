import itertools

import numpy as np
import pytest
import tensorflow as tf

from ptsne_keras.data import batches, order, streams


def epochs(dataset, count=3):
    return [[batch.numpy().tolist() for batch in dataset] for _ in range(count)]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


@pytest.mark.parametrize("shuffle", [True, "once", False])
@pytest.mark.parametrize(("n", "size"), [(10, 4), (10, 5), (10, 99), (7, 1), (1001, 100)])
def test_every_row_comes_once_an_epoch_in_even_batches(n, size, shuffle):
    dataset = order.index_batches(n, size, shuffle=shuffle, seed=0)
    for epoch in epochs(dataset):
        assert sorted(flat(epoch)) == list(range(n))
        sizes = [len(batch) for batch in epoch]
        assert len(sizes) == -(-n // size) == dataset.cardinality()
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1


def test_the_order_is_new_each_epoch_kept_or_as_given():
    for shuffle in (True, np.True_):
        reshuffled = epochs(order.index_batches(100, 10, shuffle=shuffle, seed=0))
        assert reshuffled[0] != reshuffled[1] != reshuffled[2] != reshuffled[0]
    kept = epochs(order.index_batches(100, 10, shuffle="once", seed=0))
    assert kept[0] == kept[1] == kept[2]
    given = epochs(order.index_batches(100, 10, shuffle=False))
    assert flat(given[0]) == list(range(100)) != flat(kept[0])


@pytest.mark.parametrize("shuffle", [True, "once"])
def test_the_order_depends_on_its_seed_and_not_on_the_global_one(shuffle):
    orders = []
    for number, seed in enumerate((1, 1, 2, None, None)):
        tf.random.set_seed(number)
        orders.append(epochs(order.index_batches(100, 10, shuffle=shuffle, seed=seed)))
    first, again, *others = orders
    assert first == again
    assert all(a != b for a, b in itertools.combinations([first, *others], 2))


def test_bad_options_are_named():
    for shuffle in (1, "yes", "ONCE", None):
        with pytest.raises(ValueError, match='shuffle should be True, False or "once"'):
            order.index_batches(10, 5, shuffle=shuffle)
    with pytest.raises(ValueError, match="batch_size should be an integer of at least 1"):
        order.index_batches(10, 0)


@pytest.mark.slow
def test_no_pipeline_has_a_tuning_thread(rng):
    """TensorFlow may wait for that thread when an iterator is released."""
    X = rng.normal(size=(60, 4)).astype("float32")
    np.testing.assert_array_equal(np.concatenate([*order.from_array(X, 25, shuffle=False)]), X)
    data = tf.data.Dataset.from_tensor_slices(X)
    for pipeline in (
        order.from_array(X, 20),
        batches.from_array(X, 5, 20),
        batches.from_array(X, 5, 20, shuffle="once"),
        batches.from_graph(X, 5, 20),
        streams.from_dataset(data, 5, 20),
    ):
        assert not pipeline.options().autotune.enabled
        assert not pipeline.repeat().options().autotune.enabled
        assert len(list(pipeline)) == int(pipeline.cardinality())
