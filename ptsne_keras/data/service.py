"""P computed by other processes and machines, the workers of a `tf.data` service."""

import argparse
import hashlib
import os
import socket
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import scipy.sparse
import tensorflow as tf

from ptsne_keras import affinities
from ptsne_keras.affinities.perplexity import is_variable, several
from ptsne_keras.data import batches, order
from ptsne_keras.data.sources import Source
from ptsne_keras.typing import FloatArray, Perplexity
from ptsne_keras.utils import files

_service = tf.data.experimental.service
# Seconds within which a running dispatcher accepts a connection.
_TIMEOUT = 5.0


def from_array(
    X: Any,
    perplexity: Perplexity = 30.0,
    batch_size: int = 2500,
    *,
    service: str,
    folder: str,
    seed: int | None = None,
    epoch: tf.Variable | None = None,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Make batches whose P is computed by the workers of a `tf.data` service.

    The batches of an epoch are those of `data.from_array` with the same seed, as the workers
    finish them. Those lost with a worker are computed by this process, at the end of the epoch.

    Parameters
    ----------
    X : array-like or np.memmap of shape (n_samples, n_features)
        Rows. Each worker holds all of them in memory.
    perplexity : float or sequence of float, default=30.0
        As in `data.from_array`, but not a variable, whose value workers do not see.
    service : str
        Address of the dispatcher, "grpc://host:port".
    folder : str
        Folder that this process and the workers see under the same name. The rows are written
        there and, in each epoch, the number that its order derives from, so that only one
        iteration over the data set can run at a time. Files are not removed.
    batch_size, seed, epoch, replicas
        As in `data.from_array`.

    Returns
    -------
    tf.data.Dataset
        Of known cardinality.

    Raises
    ------
    ValueError
        If X or the perplexity cannot be sent to workers, or the sizes do not fit.
    ConnectionError
        If there is no dispatcher at the address.
    tf.errors.NotFoundError, tf.errors.InvalidArgumentError
        While it runs, if workers do not see the folder, or two iterations run at the same time.

    Examples
    --------
    >>> dispatcher = tf.data.experimental.service.DispatchServer()
    >>> worker = tf.data.experimental.service.WorkerServer(
    ...     tf.data.experimental.service.WorkerConfig(dispatcher.target.split("://")[1])
    ... )
    >>> dataset = service.from_array(X, 30, 100, service=dispatcher.target, folder="shared", seed=0)
    >>> model.compile("adam", loss=losses.TSNE())
    >>> history = model.fit(dataset, epochs=2, shuffle=False)
    """
    if scipy.sparse.issparse(X):
        raise ValueError(
            "X should be dense, X.toarray(), because each worker holds all rows. "
            f"Received: {type(X).__name__}."
        )
    if any(map(is_variable, several(perplexity))):
        raise ValueError(
            "perplexity should be one or more numbers, because workers do not see the variables of "
            f"this process. Received: {perplexity!r}."
        )
    folder = str(folder)
    if "://" not in folder:  # workers may have been started in another folder
        folder = os.path.abspath(folder)
    drawn = batches.checked_source(X, perplexity, batch_size, replicas)
    _connect(service)
    plan = _Plan(drawn, perplexity, batch_size, replicas, order.own_seed(seed), folder)
    # DYNAMIC: each split, the number of a batch, goes to one worker.
    served = plan.served().apply(_service.distribute(_service.ShardingPolicy.DYNAMIC, service))
    numbers = order.random_numbers(plan.seed, epoch).take(1)
    dataset = numbers.flat_map(lambda number: plan.epoch(number, served))
    dataset = order.of_length(dataset, plan.count)
    return order.prefetched(batches.stacked(dataset, replicas))


class _Plan:
    """What this process and the workers share."""

    def __init__(
        self, drawn: Source, perplexity: Perplexity, size: int, replicas: int, seed: int, place: str
    ) -> None:
        self.drawn, self.perplexity, self.replicas, self.seed = drawn, perplexity, replicas, seed
        self.none = drawn.take(tf.zeros([0], tf.int64))  # rows [0, D]
        self.count = order.batch_count(drawn.count, size, replicas=replicas)
        self.rows_file = _write(drawn, place)
        self.order_file = tf.io.gfile.join(place, f"order-{uuid.uuid4().hex}")

    def served(self) -> tf.data.Dataset:
        """Return what workers compute: the number of the epoch, that of the batch, X and P."""
        # Each worker runs this again in each epoch, and reads the two files with its first batch.
        # A constant X would pass through the dispatcher each time, and be limited to 2 GiB.
        unread = tf.constant(0, tf.int64), tf.zeros([0], tf.int64), self.none
        drawn = tf.data.Dataset.range(self.count).scan(unread, self._draw)
        return drawn.map(
            lambda number, j, x: (number, j, *self._with_P(x)), num_parallel_calls=tf.data.AUTOTUNE
        )

    def epoch(self, number: tf.Tensor, served: tf.data.Dataset) -> tf.data.Dataset:
        """Give the workers the number, take what they compute, and compute what is missing."""
        tf.io.write_file(self.order_file, tf.strings.as_string(number))  # before any is drawn
        came = served.map(lambda theirs, *batch: self._checked(number, theirs, batch))
        # Then each batch comes once more, empty, and is dropped if it has come before.
        empty = self.none, tf.zeros([0, 0], self.none.dtype)
        rest = tf.data.Dataset.range(self.count).map(lambda j: (j, *empty))
        each = came.concatenate(rest).scan(tf.zeros([self.count], tf.bool), _mark)

        def complete(_: tf.Tensor, j: tf.Tensor, x: tf.Tensor, P: tf.Tensor) -> Any:
            def compute() -> tuple[tf.Tensor, tf.Tensor]:
                return self._with_P(self.drawn.take(self._part(self._order(number), j)))

            return tf.cond(tf.shape(x)[0] > 0, lambda: (x, P), compute)

        # Without `take` it would wait for the end of the job, which a dead worker never reaches.
        return each.filter(lambda new, *_: new).map(complete).take(self.count)

    def _draw(self, state: Any, j: tf.Tensor) -> Any:
        number, rows, X = tf.cond(tf.size(state[1]) == 0, self._read, lambda: state)
        state = number, tf.ensure_shape(rows, [None]), tf.ensure_shape(X, [None, *X.shape[1:]])
        return state, (number, j, tf.gather(X, self._part(rows, j)))

    def _read(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        number = tf.strings.to_number(tf.io.read_file(self.order_file), tf.int64)
        X = tf.io.decode_raw(tf.io.read_file(self.rows_file), self.none.dtype)
        return number, self._order(number), tf.reshape(X, [self.drawn.count, self.none.shape[1]])

    def _order(self, number: tf.Tensor) -> tf.Tensor:
        return order.epoch_order(self.drawn.count, self.seed, number)

    def _part(self, rows: tf.Tensor, j: tf.Tensor) -> tf.Tensor:
        bounds = tf.constant(order.batch_bounds(self.drawn.count, self.count, self.replicas))
        return rows[bounds[j] : bounds[j + 1]]

    def _with_P(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return x, affinities.joint_probabilities(x, self.perplexity)

    def _checked(self, number: tf.Tensor, theirs: tf.Tensor, batch: Any) -> Any:
        message = (
            "The data set should be read by one iterator at a time. Received: a batch of another "
            f"order than that in {self.order_file}."
        )
        with tf.control_dependencies([tf.debugging.Assert(theirs == number, [message])]):
            return tuple(map(tf.identity, batch))


def _mark(seen: tf.Tensor, batch: Any) -> Any:
    j, x, P = batch
    new = ~seen[j]
    return tf.tensor_scatter_nd_update(seen, [[j]], [True]), (new, j, x, P)


def _write(drawn: Source, folder: str) -> str:
    """Write the rows, unless they are there: the file is named after a hash of its content."""
    digest = hashlib.blake2b(digest_size=16)
    for block in drawn.blocks():
        digest.update(_little_endian(block))
    path = tf.io.gfile.join(folder, f"rows-{digest.hexdigest()}")
    if not tf.io.gfile.exists(path):
        tf.io.gfile.makedirs(folder)
        part = f"{path}-{uuid.uuid4().hex}"  # renamed when it is complete
        with tf.io.gfile.GFile(part, "wb") as file:
            for block in drawn.blocks():
                file.write(_little_endian(block))
        local = os.path.exists(part)  # else it is at a URL
        if local:
            files.flush(Path(part))
        tf.io.gfile.rename(part, path, overwrite=True)
        if local:
            files.flush_entries(Path(folder))
    return path


def _little_endian(block: FloatArray) -> bytes:
    return block.astype(block.dtype.newbyteorder("<"), copy=False).tobytes()


def _connect(service: str) -> None:
    """Check that something accepts connections there; TensorFlow would try for an hour."""
    scheme, _, address = str(service).partition("://")
    host, _, port = address.rpartition(":")
    if scheme != "grpc" or not host or not port.isdigit():
        raise ValueError(f'service should be "grpc://host:port". Received: {service!r}.')
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT).close()
    except OSError as error:
        raise ConnectionError(
            f"service should be the address of a running dispatcher. Received: {service!r}, "
            f"{error}."
        ) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a dispatcher or a worker until the process is killed."""
    parser = argparse.ArgumentParser(prog="python -m ptsne_keras.data.service", description=__doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    dispatcher = roles.add_parser("dispatcher", help="assigns work to the workers; run one")
    dispatcher.add_argument("--port", type=int, default=5050)
    dispatcher.add_argument("--work-dir", help="folder for its state, so that it can be restarted")
    worker = roles.add_parser("worker", help="computes P; run one on each machine")
    worker.add_argument("--dispatcher", default="localhost:5050", metavar="HOST:PORT")
    worker.add_argument("--port", type=int, default=5051, help="keep it when restarting the worker")
    worker.add_argument(
        "--host", default="localhost", help="its own name, by which the training process reaches it"
    )
    given = parser.parse_args(arguments)
    if given.role == "dispatcher":
        folder = given.work_dir
        options = {"port": given.port, "work_dir": folder, "fault_tolerant_mode": bool(folder)}
        _service.DispatchServer(_service.DispatcherConfig(**options)).join()
    else:
        address = f"{given.host}:{given.port}"
        options = {"worker_address": address, "port": given.port}
        _service.WorkerServer(_service.WorkerConfig(given.dispatcher, **options)).join()


if __name__ == "__main__":
    main()
