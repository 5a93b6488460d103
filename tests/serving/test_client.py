"""The client against a server on loopback that answers from a SavedModel, and fails as told."""

import http.server
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from ptsne_keras import networks, serving
from ptsne_keras.serving import Client, Loopback, ServingError, _chunks, _client_grpc, _client_rest
from ptsne_keras.serving._transport import Failure

D = 5
MODEL = "digits"
# Seconds that a slow answer takes.
SLOW = 1.5
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D)).astype("float32")


def example(row: np.ndarray) -> bytes:
    values = tf.train.Feature(float_list=tf.train.FloatList(value=row))
    features = tf.train.Features(feature={"features": values})
    return tf.train.Example(features=features).SerializeToString()


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


def expected(X: Any, scale: float = 1.0) -> np.ndarray:
    return np.asarray(X, np.float32) @ (scale * np.arange(1, 2 * D + 1).reshape(D, 2))


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
def server(running: Loopback) -> Loopback:
    running.requests.clear()
    return running


@pytest.fixture(params=["rest", "grpc"])
def url(request: pytest.FixtureRequest, server: Loopback) -> str:
    if request.param == "rest":
        return server.rest_url
    if server.grpc_url is None:
        pytest.skip("not run: grpcio or tensorflow-serving-api is not installed")
    return server.grpc_url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, MODEL, backoff=0.01) as client:
        yield client


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---------------------------------------------------------------- answers


def test_embed_equals_the_encoder_of_an_export(tmp_path):
    encoder = networks.encoder(D, 2, hidden_units=(16,), seed=0)
    serving.export_saved_model(encoder, tmp_path)
    X = rows(11)
    with Loopback(tmp_path, MODEL) as server:
        for url in filter(None, (server.rest_url, server.grpc_url)):
            with Client(url, MODEL) as client:
                Y = client.embed(X)
            assert Y.dtype == np.float32
            np.testing.assert_allclose(Y, encoder(X, training=False), **CLOSE)


def test_embed(client):
    X = rows(7)
    Y = client.embed(X)
    assert Y.dtype == np.float32
    np.testing.assert_allclose(Y, expected(X), rtol=1e-6, atol=1e-5)


