import itertools

import numpy as np
import pytest
import tensorflow as tf

from ptsne_keras.data import batches, order, streams
from ptsne_keras.utils import validation


def epochs(dataset, count=3):
    return [[batch.numpy().tolist() for batch in dataset] for _ in range(count)]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


@pytest.mark.parametrize("shuffle", [True, "once", False])
@pytest.mark.parametrize(("n", "size"), [(10, 4), (10, 5), (10, 10), (10, 99), (7, 1), (1001, 100)])
def test_every_row_comes_once_an_epoch_in_even_batches(n, size, shuffle):
    dataset = order.index_batches(n, size, shuffle=shuffle, seed=0)
    for epoch in epochs(dataset):
        assert sorted(flat(epoch)) == list(range(n))
        sizes = [len(batch) for batch in epoch]
        assert len(sizes) == -(-n // size) == dataset.cardinality()
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1


def test_the_order_is_new_each_epoch_kept_or_as_given():
    reshuffled = epochs(order.index_batches(100, 10, shuffle=True, seed=0))
    assert reshuffled[0] != reshuffled[1] != reshuffled[2] != reshuffled[0]
    kept = epochs(order.index_batches(100, 10, shuffle="once", seed=0))
    assert kept[0] == kept[1] == kept[2]
    given = epochs(order.index_batches(100, 10, shuffle=False))
    assert flat(given[0]) == list(range(100)) != flat(kept[0])


@pytest.mark.parametrize("shuffle", [True, "once"])
def test_a_seed_fixes_the_order_and_another_seed_another(shuffle):
    first, again, other = (
        epochs(order.index_batches(100, 10, shuffle=shuffle, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again != other
    unseeded = [epochs(order.index_batches(100, 10, shuffle=shuffle)) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_the_order_does_not_depend_on_the_global_seed():
    orders = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        orders.append(epochs(order.index_batches(100, 10, seed=0)))
    assert orders[0] == orders[1]


def test_batches_hold_the_rows(rng):
    X = rng.normal(size=(23, 3))
    batches = list(order.from_array(X, 10, shuffle=False))
    np.testing.assert_array_equal(np.concatenate(batches), X)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones(5), r"2-D array .* Received: shape \(5,\)"),
        (np.ones((0, 5)), r"Received: shape \(0, 5\)"),
        (np.ones((5, 0)), r"Received: shape \(5, 0\)"),
        (np.array([["a", "b"]]), "should be numeric"),
        (np.array([[1, None]]), "should be finite"),
        (np.array([[1, "a"]], dtype=object), "should be numeric"),
        ([[1.0, 2.0], [np.nan, 1.0], [np.inf, 1.0]], "2 such rows, the first at index 1"),
    ],
)
def test_bad_rows_are_named(X, message):
    with pytest.raises(ValueError, match=message):
        validation.check_rows(X)


def test_a_bad_batch_size_is_named():
    with pytest.raises(ValueError, match="batch_size should be an integer of at least 1"):
        order.index_batches(10, 0)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("int64", "float32"), ("float32", "float32"), ("float64", "float64"), ("bool", "float32")],
)
def test_numeric_rows_become_float(dtype, expected):
    assert validation.check_rows(np.ones((2, 2), dtype)).dtype == expected


@pytest.mark.parametrize("shuffle", [1, "yes", "ONCE", None])
def test_a_shuffle_that_is_none_of_the_three_is_named(shuffle):
    with pytest.raises(ValueError, match='shuffle should be True, False or "once"'):
        order.index_batches(10, 5, shuffle=shuffle)


def test_numpy_true_reshuffles():
    dataset = order.index_batches(100, 10, shuffle=np.True_, seed=0)
    first, second = epochs(dataset, 2)
    assert first != second


def test_object_columns_of_numbers_and_big_endian_rows_are_read():
    assert validation.check_rows(np.array([[1, True], [2.5, 3]], dtype=object)).tolist() == [
        [1, 1],
        [2.5, 3],
    ]
    big = np.array([[1.0, 2.0]], dtype=">f8")
    assert validation.check_rows(big).dtype == np.float64
    assert validation.check_rows(big).tolist() == [[1, 2]]


def test_no_pipeline_has_a_tuning_thread(rng):
    """TensorFlow may wait for it to sleep out when an iterator is let go."""
    X = rng.normal(size=(60, 4)).astype("float32")
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
