"""The client's requests and answers, over REST and gRPC, with a stand-in for the server."""

import json
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse
from support.linear import MODEL, SLOW, D, assert_embeds, counts, refusal, rows
from support.loopback import Loopback
from support.processes import free_ports

from ptsne_keras import networks, serving
from ptsne_keras.serving import Client, ServingError, _rest, _transport
from ptsne_keras.serving.signatures import example


def test_embed_equals_the_encoder_of_an_export(tmp_path, way):
    encoder = networks.encoder(D, 2, hidden_units=(16,), seed=0)
    serving.export_saved_model(encoder, tmp_path)
    X = rows(11)
    with Loopback(tmp_path, MODEL) as server, Client(server.urls[way], MODEL) as client:
        Y = client.embed(X)
    np.testing.assert_allclose(Y, encoder(X, training=False), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [1, 7])
def test_every_signature(client, n):
    X = rows(n)
    assert_embeds(client.embed(X), X)
    assert_embeds(client.embed_examples([example(row) for row in X]), X)
    both = np.concatenate([X, 100 * X])  # training rows, and rows far from them
    Y, novelty = client.embed_with_novelty(both)
    assert_embeds(Y, both)
    assert novelty.dtype == np.float32
    assert (novelty[:n] < 0.5).all()
    assert (novelty[n:] == 1).all()


def memory_mapped(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


KINDS = {
    "float64": lambda X, _: X.astype("float64"),
    "int64": lambda X, _: np.round(10 * X).astype("int64"),
    # As a JSON integer it is refused, by the stand-in too: it is sent as 16777216.0.
    "beyond 2**24": lambda X, _: np.full((1, D), 2**24, np.int64),
    "list": lambda X, _: X.tolist(),
    "Fortran order": lambda X, _: np.asfortranarray(X),
    "memmap": memory_mapped,
    "csr": lambda X, _: scipy.sparse.csr_array(X),
    "csc": lambda X, _: scipy.sparse.csc_array(X),
    "coo": lambda X, _: scipy.sparse.coo_array(X),
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


def test_many_rows_go_in_requests_of_limited_rows_and_bytes(monkeypatch, url, server):
    X = rows(23)
    with Client(url, MODEL, rows=7) as client:
        assert_embeds(client.embed(X), X)
        assert_embeds(client.embed_examples([example(row) for row in X[:9]]), X[:9])
        monkeypatch.setattr(_transport, "BYTES", 4 * D * 6)
        client.embed(rows(13))
        monkeypatch.setattr(_transport, "BYTES", 2 * len(example(X[0])))
        client.embed_examples([example(row) for row in X[:5]])
    assert counts(server) == [7, 7, 7, 2, 7, 2, 6, 6, 1, 2, 2, 1]


def test_wide_rows_fit_the_four_megabytes_of_grpc():
    wide = np.zeros((3, 400_000), np.float64)
    assert [chunk.nbytes for chunk in _transport.features(wide, 4096)] == [1_600_000] * 3


def test_row_that_alone_is_too_large_is_refused_with_advice(server):
    with Client(server.urls["grpc"], MODEL) as client:
        error = refusal(lambda: client.embed(np.zeros((1, 1_200_000))))
    assert error.code == "PAYLOAD_TOO_LARGE"
    assert "larger than max" in str(error)
    assert "a lower `rows`" in str(error)


def test_connection_is_kept_over_rest_and_let_go_by_close(server):
    with Client(server.urls["http"], MODEL, rows=2) as client:
        client.embed(rows(9))
        with pytest.raises(ServingError):
            client.embed(np.zeros((1, D + 1)))
        client.embed(rows(2))
        pools = client._transport._pools
        assert pools.connection_from_url(server.urls["http"]).num_connections == 1
    assert len(pools.pools) == 0
    assert client.embed(rows(2)).shape == (2, 2)


def test_threads_share_a_client(client):
    X = rows(40)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(client.embed, np.split(X, 8)))
    assert_embeds(np.concatenate(found), X)


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
    examples = {"examples": {"dtype": "string", "shape": [None]}}
    embedding = {"embedding": {"dtype": "float32", "shape": [None, 2]}}
    novelty = {"novelty": {"dtype": "float32", "shape": [None]}}
    assert client.metadata() == {
        "serving_default": {"inputs": features, "outputs": embedding},
        "embed_with_novelty": {"inputs": features, "outputs": embedding | novelty},
        "embed_examples": {"inputs": examples, "outputs": embedding},
    }


def test_not_ready(url, way):
    assert not Client(url, MODEL, version=7).ready()
    assert not Client(url, MODEL, label="canary").ready()
    assert not Client(url, "letters").ready()
    assert not Client(f"{way}://127.0.0.1:{free_ports(1)[0]}", MODEL, timeout=1.0).ready()


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
        for given in (X, scipy.sparse.csr_array(X)):
            with pytest.raises(ValueError, match=r"X should be finite.* at index 6\."):
                client.embed(given)
    assert server.requests == []


NO_MATRICES = {
    "1-D": (np.zeros(D), r"X should be a 2-D array \[N, D\] of rows\..* Received: shape \(5,\)"),
    "3-D": (np.zeros((2, D, 1)), "X should be a 2-D array"),
    "no columns": (np.zeros((3, 0)), "X should have columns"),
    "text": ([["a", "b"]], "X should be numeric"),
}


@pytest.mark.parametrize("kind", NO_MATRICES)
def test_anything_but_a_matrix_of_numbers_is_refused(client, server, kind):
    X, message = NO_MATRICES[kind]
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
        ({"max_answer_bytes": 0}, "max_answer_bytes should be"),
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


def test_a_name_that_is_looked_up_for_ever_ends_at_the_deadline(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(SLOW) and [])
    began = time.monotonic()
    with pytest.raises(ServingError, match=r"no answer within 0\.2 s"):
        Client("http://nowhere.test", MODEL, timeout=0.2, deadline=0.5).embed(rows(1))
    assert time.monotonic() - began < SLOW
    over.set()
