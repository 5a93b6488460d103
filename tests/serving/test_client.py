"""The client against a stand-in for TensorFlow Serving that can be told to fail."""

import contextlib
import http.server
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from support.loopback import Loopback, free_port

from ptsne_keras import networks, serving
from ptsne_keras.serving import Client, ServingError, _chunks, _grpc, _rest
from ptsne_keras.serving._transport import Failure
from ptsne_keras.serving.signatures import example

D = 5
MODEL = "digits"
# Seconds that a slow answer takes.
SLOW = 1.5


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D)).astype("float32")


class Served(tf.Module):
    """A linear map to 2-D with the three signatures; novelty is the squared length."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.weights = tf.Variable(scale * np.arange(1, 2 * D + 1).reshape(D, 2), dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, D], tf.float32, "features")])
    def embed(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": features @ self.weights}

    @tf.function(input_signature=[tf.TensorSpec([None, D], tf.float32, "features")])
    def embed_with_novelty(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        novelty = tf.reduce_sum(features**2, axis=1)
        return {"embedding": features @ self.weights, "novelty": novelty}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
    def embed_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = {"features": tf.io.FixedLenFeature([D], tf.float32)}
        return self.embed(tf.io.parse_example(examples, spec)["features"])


def assert_embeds(Y: np.ndarray, X: Any, scale: float = 1.0) -> None:
    assert Y.dtype == np.float32
    weights = scale * np.arange(1, 2 * D + 1).reshape(D, 2)
    np.testing.assert_allclose(Y, np.asarray(X, np.float32) @ weights, rtol=1e-6, atol=1e-4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 and 2; only the newest has all three signatures."""
    base = tmp_path_factory.mktemp("served") / MODEL
    old, new = Served(0.5), Served(1.0)
    tf.saved_model.save(old, str(base / "1"), signatures={"serving_default": old.embed})
    signatures = {
        "serving_default": new.embed,
        "embed_with_novelty": new.embed_with_novelty,
        "embed_examples": new.embed_examples,
    }
    tf.saved_model.save(new, str(base / "2"), signatures=signatures)
    return base


@pytest.fixture(scope="module")
def running(base: Path) -> Iterator[Loopback]:
    with Loopback(base, MODEL, labels={"stable": 1}, slow=SLOW) as server:
        yield server


@pytest.fixture
def server(running: Loopback) -> Iterator[Loopback]:
    running.requests.clear()
    yield running
    running.clear()


def address(server: Loopback, way: str) -> str:
    if way == "grpc" and server.grpc_url is None:
        pytest.skip("not run: grpcio or tensorflow-serving-api is not installed")
    return server.rest_url if way == "http" else server.grpc_url


@pytest.fixture(params=["http", "grpc"])
def way(request: pytest.FixtureRequest, server: Loopback) -> str:
    address(server, request.param)  # skips
    return request.param


@pytest.fixture
def url(server: Loopback, way: str) -> str:
    return address(server, way)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, MODEL, backoff=0.01) as client:
        yield client


def counts(server: Loopback) -> list[int]:
    return [request.rows for request in server.requests]


# ---------------------------------------------------------------- answers


def test_embed_equals_the_encoder_of_an_export(tmp_path, way):
    encoder = networks.encoder(D, 2, hidden_units=(16,), seed=0)
    serving.export_saved_model(encoder, tmp_path)
    X = rows(11)
    with Loopback(tmp_path, MODEL) as server, Client(address(server, way), MODEL) as client:
        Y = client.embed(X)
    np.testing.assert_allclose(Y, encoder(X, training=False), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [1, 7])
def test_every_signature(client, n):
    X = rows(n)
    assert_embeds(client.embed(X), X)
    assert_embeds(client.embed_examples([example(row) for row in X]), X)
    Y, novelty = client.embed_with_novelty(X)
    assert_embeds(Y, X)
    assert (novelty.dtype, novelty.shape) == (np.float32, (n,))
    np.testing.assert_allclose(novelty, (X**2).sum(axis=1), rtol=1e-6)