def test_embed_with_novelty(client):
    X = rows(7)
    Y, novelty = client.embed_with_novelty(X)
    assert (Y.dtype, novelty.dtype, novelty.shape) == (np.float32, np.float32, (7,))
    np.testing.assert_allclose(Y, expected(X), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(novelty, (X**2).sum(axis=1), rtol=1e-6)


def test_embed_examples(client):
    X = rows(7)
    Y = client.embed_examples([example(row) for row in X])
    np.testing.assert_allclose(Y, expected(X), rtol=1e-6, atol=1e-5)


def test_one_row_and_one_dimension_keep_their_axes(client):
    assert client.embed(rows(1)).shape == (1, 2)
    Y, novelty = client.embed_with_novelty(rows(1))
    assert (Y.shape, novelty.shape) == ((1, 2), (1,))


def memory_mapped(X: np.ndarray, folder: Path) -> np.ndarray:
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


@pytest.mark.parametrize(
    "convert",
    [
        lambda X, folder: X.astype("float64"),
        lambda X, folder: np.round(10 * X).astype("int64"),
        lambda X, folder: X.tolist(),
        lambda X, folder: np.asfortranarray(X),
        memory_mapped,
    ],
    ids=["float64", "int64", "list", "Fortran order", "memmap"],
)
def test_any_numbers_are_taken(client, tmp_path, convert):
    X = convert(rows(9), tmp_path)
    np.testing.assert_allclose(client.embed(X), expected(X), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_sparse_rows_are_taken(url, form):
    X = rows(9)
    with Client(url, MODEL, rows=4) as client:
        Y = client.embed(scipy.sparse.coo_array(X).asformat(form))
    np.testing.assert_allclose(Y, expected(X), rtol=1e-6, atol=1e-5)


def test_integers_that_json_would_round_are_sent_as_floats(client, server):
    # 2**24 as a JSON integer is refused; see test_rest_refuses_integers_beyond_float32.
    X = np.full((1, D), 2**24, np.int64)
    np.testing.assert_allclose(client.embed(X), expected(X), rtol=1e-6)


def test_numbers_arrive_over_rest_to_the_bit():
    X = np.random.default_rng(0).integers(0, 2**32, (500, 3), dtype=np.uint32).view("float32")
    X = X[np.isfinite(X).all(axis=1)]
    text = _client_rest.json_rows(X)
    np.testing.assert_array_equal(np.array(json.loads(text), np.float32), X)
    assert all(isinstance(number, float) for row in json.loads(text) for number in row)


# ---------------------------------------------------------------- requests


def test_many_rows_go_in_several_requests(url, server):
    X = rows(23)
    with Client(url, MODEL, rows=5) as client:
        Y = client.embed(X)
    np.testing.assert_allclose(Y, expected(X), rtol=1e-6, atol=1e-5)
    assert [request.rows for request in server.requests] == [5, 5, 5, 5, 3]


def test_examples_go_in_several_requests(url, server):
    X = rows(7)
    with Client(url, MODEL, rows=3) as client:
        Y = client.embed_examples([example(row) for row in X])
    np.testing.assert_allclose(Y, expected(X), rtol=1e-6, atol=1e-5)
    assert [request.rows for request in server.requests] == [3, 3, 1]


def test_no_request_has_more_than_two_megabytes(monkeypatch, client, server):
    monkeypatch.setattr(_chunks, "BYTES", 4 * D * 6)
    client.embed(rows(13))
    assert [request.rows for request in server.requests] == [6, 6, 1]
    server.requests.clear()
    size = len(example(rows(1)[0]))
    monkeypatch.setattr(_chunks, "BYTES", 2 * size)
    client.embed_examples([example(row) for row in rows(5)])
    assert [request.rows for request in server.requests] == [2, 2, 1]


def test_wide_rows_fit_the_four_megabytes_of_grpc():
    wide = np.zeros((3, 400_000), np.float64)
    assert [chunk.nbytes for chunk in _chunks.features(wide, 4096)] == [1_600_000] * 3


def test_row_that_alone_is_huge_is_refused_with_advice(server):
    if server.grpc_url is None:
        pytest.skip("not run: grpcio or tensorflow-serving-api is not installed")
    with Client(server.grpc_url, MODEL) as client, pytest.raises(ServingError) as caught:
        client.embed(np.zeros((1, 1_200_000)))
    assert caught.value.code == "PAYLOAD_TOO_LARGE"
    assert caught.value.attempts == 1
    assert "larger than max" in str(caught.value)
    assert "a lower `rows`" in str(caught.value)


def test_connection_is_kept_over_rest(server, monkeypatch):
    made = []
    real = _client_rest.http.client.HTTPConnection
    monkeypatch.setattr(
        _client_rest.http.client, "HTTPConnection", lambda *a: made.append(1) or real(*a)
    )
    with Client(server.rest_url, MODEL, rows=2) as client:
        client.embed(rows(9))
        with pytest.raises(ServingError):
            client.embed(np.zeros((1, D + 1)))
        client.embed(rows(2))
    assert len(made) == 1


def test_version_and_label_choose_the_model(url):
    X = rows(3)
    for choice, scale in (({}, 1.0), ({"version": 1}, 0.5), ({"label": "stable"}, 0.5)):
        with Client(url, MODEL, **choice) as client:
            np.testing.assert_allclose(client.embed(X), expected(X, scale), rtol=1e-6, atol=1e-5)


def test_headers_go_along(server, monkeypatch):
    sent = []
    real = _client_rest.http.client.HTTPConnection.request

    def request(self, method, path, body, headers):
        sent.append(headers)
        return real(self, method, path, body, headers)

    monkeypatch.setattr(_client_rest.http.client.HTTPConnection, "request", request)
    with Client(server.rest_url, MODEL, headers={"authorization": "Bearer x"}) as client:
        client.embed(rows(1))
    assert sent[0]["authorization"] == "Bearer x"


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


def test_ready(url):
    assert Client(url, MODEL).ready()
    assert Client(url, MODEL, version=1).ready()
    assert Client(url, MODEL, label="stable").ready()
    assert not Client(url, MODEL, version=7).ready()
    assert not Client(url, MODEL, label="canary").ready()
    assert not Client(url, "letters").ready()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_not_ready_where_nobody_listens(server, scheme):
    if scheme == "grpc" and server.grpc_url is None:
        pytest.skip("not run: grpcio or tensorflow-serving-api is not installed")
    assert not Client(f"{scheme}://127.0.0.1:{free_port()}", MODEL, timeout=1.0).ready()


# ---------------------------------------------------------------- rows that are not sent


def test_no_rows_give_no_places(client, server):
    assert client.embed(np.zeros((0, D))).shape == (0, 2)
    Y, novelty = client.embed_with_novelty(scipy.sparse.csr_array((0, D)))
    assert (Y.shape, novelty.shape, Y.dtype) == ((0, 2), (0,), np.float32)
    assert client.embed_examples([]).shape == (0, 2)
    assert server.requests == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named_before_anything_is_sent(url, server, bad):
    X = rows(9)
    X[6, 2] = bad
    with Client(url, MODEL, rows=2) as client:
        with pytest.raises(ValueError, match=r"X should be finite.* the first at index 6\."):
            client.embed(X)
        with pytest.raises(ValueError, match=r"X should be finite.* the first at index 6\."):
            client.embed_with_novelty(scipy.sparse.csr_array(X))
    assert server.requests == []


def test_numbers_beyond_float32_are_named_before_anything_is_sent(client, server):
    X = rows(3).astype("float64")
    X[1, 1] = 1e39
    with pytest.raises(ValueError, match=r"X should fit in float32.* row at index 1\."):
        client.embed(X)
    assert server.requests == []


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(D), r"X should be a 2-D array \[N, D\] of rows\..* Received: shape \(5,\)"),
        (np.zeros((2, D, 1)), "X should be a 2-D array"),
        (np.zeros((3, 0)), "X should have columns"),
        ([["a", "b"]], "X should be numeric"),
    ],
    ids=["1-D", "3-D", "no columns", "text"],
)
def test_what_is_no_matrix_of_numbers_is_refused(client, server, X, message):
    with pytest.raises(ValueError, match=message):
        client.embed(X)
    assert server.requests == []


