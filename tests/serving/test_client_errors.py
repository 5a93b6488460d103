"""The client when a server refuses, fails or is not there."""

import contextlib
import gzip
import json
import re
import socketserver
import ssl
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import support
import tensorflow as tf
from support.linear import MODEL, SLOW, D, assert_embeds, counts, refusal, rows
from support.loopback import Loopback
from support.processes import free_ports
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import get_model_metadata_pb2

from ptsne_keras.serving import Client, ServingError, _grpc, _sender
from ptsne_keras.serving._transport import Failure

CERTIFICATE = Path(support.__file__).with_name("localhost.pem")
"""Of localhost, with its key, until 2126; nobody trusts it."""


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


def http(body, status="200 OK", headers=""):
    headers += f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return f"HTTP/1.1 {status}\r\n{headers}".encode() + body


REFUSAL = http(b'{"error": "no"}', "400 Bad Request")


@contextlib.contextmanager
def answering(*answers, tls=False):
    """A server of another kind: an answer a request, the last for ever; lists leave in drops."""
    left = list(answers)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            size = 0
            while line := self.rfile.readline().strip():
                name, _, value = line.partition(b": ")
                size = int(value) if name == b"Content-Length" else size
            self.rfile.read(size)  # closing with some unread would reset the connection
            answer = left.pop(0) if len(left) > 1 else left[0]
            with contextlib.suppress(OSError):  # the client leaves
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    self.wfile.write(piece)
                    time.sleep(0.0 if isinstance(answer, bytes) else 0.1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield f"http{'s' * tls}://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


MANY = 600  # at ten a second, three times as long as a slow answer
DROPS = {
    "status": [b"HTTP/1.1 200 ", *[b"O"] * MANY],
    "headers": [b"HTTP/1.1 200 OK\r\n", *[b"a: b\r\n"] * MANY],
    "interim answers": [b"HTTP/1.1 100 Continue\r\n\r\n"] * MANY,
    "chunks": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"0"] * MANY],
    "body": [http(b" " * MANY)[:-MANY], *[b" "] * MANY],
}


@pytest.mark.parametrize("what", DROPS)
def test_answer_that_comes_in_drops_is_too_slow(what):
    """A socket's timeout limits each silence, not the answer."""
    with answering(DROPS[what]) as url:
        began = time.monotonic()
        with pytest.raises(ServingError, match="no answer within"):
            Client(url, MODEL, timeout=0.3, deadline=0.4).embed(rows(1))
        assert time.monotonic() - began < SLOW


def test_advice_is_not_waited_for_beyond_the_deadline():
    with answering(REFUSAL, DROPS["headers"]) as url:
        began = time.monotonic()
        error = refusal(lambda: Client(url, MODEL, deadline=0.3).embed(rows(1)))
        assert time.monotonic() - began < SLOW
    assert error.server_message == "no"


def test_answer_beyond_the_limit_is_refused(url, server):
    error = refusal(lambda: Client(url, MODEL, max_answer_bytes=50).embed(rows(9)))
    assert error.code == "ANSWER_TOO_LARGE"
    assert "a higher `max_answer_bytes`" in str(error)
    assert Client(url, MODEL, max_answer_bytes=2**40).embed(rows(9)).shape == (9, 2)


def test_packed_answer_is_measured_unpacked():
    places, packed = b'{"outputs": [[1, 2]]}' + b" " * 2**20, "Content-Encoding: gzip\r\n"
    with answering(http(gzip.compress(places), headers=packed)) as url:
        assert Client(url, MODEL).embed(rows(1)).tolist() == [[1, 2]]
        error = refusal(lambda: Client(url, MODEL, max_answer_bytes=2**20).embed(rows(1)))
    assert error.code == "ANSWER_TOO_LARGE"


def test_packed_answer_is_not_unpacked_over_grpc(base):
    """gRPC measures what it receives before it unpacks it."""
    with Loopback(base, MODEL, compression=grpc.Compression.Gzip) as server:
        client = Client(server.urls["grpc"], MODEL, deadline=SLOW)
        error = refusal(lambda: client.embed(np.zeros((500, D))))
    assert error.code == "INTERNAL"
    assert "not supported: gzip" in error.server_message


