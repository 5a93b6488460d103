"""Workers in separate processes, killed and restarted."""

import contextlib
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from support.pipelines import assert_every_row_once
from support.processes import free_ports, until

from ptsne_keras import losses
from ptsne_keras.data import batches
from ptsne_keras.data import service as data_service

pytestmark = pytest.mark.slow  # other processes, each of which imports TensorFlow


class Service:
    """A dispatcher and two workers."""

    def __init__(self, folder):
        self.folder, self.processes = str(folder / "shared"), {}
        self.port, *self.worker_ports = free_ports(3)
        self.start(self.port, "dispatcher", "--work-dir", folder / "state")
        for port in self.worker_ports:
            self.start_worker(port)

    def start(self, port, *arguments):
        module = [sys.executable, "-m", "ptsne_keras.data.service"]
        options = {"env": {**os.environ, "CUDA_VISIBLE_DEVICES": ""}, "stderr": subprocess.DEVNULL}
        command = [*module, *arguments, "--port", str(port)]
        self.processes[port] = subprocess.Popen(command, **options)

    def start_worker(self, port):
        self.start(port, "worker", "--dispatcher", f"localhost:{self.port}")

    def listens(self, port):
        assert self.processes[port].poll() is None
        with contextlib.suppress(OSError):
            socket.create_connection(("localhost", port), timeout=1).close()
            return True

    def wait(self):
        for port in self.processes:
            until(lambda port=port: self.listens(port))

    def kill(self, port):
        self.processes[port].kill()
        self.processes[port].wait()

    def from_array(self, X, *arguments, **options):
        options |= {"service": f"grpc://localhost:{self.port}", "folder": self.folder}
        return data_service.from_array(X, *arguments, **options)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("service"))
    try:
        service.wait()
        yield service
    finally:
        for port in service.processes:
            service.kill(port)


@pytest.fixture
def X(digits):
    return digits[0][0][:500]


def arrays(dataset, replicas=1):
    """The sorted blocks of a data set: workers finish, and are stacked, in any order."""
    found = [
        block
        for x, P in dataset.as_numpy_iterator()
        for block in zip(np.split(x, replicas), np.split(P, replicas), strict=True)
    ]
    return sorted(found, key=lambda batch: batch[0].tobytes())


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for (x, P), (x_expected, P_expected) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, x_expected)
        np.testing.assert_allclose(P, P_expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("u", "options"), [(10, {}), ((5, 10, 20), {}), (10, {"replicas": 3})])
def test_batches_are_those_of_the_local_pipeline_with_the_same_seed(service, X, u, options):
    """So every row comes once in each epoch, and each epoch has another order."""
    remote = service.from_array(X, u, 64, seed=1, **options)
    local = batches.from_array(X, u, 64, seed=1, **options)
    assert remote.element_spec == local.element_spec
    assert remote.cardinality() == local.cardinality()
    for _ in range(3):
        assert_equal(arrays(remote, **options), arrays(local, **options))


def test_repeating_and_reading_ahead_keep_the_epochs_apart(service, X):
    ahead = service.from_array(X, 10, 64, seed=0).repeat(3).prefetch(100)
    parts = [x.numpy() for x, _ in ahead]
    assert len(parts) == 24
    for epoch in range(3):
        assert_every_row_once(parts[8 * epoch : 8 * epoch + 8], X)


def test_the_order_derives_from_the_number_of_the_epoch(service, X):
    epoch = tf.Variable(0, dtype=tf.int64)
    dataset = service.from_array(X, 10, 64, seed=0, epoch=epoch)
    first, again = arrays(dataset), arrays(dataset)
    epoch.assign(1)
    other = arrays(dataset)
    assert_equal(again, first)
    assert not np.array_equal(other[0][0], first[0][0])


@pytest.mark.parametrize("dtype", ["float64", ">f4"])
def test_rows_of_other_kinds(service, X, dtype, tmp_path):
    np.save(tmp_path / "X.npy", (10 * X).astype(dtype))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    expected = batches.from_array((10 * X).astype(dtype), 10, 250, seed=0)
    assert_equal(arrays(service.from_array(mapped, 10, 250, seed=0)), arrays(expected))