@pytest.mark.parametrize("bad", [b"abc", "abc", ["abc"], [b"abc", 3]])
def test_examples_that_are_no_bytes_are_refused(client, bad):
    with pytest.raises(ValueError, match="examples should be a sequence of bytes"):
        client.embed_examples(bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "127.0.0.1:8501"}, "url should be"),
        ({"url": "ftp://127.0.0.1"}, "url should be"),
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


def test_grpc_without_its_packages_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_serving.apis", None)
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
    assert "X should have 5 columns, as the training rows; it has 7." in str(error)


def test_unknown_model(url):
    error = refusal(lambda: Client(url, "letters").embed(rows(1)))
    assert error.code == "NOT_FOUND"
    assert "Servable not found for request: Latest(letters)" in str(error)
    assert f"{url}, model 'letters'" in str(error)


def test_unknown_version(url):
    error = refusal(lambda: Client(url, MODEL, version=7).embed(rows(1)))
    assert "Servable not found for request: Specific(digits, 7)" in str(error)
    assert "version 7" in str(error)


def test_unknown_label(url):
    error = refusal(lambda: Client(url, MODEL, label="canary").embed(rows(1)))
    assert error.code == "INVALID_ARGUMENT"
    assert "Unrecognized servable version label: canary" in str(error)
    assert "The label should be in the server's configuration" in str(error)


def test_model_without_the_signature(url):
    error = refusal(lambda: Client(url, MODEL, version=1).embed_with_novelty(rows(1)))
    assert "embed_with_novelty" in error.server_message
    assert "exported with that signature; it has ['serving_default']." in str(error)
    empty = refusal(lambda: Client(url, MODEL, version=1).embed_with_novelty(np.zeros((0, D))))
    assert "['serving_default']" in str(empty)


