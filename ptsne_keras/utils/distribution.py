"""Batches made of several blocks, one for each device, and checks of `keras.distribution`.

Under `keras.distribution.DataParallel` over R devices, on the JAX backend, a training step sees the
rows of all devices, X [R b, D] and P [R b, b], of which each device holds b. Each process feeds the
blocks of its own devices.
"""

from collections.abc import Callable

import keras
from keras import ops

from ptsne_keras.typing import Tensor


def by_block(function: Callable[..., Tensor], blocks: int, *tensors: Tensor) -> Tensor:
    """Apply a function to each of R blocks of rows: tensors [R b, …] → [R b, …]."""
    if blocks == 1:
        return function(*tensors)
    parts = [ops.reshape(x, (blocks, -1, *ops.shape(x)[1:])) for x in tensors]  # [R, b, …]
    if keras.backend.backend() == "jax":  # one program, whose first axis is split over the devices
        results = ops.vectorized_map(lambda block: function(*block), tuple(parts))
        return ops.reshape(results, (-1, *ops.shape(results)[2:]))
    # One after the other: TensorFlow's vectorized_map pads with 0 whatever is asked for (2.21).
    return ops.concatenate([function(*(part[r] for part in parts)) for r in range(blocks)])


def check_backend() -> None:
    """Raise a ValueError if a `keras.distribution` is set that the backend ignores."""
    distribution = keras.distribution.distribution()
    if distribution is not None and keras.backend.backend() == "tensorflow":
        raise ValueError(
            "keras.distribution does nothing on the TensorFlow backend: use a tf.distribute "
            "strategy, or KERAS_BACKEND=jax, and set_distribution(None) here. "
            f"Received: {distribution!r}."
        )


def own_blocks(replicas: int, seed: int | None) -> range:
    """Return which blocks this process feeds: all of them unless there are several processes."""
    distribution = keras.distribution.distribution()
    processes = getattr(distribution, "num_processes", 1)
    if processes == 1:
        return range(replicas)
    shards = min(processes, distribution.num_model_replicas)
    if replicas % shards:
        raise ValueError(
            f"replicas should be a multiple of the {shards} processes that feed a "
            f"keras.distribution, such as the number of all devices. Received: {replicas!r}."
        )
    if seed is None:
        raise ValueError(
            f"seed should be the same number on all {processes} processes, because the order of "
            "rows derives from it. Received: None."
        )
    if distribution.auto_shard_dataset:
        raise ValueError(
            "auto_shard_dataset should be False, because each process makes its own blocks only. "
            f"Received: True, of {distribution!r}."
        )
    share = replicas // shards
    first = distribution.data_shard_id * share
    return range(first, first + share)


def replicas() -> int:
    """Return the number of replicas of the current `tf.distribute` strategy; 1 without one."""
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)
