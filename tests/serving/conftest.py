from types import SimpleNamespace

import numpy as np
import pytest
from support import linear
from support.linear import MODEL, SLOW
from support.loopback import Loopback

from ptsne_keras import networks, serving
from ptsne_keras.serving import Client


@pytest.fixture(scope="session")
def small_encoder():
    return networks.encoder(3, 2, hidden_units=(4,), seed=0)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Versions 1 and 2; only the newest has novelty."""
    base = tmp_path_factory.mktemp("served") / MODEL
    serving.export_saved_model(linear.encoder(0.5), base)
    serving.export_saved_model(linear.encoder(1.0), base, reference=linear.rows(50))
    return base


@pytest.fixture(scope="session")
def running(base):
    with Loopback(base, MODEL, labels={"stable": 1}, slow=SLOW) as server:
        yield server


@pytest.fixture
def server(running):
    running.clear()
    return running


@pytest.fixture(params=["http", "grpc"])
def way(request):
    return request.param


@pytest.fixture
def url(server, way):
    return server.urls[way]


@pytest.fixture
def client(url):
    with Client(url, MODEL, backoff=0.01) as client:
        yield client


@pytest.fixture(scope="session")
def served(tmp_path_factory, digits):
    """An encoder of raw digits, exported with its training rows."""
    (X, _), (X_test, _) = digits
    options = {"activation": "relu", "scaling": (X.mean(axis=0), X.std()), "seed": 0}
    encoder = networks.encoder(64, 2, hidden_units=(40, 40), **options)
    path = serving.export_saved_model(encoder, tmp_path_factory.mktemp("s") / "map", reference=X)
    many = np.tile(X_test, (8, 1))[:4096] + np.float32(0.01)
    return SimpleNamespace(encoder=encoder, path=path, X=X, rows=many.astype("float32"))