def test_model_that_is_no_map(url, tmp_path):
    class Other(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, D], tf.float64, "x")])
        def call(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": x}

    other = Other()
    tf.saved_model.save(other, str(tmp_path / "1"), signatures=other.call)
    with Loopback(tmp_path, "other") as server:
        its = server.rest_url if url.startswith("http") else server.grpc_url
        error = refusal(lambda: Client(its, "other").embed(rows(1)))
    assert "The signature should take 'features' alone; it takes ['x']." in str(error)


def test_bad_example(client):
    error = refusal(lambda: client.embed_examples([b"no example"]))
    assert error.code == "INVALID_ARGUMENT"
    assert "parse" in error.server_message


# ---------------------------------------------------------------- faults


def test_unavailable_twice_then_fine(client, server):
    server.inject("unavailable", times=2)
    X = rows(3)
    np.testing.assert_allclose(client.embed(X), expected(X), rtol=1e-6, atol=1e-5)
    assert len(server.requests) == 3


def test_unavailable_for_ever_ends_at_the_deadline(url, server):
    server.inject("unavailable", times=1000)
    began = time.monotonic()
    with pytest.raises(ServingError, match="The model server is unavailable") as caught:
        Client(url, MODEL, deadline=0.4, backoff=0.02).embed(rows(1))
    server.clear()
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
    np.testing.assert_allclose(Y, expected(X), rtol=1e-6, atol=1e-5)
    assert len(server.requests) == 2


def test_slow_for_ever_ends_at_the_deadline(url, server):
    server.inject("slow", times=5)
    began = time.monotonic()
    with pytest.raises(ServingError, match=r"no answer within 0\.15 s") as caught:
        Client(url, MODEL, timeout=0.15, deadline=0.4, backoff=0.01).embed(rows(1))
    server.clear()
    assert time.monotonic() - began < 1.0
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_deadline_ends_a_request_that_has_longer(url, server):
    server.inject("slow")
    with pytest.raises(ServingError, match=r"no answer within 0\.2 s"):
        Client(url, MODEL, timeout=10.0, deadline=0.2, backoff=0.01).embed(rows(1))


@pytest.mark.parametrize("fault", ["truncated", "short"])
def test_answer_cut_short_is_asked_for_again(client, server, fault):
    server.inject(fault)
    X = rows(6)
    Y, novelty = client.embed_with_novelty(X)
    np.testing.assert_allclose(Y, expected(X), rtol=1e-6, atol=1e-5)
    assert novelty.shape == (6,)
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", ["truncated", "short"])
def test_answers_always_cut_short_are_never_returned(url, server, fault):
    server.inject(fault, times=1000)
    with pytest.raises(ServingError) as caught:
        Client(url, MODEL, deadline=0.3, backoff=0.02).embed(rows(6))
    server.clear()
    assert caught.value.code == "DATA_LOSS"
    assert caught.value.attempts > 1


def test_one_fault_does_not_repeat_the_chunks_before(url, server):
    X = rows(9)
    with Client(url, MODEL, rows=3, backoff=0.01) as client:
        client.embed(X[:1])
        server.requests.clear()
        server.inject("truncated")
        Y = client.embed(X)
    np.testing.assert_allclose(Y, expected(X), rtol=1e-6, atol=1e-5)
    assert [request.rows for request in server.requests] == [3, 3, 3, 3]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_connection_refused(server, scheme):
    if scheme == "grpc" and server.grpc_url is None:
        pytest.skip("not run: grpcio or tensorflow-serving-api is not installed")
    url = f"{scheme}://127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(ServingError, match=r"(?i)refused|failed to connect") as caught:
        Client(url, MODEL, deadline=0.4, backoff=0.05).embed(rows(1))
    assert time.monotonic() - began < 1.2
    assert caught.value.code == "UNAVAILABLE"
    assert caught.value.attempts > 1


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_server_that_starts_later_is_reached_soon(base, server, way):
    """The channel itself must not insist on waiting: gRPC's own pauses reach two minutes."""
    if way == "grpc" and server.grpc_url is None:
        pytest.skip("not run: grpcio or tensorflow-serving-api is not installed")
    port, X = free_port(), rows(2)
    url = f"{'http' if way == 'rest' else 'grpc'}://127.0.0.1:{port}"
    with Client(url, MODEL, deadline=1.0, backoff=0.02) as client:
        with pytest.raises(ServingError):
            client.embed(X)
        with Loopback(base, MODEL, **{f"{way}_port": port}):
            Client(url, MODEL).embed(X)  # the first call of a model takes its time
            assert client.embed(X).shape == (2, 2)


def test_some_other_server_is_told_apart():
    class Other(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.handle_request).start()
        with Client(f"http://127.0.0.1:{other.server_port}", MODEL) as client:
            error = refusal(lambda: client.embed(rows(1)))
    assert "an answer without 'outputs', unlike TF Serving's" in str(error)


def test_server_that_ends_is_unavailable(base, url):
    X = rows(2)
    with Loopback(base, MODEL) as server:
        its = server.rest_url if url.startswith("http") else server.grpc_url
        Client(its, MODEL).embed(X)  # the first call of a model takes its time
        client = Client(its, MODEL, deadline=1.0, backoff=0.02)
        client.embed(X)
    with pytest.raises(ServingError) as caught:
        client.embed(X)
    assert caught.value.code == "UNAVAILABLE"


def test_overload_is_tried_again_but_a_request_too_large_is_not():
    overload = _client_grpc._failure("RESOURCE_EXHAUSTED", "Task queue is full", 1.0)
    large = _client_grpc._failure("RESOURCE_EXHAUSTED", "Received message larger than max", 1.0)
    assert (overload.code, large.code) == ("RESOURCE_EXHAUSTED", "PAYLOAD_TOO_LARGE")
    assert Failure("X", "two\n\t lines").message == "two lines"


def test_close_lets_go_of_the_connection(server):
    with Client(server.rest_url, MODEL) as client:
        client.embed(rows(1))
        transport = client._transport
        assert hasattr(transport._local, "connection")
    assert not hasattr(transport._local, "connection")


# ---------------------------------------------------------------- the server's REST, raw


def post(server: Loopback, request: Any, path: str = f"/v1/models/{MODEL}:predict") -> Any:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    try:
        with urllib.request.urlopen(server.rest_url + path, body) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


def test_rest_row_and_columnar_forms(server):
    X = rows(2)
    for request, key in (
        ({"instances": X.tolist()}, "predictions"),
        ({"instances": [{"features": row} for row in X.tolist()]}, "predictions"),
        ({"inputs": X.tolist()}, "outputs"),
        ({"inputs": {"features": X.tolist()}}, "outputs"),
    ):
        code, answer = post(server, request)
        assert code == 200
        np.testing.assert_allclose(answer[key], expected(X), rtol=1e-6, atol=1e-5)
    both = {"signature_name": "embed_with_novelty"}
    _, answer = post(server, {**both, "instances": X.tolist()})
    assert set(answer["predictions"][0]) == {"embedding", "novelty"}
    _, answer = post(server, {**both, "inputs": X.tolist()})
    assert set(answer["outputs"]) == {"embedding", "novelty"}


def test_rest_refuses_integers_beyond_float32(server):
    code, error = post(server, {"instances": [[2**24] * D]})
    assert code == 400
    assert "Cannot convert JSON value: 16777216 to float without loss of precision." in error


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (b"{", "JSON Parse error"),
        (b"[]", "Is not object"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": [["a"] * D]}, "is not of expected type: float"),
        ({"instances": [[1.0], [1.0, 2.0]]}, "unexpected size"),
        ({"inputs": {"x": [[1.0]]}}, "Missing named input: features"),
        ({"signature_name": "no", "instances": [[1.0]]}, 'name: "no" not found in signature def'),
    ],
)
def test_rest_refusals(server, request_, message):
    code, error = post(server, request_)
    assert (code, message in error) == (400, True), error


def test_rest_path_that_is_none(server):
    assert post(server, {}, "/v1/model")[0] == 400


def test_grpc_dtype_is_refused_as_by_tensorflow_serving(server):
    if server.grpc_url is None:
        pytest.skip("not run: grpcio or tensorflow-serving-api is not installed")
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.inputs["features"].CopyFrom(tf.make_tensor_proto(np.zeros((1, D))))
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(request, timeout=5)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "Expects arg[0] to be float but double is provided" in caught.value.details()


def test_loopback_arguments(tmp_path, server):
    with pytest.raises(FileNotFoundError, match="base_path should have a version"):
        Loopback(tmp_path, MODEL)
    with pytest.raises(ValueError, match="fault should be one of"):
        server.inject("boom")