def memory_mapped(X: np.ndarray, folder: Path) -> np.ndarray:
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


KINDS = {
    "float64": lambda X, folder: X.astype("float64"),
    "int64": lambda X, folder: np.round(10 * X).astype("int64"),
    # As a JSON integer it is refused, by the stand-in too: it is sent as 16777216.0.
    "beyond 2**24": lambda X, folder: np.full((1, D), 2**24, np.int64),
    "list": lambda X, folder: X.tolist(),
    "Fortran order": lambda X, folder: np.asfortranarray(X),
    "memmap": memory_mapped,
    "csr": lambda X, folder: scipy.sparse.csr_array(X),
    "csc": lambda X, folder: scipy.sparse.csc_array(X),
    "coo": lambda X, folder: scipy.sparse.coo_array(X),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_numbers_are_accepted(url, tmp_path, kind):
    X = KINDS[kind](rows(9), tmp_path)
    dense = X.toarray() if scipy.sparse.issparse(X) else np.asarray(X)
    with Client(url, MODEL, rows=4) as client:
        assert_embeds(client.embed(X), dense)


def test_numbers_arrive_over_rest_to_the_bit():
    X = np.random.default_rng(0).integers(0, 2**32, (500, 3), dtype=np.uint32).view("float32")
    X = X[np.isfinite(X).all(axis=1)]
    text = _rest.json_rows(X)
    np.testing.assert_array_equal(np.array(json.loads(text), np.float32), X)
    assert all(isinstance(number, float) for row in json.loads(text) for number in row)


# ---------------------------------------------------------------- requests


def test_many_rows_go_in_several_requests(url, server):
    X = rows(23)
    with Client(url, MODEL, rows=5) as client:
        assert_embeds(client.embed(X), X)
        assert_embeds(client.embed_examples([example(row) for row in X[:7]]), X[:7])
    assert counts(server) == [5, 5, 5, 5, 3, 5, 2]


def test_no_request_has_more_than_two_megabytes(monkeypatch, client, server):
    monkeypatch.setattr(_chunks, "BYTES", 4 * D * 6)
    client.embed(rows(13))
    monkeypatch.setattr(_chunks, "BYTES", 2 * len(example(rows(1)[0])))
    client.embed_examples([example(row) for row in rows(5)])
    assert counts(server) == [6, 6, 1, 2, 2, 1]


def test_wide_rows_fit_the_four_megabytes_of_grpc():
    wide = np.zeros((3, 400_000), np.float64)
    assert [chunk.nbytes for chunk in _chunks.features(wide, 4096)] == [1_600_000] * 3


def test_row_that_alone_is_too_large_is_refused_with_advice(server):
    with Client(address(server, "grpc"), MODEL) as client:
        error = refusal(lambda: client.embed(np.zeros((1, 1_200_000))))
    assert error.code == "PAYLOAD_TOO_LARGE"
    assert "larger than max" in str(error)
    assert "a lower `rows`" in str(error)


def test_connection_is_kept_over_rest_and_let_go_by_close(server):
    with Client(server.rest_url, MODEL, rows=2) as client:
        client.embed(rows(9))
        with pytest.raises(ServingError):
            client.embed(np.zeros((1, D + 1)))
        client.embed(rows(2))
        pools = client._transport._pools
        assert pools.connection_from_url(server.rest_url).num_connections == 1
    assert len(pools.pools) == 0
    assert client.embed(rows(2)).shape == (2, 2)


def test_threads_share_a_client(client, server):
    X, found = rows(40), {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: client.embed(X[i : i + 5])}))
        for i in range(0, 40, 5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_embeds(np.concatenate([found[i] for i in range(0, 40, 5)]), X)


def test_version_and_label_choose_the_model(url):
    X = rows(3)
    for choice, scale in (({}, 1.0), ({"version": 1}, 0.5), ({"label": "stable"}, 0.5)):
        with Client(url, MODEL, **choice) as client:
            assert client.ready()
            assert_embeds(client.embed(X), X, scale)


def test_headers_are_sent(url, server):
    with Client(url, MODEL, headers={"Authorization": "Bearer x"}) as client:
        client.embed(rows(1))
    assert server.requests[0].headers["authorization"] == "Bearer x"


def test_metadata(client):
    features = {"features": {"dtype": "float32", "shape": [None, D]}}
    embedding = {"embedding": {"dtype": "float32", "shape": [None, 2]}}
    assert client.metadata() == {
        "serving_default": {"inputs": features, "outputs": embedding},
        "embed_with_novelty": {
            "inputs": features,
            "outputs": {**embedding, "novelty": {"dtype": "float32", "shape": [None]}},
        },
        "embed_examples": {
            "inputs": {"examples": {"dtype": "string", "shape": [None]}},
            "outputs": embedding,
        },
    }


def test_not_ready(url, way):
    assert not Client(url, MODEL, version=7).ready()
    assert not Client(url, MODEL, label="canary").ready()
    assert not Client(url, "letters").ready()
    assert not Client(f"{way}://127.0.0.1:{free_port()}", MODEL, timeout=1.0).ready()


# ---------------------------------------------------------------- what is not sent


def test_no_rows_give_no_places(client, server):
    assert client.embed(np.zeros((0, D))).shape == (0, 2)
    Y, novelty = client.embed_with_novelty(scipy.sparse.csr_array((0, D)))
    assert (Y.shape, novelty.shape, Y.dtype) == ((0, 2), (0,), np.float32)
    assert client.embed_examples([]).shape == (0, 2)
    assert server.requests == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_rows_that_are_not_finite_are_named_before_anything_is_sent(url, server, bad):
    X = rows(9).astype("float64")
    X[6, 2] = bad
    with Client(url, MODEL, rows=2) as client:
        for embed, given in (
            (client.embed, X),
            (client.embed_with_novelty, scipy.sparse.csr_array(X)),
        ):
            with pytest.raises(ValueError, match=r"X should be finite.*3.4e38.* at index 6\."):
                embed(given)
    assert server.requests == []


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(D), r"X should be a 2-D array \[N, D\] of rows. Received: shape \(5,\)"),
        (np.zeros((2, D, 1)), "X should be a 2-D array"),
        (np.zeros((3, 0)), "X should be a 2-D array"),
        ([["a", "b"]], "X should be numeric"),
    ],
    ids=["1-D", "3-D", "no columns", "text"],
)
def test_anything_but_a_matrix_of_numbers_is_refused(client, server, X, message):
    with pytest.raises(ValueError, match=message):
        client.embed(X)
    assert server.requests == []


