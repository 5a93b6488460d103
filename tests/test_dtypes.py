"""Every public entry under Keras's other default types: it works, or refuses before training."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from ptsne_keras import MapRegressor, ParametricTSNE, data, losses, metrics, networks, serving
from ptsne_keras import training as stages

SETTINGS = {
    "float64": ("float64", None),
    "float16": ("float16", None),
    "bfloat16": ("float32", "mixed_bfloat16"),
    "half": ("float32", "mixed_float16"),
}
X = np.random.default_rng(0).normal(size=(120, 6)).astype("float32")
PIXELS = 1 / (1 + np.exp(-X))
NETWORK = {"placement": False, "hidden_units": (8,), "epochs": 2, "random_state": 0}


def own():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])


def tsne(**options):
    return ParametricTSNE(**{**NETWORK, **options}).fit(X).transform(X)


def rbms(kind):
    options = {**NETWORK, "pretraining": kind, "pretraining_epochs": 1}
    return ParametricTSNE(**options).fit(PIXELS).transform(PIXELS)


def loss(sample, *measures):
    model = own()
    model.compile("adam", loss=losses.TSNE(), metrics=list(measures))
    return model.fit(sample(X, 10, 60, seed=0), shuffle=False, verbose=0).history["loss"]


def served(folder):
    model = networks.encoder(6, 2, hidden_units=(8,))
    path = serving.export_saved_model(model, folder)
    answer = tf.saved_model.load(path).signatures["serving_default"]
    return answer(features=tf.constant(X))["embedding"]


ENTRIES = {
    "placed": lambda _: tsne(placement=True),
    "network": lambda _: tsne(),
    "learned dof": lambda _: tsne(dof="learn"),
    "conjugate gradients": lambda _: tsne(optimizer="cg", sampling="fixed"),
    "encoder": lambda _: tsne(encoder=own()),
    "cd1": lambda _: rbms("cd1"),
    "pcd": lambda _: rbms("pcd"),
    "map": lambda _: MapRegressor().fit(X, X[:, :2]).transform(X),
    "squares": lambda _: MapRegressor(objective="squares", epochs=2).fit(X, X[:, :2]).predict(X),
    "batch": lambda _: loss(data.from_array, metrics.NeighborRecall(5), metrics.Trustworthiness(5)),
    "graph": lambda _: loss(data.from_graph, metrics.NeighborRecall(5)),
    "stages": lambda _: stages.unroll(stages.pretrain(PIXELS, (4, 2), epochs=1, top_epochs=1))(X),
    "layer": lambda _: networks.Placement.from_reference(X, X[:, :2])(X),
    "export": served,
}
CG = "conjugate gradients"
# What is checked every day.
USUAL = {*itertools.product(("batch", "cd1", "squares", "layer"), ("float64", "float16"))}
# What cannot work: a message of one line, before training.
REFUSED = {
    "float16": ("placed", "network", "learned dof", "encoder", "cd1", "pcd", "squares", CG),
    "cg": ("bfloat16", "half"),
}


@pytest.fixture(params=SETTINGS)
def setting(request):
    floatx, policy = SETTINGS[request.param]
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy or floatx)
    yield request.param
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


def check(entry, setting, folder):
    if entry == CG and setting in REFUSED["cg"]:
        with pytest.raises(ValueError, match=r"^Layers should compute in float32 .*[^\n]$"):
            ENTRIES[entry](folder)
    elif setting == "float16" and entry in REFUSED["float16"]:
        with pytest.raises(ValueError, match=r"^Weights should be kept in float32 .*[^\n]$"):
            ENTRIES[entry](folder)
    else:
        assert np.isfinite(np.asarray(ENTRIES[entry](folder), np.float32)).all()


def test_half_precision_is_refused_before_rbms_are_trained(monkeypatch):
    monkeypatch.setattr(stages, "pretrain", None)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float16")
    try:
        with pytest.raises(ValueError, match="Weights should be kept in float32"):
            rbms("cd1")
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(
    ("entry", "setting"),
    [
        pytest.param(*pair, marks=[pytest.mark.slow] * (pair not in USUAL))
        for pair in itertools.product(ENTRIES, SETTINGS)
    ],
    indirect=["setting"],
)
def test_every_entry(entry, setting, tmp_path):
    check(entry, setting, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
@pytest.mark.parametrize("setting", ["float64"], indirect=True)
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_without_graphs(entry, setting, tmp_path):
    tf.config.run_functions_eagerly(True)
    try:
        check(entry, setting, tmp_path)
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("setting", ["half"], indirect=True)
def test_a_fit_in_half_precision_is_resumed(setting):
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, _: setattr(stop.model, "stop_training", True)
    )
    stopped = ParametricTSNE(**NETWORK).fit(X, callbacks=stop)
    assert stopped.fit(X, resume=True).history_["finetune"]["loss"]
    assert len(stopped.history_["finetune"]["loss"]) == 2