MALFORMED = {
    "another kind": (b"{}", "an answer without 'outputs', unlike TF Serving's"),
    "not JSON": (b"<html>", "an answer of another form"),
    "not UTF-8": (b'{"outputs": "\xff"}', "an answer of another form"),
    "too deep": (b"[" * 100_000, "an answer of another form"),
    "deep": (b'{"outputs": ' + b"[" * 100 + b"1" + b"]" * 100 + b"}", "an answer of another form"),
    "no object": (b"null", "an answer of another form"),
    "ragged": (b'{"outputs": [[1, 2], [3]]}', "an answer of another form"),
    "text": (b'{"outputs": [["1", "2"]]}', "not numbers"),
    "null": (b'{"outputs": [[null, 2]]}', "not numbers"),
    "objects": (b'{"outputs": {"embedding": {"a": 1}}}', "not numbers"),
    "huge": (b'{"outputs": [[' + b"9" * 400 + b", 2]]}", "not numbers"),
    "huger": (b'{"outputs": [[' + b"9" * 5000 + b", 2]]}", "an answer of another form"),
    "beyond float32": (b'{"outputs": [[1e39, 2]]}', "with NaN or infinity for finite rows"),
    "NaN": (b'{"outputs": [[NaN, 2]]}', "with NaN or infinity for finite rows"),
    "rank": (b'{"outputs": [1]}', r"of shape \(1,\), not 2-D for 1 rows"),
    "no columns": (b'{"outputs": [[]]}', r"of shape \(1, 0\), not 2-D for 1 rows"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_answer_is_refused(what):
    body, message = MALFORMED[what]
    with answering(http(body)) as url:
        assert re.search(message, refusal(lambda: Client(url, MODEL).embed(rows(1))).server_message)


def test_places_of_another_width_are_not_joined():
    narrow, wide = http(b'{"outputs": [[1, 2]]}'), http(b'{"outputs": [[1, 2, 3]]}')
    with answering(narrow, wide) as url:
        error = refusal(lambda: Client(url, MODEL, rows=1).embed(rows(2)))
    assert "outputs of several widths, [((2,),), ((3,),)]" in str(error)


def described(dtype='"DT_FLOAT"', sizes=(-1, 2), key="outputs"):
    tensor = f'{{"dtype": {dtype}, "tensor_shape": {{"dim": {sizes}}}}}'
    return f'{{"serving_default": {{"{key}": {{"embedding": {tensor}}}}}}}'


DEFINITIONS = {
    "list": "[1]",
    "no object": '{"a": 3}',
    "no sides": '{"serving_default": {"outputs": [1]}}',
    "no dtype": '{"serving_default": {"outputs": {"embedding": {}}}}',
    "unknown dtype": described('"DT_NONE"'),
    "dtype": described("3"),
    "sizes": described(sizes='[{"size": "x"}]'),
    "huge size": described(sizes='[{"size": "-1"}, {"size": "%s"}]' % ("9" * 40)),
    "rank": described(sizes="[]"),
    "no outputs": described(sizes="[]", key="inputs"),
    "names": json.dumps({f"\x1b[31m{number}": {} for number in range(999)}),
}


@pytest.mark.parametrize("what", DEFINITIONS)
def test_malformed_metadata_is_refused(what):
    metadata = f'{{"metadata": {{"signature_def": {{"signature_def": {DEFINITIONS[what]}}}}}}}'
    answer = http(metadata.encode())
    with answering(answer) as url:
        refusal(lambda: Client(url, MODEL).embed(np.zeros((0, D))))
        with contextlib.suppress(ServingError):  # some describe a model, though none of ours
            Client(url, MODEL).metadata()
    with answering(REFUSAL, answer) as url:
        error = refusal(lambda: Client(url, MODEL).embed(rows(1)))
    assert error.server_message == "no"
    assert len(str(error)) < 600


@pytest.mark.parametrize("status", ["null", '{"model_version_status": [3]}'])
def test_malformed_status_is_refused(status):
    with answering(http(status.encode())) as url:
        assert "unlike TF Serving's" in str(refusal(Client(url, MODEL).ready))


TENSORS = {
    "negative sizes": {"shape": [-1, -2], "float_val": [1, 2]},
    "too many axes": {"shape": [1] * 100, "float_val": [1]},
    "half a number": {"shape": [1, 2], "tensor_content": b"12345"},
    "unknown dtype": {"dtype": 9999},
}


@pytest.mark.parametrize("what", TENSORS)
def test_malformed_tensor_is_refused(what):
    fields = {"dtype": 1, **TENSORS[what]}
    sizes = [{"size": size} for size in fields.pop("shape", [])]
    proto = tensor_pb2.TensorProto(tensor_shape={"dim": sizes}, **fields)
    with pytest.raises(Failure, match=r"of another form .*, unlike TF Serving's"):
        _grpc._array(proto)


def test_unknown_message_in_metadata_is_refused():
    answer = get_model_metadata_pb2.GetModelMetadataResponse()
    answer.metadata["signature_def"].type_url = "other/Message"
    with pytest.raises(Failure, match=r"of another form .*, unlike TF Serving's"):
        _grpc._as_json(answer)


NASTY = "\x1b[31mred\x07\u202e\ud800\n" + 5000 * "x"


@pytest.mark.parametrize("page", [json.dumps({"error": NASTY}), NASTY], ids=["JSON", "page"])
def test_text_of_the_server_is_short_and_only_shown(page):
    with answering(http(page.encode(errors="replace"), "500 Error")) as url:
        error = refusal(lambda: Client(url, MODEL).embed(rows(1)))
    assert str(error).isprintable()
    assert len(error.server_message) == 800
    assert "[31mred" in str(error)


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_certificate_that_is_not_trusted_is_not_asked_again(scheme):
    with answering(http(b"{}"), tls=True) as url:
        url = url.replace("https", scheme)
        error = refusal(lambda: Client(url, MODEL, deadline=5.0).embed(rows(1)))
        assert "CERTIFICATE_VERIFY_FAILED" in error.server_message
        assert "`credentials` should trust who issued it" in str(error)
        if scheme == "https":  # of another host
            trusted = ssl.create_default_context(cafile=CERTIFICATE)
            error = refusal(lambda: Client(url, MODEL, credentials=trusted).embed(rows(1)))
            assert "not valid for '127.0.0.1'" in str(error)
            url = url.replace("127.0.0.1", "localhost")
            error = refusal(lambda: Client(url, MODEL, credentials=trusted).embed(rows(1)))
    assert error.code == ("UNKNOWN" if scheme == "https" else "UNTRUSTED")


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


@pytest.mark.parametrize(("timeout", "deadline"), [(0.15, 0.4), (10.0, 0.2)])
def test_slow_for_ever_ends_at_the_deadline(url, server, timeout, deadline):
    server.inject("slow", times=5)
    began = time.monotonic()
    with pytest.raises(ServingError, match="no answer within") as caught:
        Client(url, MODEL, timeout=timeout, deadline=deadline, backoff=0.01).embed(rows(1))
    assert time.monotonic() - began < SLOW
    assert caught.value.code == "DEADLINE_EXCEEDED"
    (told,) = re.findall(r"no answer within (\S+) s", str(caught.value))
    assert 0 < float(told) <= min(timeout, deadline)


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
    with Client(url, MODEL, deadline=1.0, backoff=0.02) as client:
        with pytest.raises(ServingError, match=r"(?i)refused|failed to connect"):
            client.embed(X)
        with Loopback(base, MODEL, ports={way: port}):
            Client(url, MODEL).embed(X)  # the first call of a model takes its time
            client._sender._deadline = 60.0
            assert client.embed(X).shape == (2, 2)
            client._sender._deadline = 1.0
        with pytest.raises(ServingError) as caught:
            client.embed(X)
    assert caught.value.code == "UNAVAILABLE"


def test_overload_is_tried_again_but_a_request_too_large_is_not():
    overload = _grpc._failure("RESOURCE_EXHAUSTED", "Task queue is full", 1.0)
    large = _grpc._failure("RESOURCE_EXHAUSTED", "Received message larger than max", 1.0)
    assert (overload.code, large.code) == ("RESOURCE_EXHAUSTED", "PAYLOAD_TOO_LARGE")
    assert Failure("X", "two\n\t lines").message == "two lines"
