"""The client against a real TensorFlow Serving, where there is one; not run otherwise.

`tensorflow_model_server` on PATH is started on free ports over an exported model. Or
PTSNE_TF_SERVING_URL names servers that run, with the model in the path, separated by commas:
"http://host:8501/digits,grpc://host:8500/digits".
"""

import os
import shutil
import subprocess

import numpy as np
import pytest
from support.processes import free_ports, until

from ptsne_keras import networks, serving
from ptsne_keras.serving import Client, ServingError

D = 6
BINARY = shutil.which("tensorflow_model_server")
URLS = [url.strip() for url in os.environ.get("PTSNE_TF_SERVING_URL", "").split(",") if url.strip()]
pytestmark = pytest.mark.skipif(
    not (BINARY or URLS),
    reason="not run: no tensorflow_model_server on PATH, and PTSNE_TF_SERVING_URL is not set",
)
CONFIGURATION = """model_config_list { config { name: "map" base_path: "BASE"
  model_platform: "tensorflow" model_version_policy { all {} }
  version_labels { key: "stable" value: 1 } } }
"""


@pytest.fixture(scope="module")
def encoder():
    return networks.encoder(D, 2, hidden_units=(8,), seed=0)


def started(encoder, folder):
    """Start the server over two versions of the encoder, the first with a label."""
    base, file = folder / "map", folder / "models.config"
    for _ in range(2):
        serving.export_saved_model(encoder, base)
    file.write_text(CONFIGURATION.replace("BASE", str(base)))
    rest, grpc = free_ports(2)
    flags = [f"--rest_api_port={rest}", f"--port={grpc}", f"--model_config_file={file}"]
    flags.append("--allow_version_labels_for_unavailable_models=true")
    urls = [f"http://127.0.0.1:{rest}", f"grpc://127.0.0.1:{grpc}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([BINARY, *flags], stdout=log, stderr=subprocess.STDOUT)

    def ready():
        assert process.poll() is None, (folder / "log").read_text()
        return all(Client(url, "map").ready() for url in urls)

    try:
        until(ready, seconds=60)
        yield [(url, "map") for url in urls]
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module", params=["binary"] * bool(BINARY) + ["url"] * bool(URLS))
def served(request, encoder, tmp_path_factory):
    """The address and the name of each model that is served."""
    if request.param == "url":
        yield [tuple(url.rsplit("/", 1)) for url in URLS]
    else:
        yield from started(encoder, tmp_path_factory.mktemp("live"))


def rows(client):
    width = client.metadata()["serving_default"]["inputs"]["features"]["shape"][1]
    return np.random.default_rng(0).standard_normal((7, width)).astype("float32")


def is_ours(request):
    return request.node.callspec.params["served"] == "binary"


def test_answers_are_the_same_both_ways_whatever_the_dtype(served, encoder, request):
    answers = []
    for client in (Client(*each) for each in served):
        assert client.ready()
        metadata, X = client.metadata(), rows(client)
        Y = client.embed(X)
        assert (Y.shape, Y.dtype) == ((7, client.embed(X[:0]).shape[1]), np.float32)
        answers.append((metadata, Y))
        if is_ours(request):
            np.testing.assert_allclose(Y, encoder(X, training=False), rtol=1e-5, atol=1e-5)
        if "embed_with_novelty" in metadata:
            found, novelty = client.embed_with_novelty(X)
            assert novelty.shape == (7,)
            np.testing.assert_allclose(found, Y, rtol=1e-5, atol=1e-5)
        whole = np.full_like(X, 2**24, np.int64)
        np.testing.assert_array_equal(client.embed(whole), client.embed(whole.astype("float64")))
    for metadata, Y in answers[1:]:
        assert metadata == answers[0][0]
        np.testing.assert_allclose(Y, answers[0][1], rtol=1e-6, atol=1e-6)


def test_refusals_in_the_servers_words(served):
    for url, model in served:
        client = Client(url, model)
        X = rows(client)
        with pytest.raises(ServingError, match=f"X should have {X.shape[1]} columns") as caught:
            client.embed(np.zeros((2, X.shape[1] + 1)))
        assert caught.value.code == "INVALID_ARGUMENT"
        assert caught.value.server_message
        with pytest.raises(ServingError, match="NOT_FOUND"):
            Client(url, "no_such_model").embed(X)
        assert not Client(url, "no_such_model").ready()


def test_version_and_label(served, request):
    if not is_ours(request):
        pytest.skip("not run: a server of someone else's, whose versions are not known")
    for each in served:
        client = Client(*each)
        X = rows(client)
        for choice in ({"version": 1}, {"version": 2}, {"label": "stable"}):
            np.testing.assert_array_equal(Client(*each, **choice).embed(X), client.embed(X))
        with pytest.raises(ServingError, match="label should be in the server's configuration"):
            Client(*each, label="canary").embed(X)
        with pytest.raises(ServingError, match="NOT_FOUND"):
            Client(*each, version=9).embed(X)
