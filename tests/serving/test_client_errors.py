"""The client when a server refuses, fails or is not there."""

import contextlib
import socket
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from support.linear import MODEL, SLOW, D, assert_embeds, counts, refusal, rows
from support.loopback import Loopback
from support.processes import free_ports

from ptsne_keras.serving import Client, ServingError, _grpc, _sender
from ptsne_keras.serving._transport import Failure


class Clock:
    """Time that passes only while a client waits before it tries again."""

    def __init__(self):
        self.now, self.pauses = 0.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_sender, "time", clock)
    return clock


def test_wrong_width(client):
    error = refusal(lambda: client.embed(np.zeros((7, D + 2))))
    assert error.code == "INVALID_ARGUMENT"
    # The operation's own words, then ours.
    assert "features [7,7] is not compatible with expected shape [?,5]" in error.server_message
    assert error.server_message in str(error)
    assert "X should have 5 columns, like the training rows; it has 7." in str(error)


NO_LABEL = "The label should be in the server's configuration"


@pytest.mark.parametrize(
    ("model", "choice", "code", "words"),
    [
        ("letters", {}, "NOT_FOUND", ["Latest(letters)", ", model 'letters'", "Client.ready()"]),
        (MODEL, {"version": 7}, "NOT_FOUND", ["Specific(digits, 7)", "version 7"]),
        (MODEL, {"label": "canary"}, "INVALID_ARGUMENT", ["label: canary", NO_LABEL]),
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
    assert "with that signature; it has ['embed_examples', 'serving_default']." in str(error)
    empty = refusal(lambda: old.embed_with_novelty(np.zeros((0, D))))
    assert "['embed_examples', 'serving_default']" in str(empty)


def test_model_that_is_no_map(way, tmp_path):
    class Other(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, D], tf.float64, "x")])
        def call(self, x):
            return {"y": x}

    other = Other()
    tf.saved_model.save(other, str(tmp_path / "1"), signatures=other.call)
    with Loopback(tmp_path, "other") as server:
        error = refusal(lambda: Client(server.urls[way], "other").embed(rows(1)))
    assert "The signature should take 'features' alone; it takes ['x']." in str(error)


def test_bad_example(client):
    error = refusal(lambda: client.embed_examples([b"no example"]))
    assert error.code == "INVALID_ARGUMENT"
    assert "parse" in error.server_message


@contextlib.contextmanager
def answering(*pieces, pause=0.0):
    """A server of another kind: sends these pieces with pauses between."""

    def serve(listening):
        connection, _ = listening.accept()
        with connection:
            request = b""
            while not request.endswith(b"]]}}"):  # closing with some unread would reset it
                request += connection.recv(2**16)
            size = sum(map(len, pieces))
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            with contextlib.suppress(OSError):  # the client leaves
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(pause)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,)).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_another_kind_of_server_is_recognised():
    with answering(b"{}") as url:
        error = refusal(lambda: Client(url, MODEL).embed(rows(1)))
    assert "an answer without 'outputs', unlike TF Serving's" in str(error)


def test_answer_that_comes_in_drops_is_too_slow():
    """A socket's timeout limits each silence, not the answer."""
    with (
        answering(*[b" "] * 12, pause=0.1) as url,
        pytest.raises(ServingError, match="no answer within"),
    ):
        Client(url, MODEL, timeout=0.4, deadline=0.5).embed(rows(1))


def test_unavailable_for_ever_ends_at_the_deadline(url, server, clock):
    server.inject("unavailable", times=1000)
    with pytest.raises(ServingError, match="The model server is unavailable") as caught:
        Client(url, MODEL, deadline=100.0, backoff=2.0).embed(rows(1))
    assert caught.value.code == "UNAVAILABLE"
    assert caught.value.attempts == len(server.requests) == len(clock.pauses) + 1
    # They double up to 5 s, of which each client waits half or more.
    longest = [2.0, 4.0, *[5.0] * (len(clock.pauses) - 2)]
    assert all(most / 2 <= pause <= most for pause, most in zip(clock.pauses, longest, strict=True))
    assert 95.0 < clock.now <= 100.0


def test_slow_answer_is_asked_for_again(url, server):
    server.inject("slow")
    X = rows(3)
    Y = Client(url, MODEL, timeout=1.0, deadline=SLOW, backoff=0.01).embed(X)
    assert_embeds(Y, X)
    assert len(server.requests) >= 2


@pytest.mark.parametrize(("timeout", "deadline", "told"), [(0.15, 0.4, 0.15), (10.0, 0.2, 0.2)])
def test_slow_for_ever_ends_at_the_deadline(url, server, timeout, deadline, told):
    server.inject("slow", times=5)
    began = time.monotonic()
    with pytest.raises(ServingError, match=rf"no answer within {told} s") as caught:
        Client(url, MODEL, timeout=timeout, deadline=deadline, backoff=0.01).embed(rows(1))
    assert time.monotonic() - began < SLOW
    assert caught.value.code == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("fault", ["truncated", "short"])
def test_answer_cut_short_is_asked_for_again_and_never_returned(client, server, fault, clock):
    server.inject(fault)
    X = rows(6)
    Y, novelty = client.embed_with_novelty(X)
    assert_embeds(Y, X)
    assert novelty.shape == (6,)
    assert len(server.requests) == 2
    server.inject(fault, times=1000)
    with pytest.raises(ServingError) as caught:
        client.embed(X)
    assert caught.value.code == "DATA_LOSS"
    assert caught.value.attempts == len(clock.pauses) > 1  # one of them before the first answer


@pytest.mark.parametrize("fault", ["truncated", "unavailable"])
def test_one_fault_does_not_repeat_the_chunks_before(url, server, fault):
    X = rows(9)
    with Client(url, MODEL, rows=3, backoff=0.01) as client:
        client.embed(X[:1])
        server.inject(fault, times=2)
        assert_embeds(client.embed(X), X)
    assert counts(server) == [1, 3, 3, 3, 3, 3]


def test_server_that_starts_later_is_reached_soon_and_one_that_ends_is_unavailable(base, way):
    """The channel itself must not insist on waiting: gRPC's own pauses reach two minutes."""
    (port,), X = free_ports(1), rows(2)
    url = f"{way}://127.0.0.1:{port}"
    with Client(url, MODEL, deadline=0.4, backoff=0.02) as client:
        with pytest.raises(ServingError, match=r"(?i)refused|failed to connect"):
            client.embed(X)
        with Loopback(base, MODEL, ports={way: port}):
            Client(url, MODEL).embed(X)  # the first call of a model takes its time
            client._sender._deadline = 60.0
            assert client.embed(X).shape == (2, 2)
            client._sender._deadline = 0.4
        with pytest.raises(ServingError) as caught:
            client.embed(X)
    assert caught.value.code == "UNAVAILABLE"


def test_overload_is_tried_again_but_a_request_too_large_is_not():
    overload = _grpc._failure("RESOURCE_EXHAUSTED", "Task queue is full", 1.0)
    large = _grpc._failure("RESOURCE_EXHAUSTED", "Received message larger than max", 1.0)
    assert (overload.code, large.code) == ("RESOURCE_EXHAUSTED", "PAYLOAD_TOO_LARGE")
    assert Failure("X", "two\n\t lines").message == "two lines"