@pytest.mark.parametrize("bad", [b"abc", "abc", ["abc"], [b"abc", 3]])
def test_examples_that_are_not_bytes_are_refused(client, bad):
    with pytest.raises(ValueError, match="examples should be a sequence of bytes"):
        client.embed_examples(bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "127.0.0.1:8501"}, "url should be"),
        ({"url": "ftp://127.0.0.1"}, "url should be"),
        ({"credentials": object()}, "url should begin with https:// or grpcs://"),
        ({"headers": {"a": "b\nc"}}, "headers should not contain line breaks"),
        ({"version": 1, "label": "stable"}, "not both"),
        ({"version": "1"}, "version should be"),
        ({"rows": 0}, "rows should be"),
        ({"timeout": 0}, "timeout should be"),
        ({"deadline": -1.0}, "deadline should be"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Client(**{"url": "http://127.0.0.1:1", "model": MODEL, **arguments})


@pytest.mark.parametrize("module", ["tensorflow_serving.apis", "grpc"])
def test_grpc_without_its_packages_says_what_to_install(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match="pip install --no-deps tensorflow-serving-api"):
        Client("grpc://127.0.0.1:8500", MODEL)
    Client("http://127.0.0.1:8501", MODEL)


# ---------------------------------------------------------------- refusals


def refusal(act: Any) -> ServingError:
    with pytest.raises(ServingError) as caught:
        act()
    assert "\n" not in str(caught.value)
    assert caught.value.attempts == 1
    return caught.value


def test_wrong_width(client):
    error = refusal(lambda: client.embed(np.zeros((7, D + 2))))
    assert error.code == "INVALID_ARGUMENT"
    # The operation's own words, then ours.
    assert "Matrix size-incompatible: In[0]: [7,7], In[1]: [5,2]" in error.server_message
    assert error.server_message in str(error)
    assert "X should have 5 columns, like the training rows; it has 7." in str(error)


@pytest.mark.parametrize(
    ("model", "choice", "code", "words"),
    [
        ("letters", {}, "NOT_FOUND", ["Latest(letters)", ", model 'letters'", "Client.ready()"]),
        (MODEL, {"version": 7}, "NOT_FOUND", ["Specific(digits, 7)", "version 7"]),
        (
            MODEL,
            {"label": "canary"},
            "INVALID_ARGUMENT",
            ["label: canary", "The label should be in the server's configuration"],
        ),
    ],
    ids=["model", "version", "label"],
)
def test_unknown(url, model, choice, code, words):
    error = refusal(lambda: Client(url, model, **choice).embed(rows(1)))
    assert error.code == code
    assert all(word in str(error) for word in [url, *words]), str(error)


def test_model_without_the_signature(url):
    old = Client(url, MODEL, version=1)
    error = refusal(lambda: old.embed_with_novelty(rows(1)))
    assert "embed_with_novelty" in error.server_message
    assert "exported with that signature; it has ['serving_default']." in str(error)
    empty = refusal(lambda: old.embed_with_novelty(np.zeros((0, D))))
    assert "['serving_default']" in str(empty)


def test_model_that_is_no_map(way, tmp_path):
    class Other(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, D], tf.float64, "x")])
        def call(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": x}

    other = Other()
    tf.saved_model.save(other, str(tmp_path / "1"), signatures=other.call)
    with Loopback(tmp_path, "other") as server:
        error = refusal(lambda: Client(address(server, way), "other").embed(rows(1)))
    assert "The signature should take 'features' alone; it takes ['x']." in str(error)


def test_bad_example(client):
    error = refusal(lambda: client.embed_examples([b"no example"]))
    assert error.code == "INVALID_ARGUMENT"
    assert "parse" in error.server_message


@contextlib.contextmanager
def answering(*pieces: bytes, length: int, pause: float = 0.0) -> Iterator[str]:
    """A server of another kind: sends these pieces with pauses between."""

    class Other(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(pause)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.handle_request).start()
        yield f"http://127.0.0.1:{other.server_port}"


def test_another_kind_of_server_is_recognised():
    with answering(b"{}", length=2) as url:
        error = refusal(lambda: Client(url, MODEL).embed(rows(1)))
    assert "an answer without 'outputs', unlike TF Serving's" in str(error)


def test_answer_that_comes_in_drops_is_too_slow():
    """A socket's timeout limits each silence, not the answer."""
    began = time.monotonic()
    with (
        answering(*[b" "] * 12, length=100, pause=0.1) as url,
        pytest.raises(ServingError, match="no answer within"),
    ):
        Client(url, MODEL, timeout=0.4, deadline=0.5).embed(rows(1))
    assert 0.3 < time.monotonic() - began < 1.5


# ---------------------------------------------------------------- faults


def test_unavailable_twice_then_fine(client, server):
    server.inject("unavailable", times=2)
    X = rows(3)
    assert_embeds(client.embed(X), X)
    assert len(server.requests) == 3


def test_unavailable_for_ever_ends_at_the_deadline(url, server):
    server.inject("unavailable", times=1000)
    began = time.monotonic()
    with pytest.raises(ServingError, match="The model server is unavailable") as caught:
        Client(url, MODEL, deadline=0.4, backoff=0.02).embed(rows(1))
    assert time.monotonic() - began < 1.0
    assert caught.value.code == "UNAVAILABLE"
    # Pauses double, so that few attempts fit; without pauses there would be hundreds.
    assert 2 < caught.value.attempts == len(server.requests) < 9


def test_slow_answer_is_asked_for_again(url, server):
    server.inject("slow")
    X = rows(3)
    began = time.monotonic()
    Y = Client(url, MODEL, timeout=0.5, backoff=0.01).embed(X)
    assert 0.5 <= time.monotonic() - began < SLOW
    assert_embeds(Y, X)
    assert len(server.requests) == 2


@pytest.mark.parametrize(("timeout", "deadline", "told"), [(0.15, 0.4, 0.15), (10.0, 0.2, 0.2)])
def test_slow_for_ever_ends_at_the_deadline(url, server, timeout, deadline, told):
    server.inject("slow", times=5)
    began = time.monotonic()
    with pytest.raises(ServingError, match=rf"no answer within {told} s") as caught:
        Client(url, MODEL, timeout=timeout, deadline=deadline, backoff=0.01).embed(rows(1))
    assert time.monotonic() - began < 1.0
    assert caught.value.code == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("fault", ["truncated", "short"])
def test_answer_cut_short_is_asked_for_again_and_never_returned(client, server, fault):
    server.inject(fault)
    X = rows(6)
    Y, novelty = client.embed_with_novelty(X)
    assert_embeds(Y, X)
    assert novelty.shape == (6,)
    assert len(server.requests) == 2
    server.inject(fault, times=1000)
    client._sender._deadline = 0.3
    with pytest.raises(ServingError) as caught:
        client.embed(X)
    assert caught.value.code == "DATA_LOSS"
    assert caught.value.attempts > 1


def test_one_fault_does_not_repeat_the_chunks_before(url, server):
    X = rows(9)
    with Client(url, MODEL, rows=3, backoff=0.01) as client:
        client.embed(X[:1])
        server.requests.clear()
        server.inject("truncated")
        assert_embeds(client.embed(X), X)
    assert counts(server) == [3, 3, 3, 3]


def test_connection_refused(way):
    began = time.monotonic()
    with pytest.raises(ServingError, match=r"(?i)refused|failed to connect") as caught:
        Client(f"{way}://127.0.0.1:{free_port()}", MODEL, deadline=0.4, backoff=0.05).embed(rows(1))
    assert time.monotonic() - began < 1.2
    assert caught.value.code == "UNAVAILABLE"
    assert caught.value.attempts > 1


def test_server_that_starts_later_is_reached_soon_and_one_that_ends_is_unavailable(base, way):
    """The channel itself must not insist on waiting: gRPC's own pauses reach two minutes."""
    port, X = free_port(), rows(2)
    url = f"{way}://127.0.0.1:{port}"
    with Client(url, MODEL, deadline=1.0, backoff=0.02) as client:
        with pytest.raises(ServingError):
            client.embed(X)
        with Loopback(base, MODEL, **{f"{'rest' if way == 'http' else way}_port": port}):
            Client(url, MODEL).embed(X)  # the first call of a model takes its time
            assert client.embed(X).shape == (2, 2)
        with pytest.raises(ServingError) as caught:
            client.embed(X)
    assert caught.value.code == "UNAVAILABLE"


def test_overload_is_tried_again_but_a_request_too_large_is_not():
    overload = _grpc._failure("RESOURCE_EXHAUSTED", "Task queue is full", 1.0)
    large = _grpc._failure("RESOURCE_EXHAUSTED", "Received message larger than max", 1.0)
    assert (overload.code, large.code) == ("RESOURCE_EXHAUSTED", "PAYLOAD_TOO_LARGE")
    assert Failure("X", "two\n\t lines").message == "two lines"
