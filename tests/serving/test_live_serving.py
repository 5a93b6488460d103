"""The client against a real TensorFlow Serving, where there is one; not run otherwise.

`tensorflow_model_server` on PATH is started on free ports over an exported model. Or
PTSNE_TF_SERVING_URL names servers that run, with the model in the path, separated by commas:
"http://host:8501/digits,grpc://host:8500/digits".
"""

import os
import shutil
import subprocess
import time
from typing import NamedTuple

import keras
import numpy as np
import pytest
from support.loopback import free_port

from ptsne_keras import networks, serving
from ptsne_keras.serving import Client, ServingError

D = 6
BINARY = shutil.which("tensorflow_model_server")
URLS = [url for url in os.environ.get("PTSNE_TF_SERVING_URL", "").split(",") if url.strip()]
# Seconds until the server has loaded the model.
PATIENCE = 60.0

pytestmark = pytest.mark.skipif(
    not (BINARY or URLS),
    reason="not run: no tensorflow_model_server on PATH, and PTSNE_TF_SERVING_URL is not set",
)


class Live(NamedTuple):
    """A model's name and addresses, a client for each, and the encoder if it is known."""

    model: str
    urls: list[str]
    clients: list[Client]
    encoder: keras.Model | None


CONFIGURATION = """model_config_list { config { name: "map" base_path: "BASE"
  model_platform: "tensorflow" model_version_policy { all {} }
  version_labels { key: "stable" value: 1 } } }
"""


def started(folder):
    """Start the server over two versions of an exported model, the first with a label."""
    encoder = networks.encoder(D, 2, hidden_units=(8,), seed=0)
    base, file = folder / "map", folder / "models.config"
    for _ in range(2):
        serving.export_saved_model(encoder, base)
    file.write_text(CONFIGURATION.replace("BASE", str(base)))
    ports = {"rest_api_port": free_port(), "port": free_port()}
    flags = {"model_config_file": file, "allow_version_labels_for_unavailable_models": "true"}
    command = [BINARY, *(f"--{name}={value}" for name, value in {**ports, **flags}.items())]
    urls = [f"http://127.0.0.1:{ports['rest_api_port']}", f"grpc://127.0.0.1:{ports['port']}"]
    clients = [Client(url, "map") for url in urls]
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + PATIENCE
            while not all(client.ready() for client in clients):
                log.seek(0)
                assert process.poll() is None, log.read()
                assert time.monotonic() < until, log.read()
                time.sleep(0.2)
            yield Live("map", urls, clients, encoder)
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module", params=["binary", "url"])
def live(request, tmp_path_factory):
    if request.param == "url":
        if not URLS:
            pytest.skip("not run: PTSNE_TF_SERVING_URL is not set")
        pairs = [url.strip().rsplit("/", 1) for url in URLS]
        clients = [Client(url, model) for url, model in pairs]
        yield Live(pairs[0][1], [url for url, _ in pairs], clients, None)
    elif BINARY is None:
        pytest.skip("not run: no tensorflow_model_server on PATH")
    else:
        pytest.importorskip("tensorflow_serving.apis", reason="not run: no gRPC packages")
        yield from started(tmp_path_factory.mktemp("live"))


def rows(client, n=7):
    width = client.metadata()["serving_default"]["inputs"]["features"]["shape"][1]
    return np.random.default_rng(0).standard_normal((n, width)).astype("float32")


def test_answers_are_the_same_both_ways_whatever_the_dtype(live):
    answers = []
    for client in live.clients:
        assert client.ready()
        metadata, X = client.metadata(), rows(client)
        Y = client.embed(X)
        assert (Y.shape, Y.dtype) == ((7, client.embed(X[:0]).shape[1]), np.float32)
        answers.append((metadata, Y))
        if live.encoder is not None:
            np.testing.assert_allclose(Y, live.encoder(X, training=False), rtol=1e-5, atol=1e-5)
        if "embed_with_novelty" in metadata:
            found, novelty = client.embed_with_novelty(X)
            assert novelty.shape == (7,)
            np.testing.assert_allclose(found, Y, rtol=1e-5, atol=1e-5)
        whole = np.full_like(X, 2**24, np.int64)
        np.testing.assert_array_equal(client.embed(whole), client.embed(whole.astype("float64")))
    for metadata, Y in answers[1:]:
        assert metadata == answers[0][0]
        np.testing.assert_allclose(Y, answers[0][1], rtol=1e-6, atol=1e-6)


def test_refusals_in_the_servers_words(live):
    for url, client in zip(live.urls, live.clients, strict=True):
        X = rows(client)
        with pytest.raises(ServingError, match=f"X should have {X.shape[1]} columns") as caught:
            client.embed(np.zeros((2, X.shape[1] + 1)))
        assert caught.value.code == "INVALID_ARGUMENT"
        assert caught.value.server_message
        with pytest.raises(ServingError, match="NOT_FOUND"):
            Client(url, "no_such_model").embed(X)
        assert not Client(url, "no_such_model").ready()


def test_version_and_label(live):
    if live.encoder is None:
        pytest.skip("not run: a server of someone else's, whose versions are not known")
    for url, client in zip(live.urls, live.clients, strict=True):
        X = rows(client)
        for choice in ({"version": 1}, {"version": 2}, {"label": "stable"}):
            found = Client(url, live.model, **choice).embed(X)
            np.testing.assert_array_equal(found, client.embed(X))
        with pytest.raises(ServingError, match="label should be in the server's configuration"):
            Client(url, live.model, label="canary").embed(X)
        with pytest.raises(ServingError, match="NOT_FOUND"):
            Client(url, live.model, version=9).embed(X)
