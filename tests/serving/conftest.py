import keras
import pytest

from ptsne_keras import networks


@pytest.fixture(scope="session")
def small_encoder() -> keras.Model:
    return networks.encoder(3, 2, hidden_units=(4,), seed=0)