def test_rows_are_written_once(service, X):
    def written():
        return {name for name in os.listdir(service.folder) if name.startswith("rows-")}

    service.from_array(X[:400], 10, 64)
    before = written()
    service.from_array(X[:400], 5, 100)
    assert written() == before
    service.from_array(X[:401], 10, 64)
    assert len(written() - before) == 1


def deliver(monkeypatch, change):
    """Have the service deliver other elements than the workers compute."""
    real = tf.data.experimental.service.distribute

    def distribute(*arguments):
        return lambda served: change(served.apply(real(*arguments)))

    monkeypatch.setattr(tf.data.experimental.service, "distribute", distribute)


@pytest.mark.parametrize(
    "change",
    [
        lambda served: served.filter(lambda number, j, *_: j % 3 != 1),
        lambda served: served.take(0),
        lambda served: served.flat_map(lambda *b: tf.data.Dataset.from_tensors(b).repeat(2)),
    ],
    ids=["some lost", "all lost", "each twice"],
)
def test_batches_that_are_lost_or_come_twice(service, X, change, monkeypatch):
    deliver(monkeypatch, change)
    remote = service.from_array(X, 10, 64, seed=0)
    local = batches.from_array(X, 10, 64, seed=0)
    for _ in range(2):
        assert_equal(arrays(remote), arrays(local))


def test_a_batch_of_another_order_is_an_error(service, X, monkeypatch):
    deliver(monkeypatch, lambda served: served.map(lambda number, *rest: (number + 1, *rest)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="one iterator at a time"):
        list(service.from_array(X, 10, 64))


def test_workers_that_do_not_see_the_folder_are_an_error(service, X, monkeypatch):
    monkeypatch.setattr(data_service, "_write", lambda *_: "/not/shared/rows")
    with pytest.raises(tf.errors.NotFoundError, match="/not/shared/rows; No such file"):
        list(service.from_array(X, 10, 64))


@pytest.mark.parametrize(
    ("make", "perplexity", "message"),
    [
        (scipy.sparse.csr_array, 10, r"X should be dense, X.toarray\(\).*csr_array"),
        (np.asarray, tf.Variable(10.0), "perplexity should be one or more numbers"),
        (np.asarray, 100, "perplexity should be above 1 and below B - 1"),
        (lambda X: X * np.nan, 10, "X should be finite"),
    ],
)
def test_bad_input_is_named(service, X, make, perplexity, message):
    with pytest.raises(ValueError, match=message):
        service.from_array(make(X), perplexity, 64)


def test_bad_addresses_are_named(X, tmp_path):
    for address in ("localhost:5050", "grpc://localhost", "http://host:1", None):
        with pytest.raises(ValueError, match=r"service should be .grpc://host:port"):
            data_service.from_array(X, 10, 64, service=address, folder=str(tmp_path))
    nobody = f"grpc://localhost:{free_ports(1)[0]}"
    with pytest.raises(ConnectionError, match=r"address of a running dispatcher.*refused"):
        data_service.from_array(X, 10, 64, service=nobody, folder=str(tmp_path))


class KillAt(keras.callbacks.Callback):
    """Kill a worker after a batch of the second epoch, and restart it if `back`."""

    def __init__(self, service, batch, back):
        super().__init__()
        self.service, self.batch, self.back, self.epoch = service, batch, back, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, self.batch):
            port = self.service.worker_ports[0]
            self.service.kill(port)
            if self.back:
                self.service.start_worker(port)


@pytest.mark.parametrize(("batch", "back"), [(2, True), (49, False)], ids=["mid-epoch", "for good"])
def test_training_goes_on_when_a_worker_is_killed(service, X, batch, back):
    """In the middle of an epoch if it is restarted; between two epochs in any case."""
    fed = []

    def keep(x):
        fed.append(x.copy())
        return x

    def kept(x, P):
        return tf.ensure_shape(tf.numpy_function(keep, [x], x.dtype), x.shape), P

    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(2)])
    model.compile("adam", loss=losses.TSNE())
    data, kill = service.from_array(X, 5, 10, seed=0).map(kept), KillAt(service, batch, back)
    history = model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[kill])
    assert int(model.optimizer.iterations) == 3 * 50
    assert len(fed) == 3 * 50
    assert history.history["loss"][-1] < history.history["loss"][0]
    for epoch in range(3):
        assert_every_row_once(fed[50 * epoch : 50 * epoch + 50], X)
