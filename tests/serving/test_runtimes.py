"""ONNX and LiteRT files: what they take and give, how they answer, and none is half written."""

import functools
import os
import sys

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from support.runtimes import load, load_in_openvino

from ptsne_keras import networks, serving
from ptsne_keras.serving import runtimes, signatures

D = 20
SHIFT, SCALE = np.linspace(-100, 100, D), np.geomspace(0.5, 50, D)
EXPORTS = {".onnx": serving.export_onnx, ".tflite": serving.export_litert}


def build(d=2, **kwargs):
    return networks.encoder(D, d, hidden_units=(32, 16), scaling=(SHIFT, SCALE), seed=0, **kwargs)


def convolutional():
    """A user's own network of images, on rows."""
    layers = [
        keras.layers.BatchNormalization(),
        keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Conv2D(8, 2, strides=2),
        keras.layers.Dropout(0.5),
        keras.layers.Flatten(),
        keras.layers.Dense(2),
    ]
    model = networks.from_rows(keras.Sequential([keras.Input((5, 4, 1)), *layers]), D)
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(size=1), rng.uniform(0.5, 2, 1)
    model.layers[-1].layers[0].set_weights([np.ones(1), np.zeros(1), mean, variance])
    return model


def attention():
    inputs = keras.Input((5, 4))
    x = keras.layers.MultiHeadAttention(2, 4)(inputs, inputs)
    x = keras.layers.LayerNormalization()(x + inputs)
    x = keras.layers.Flatten()(x)
    return networks.from_rows(keras.Model(inputs, keras.layers.Dense(2)(x)), D)


ENCODERS = {
    "relu": lambda: build(activation="relu"),
    "gelu": lambda: build(activation="gelu"),
    "elu": lambda: build(activation="elu"),
    "components": lambda: build(
        d=3, components=np.linalg.qr(np.random.default_rng(0).normal(size=(D, 6)))[0]
    ),
    "sigmoid": lambda: build(activation="sigmoid", units=((5, -5), (80, 40))),
    "far from the origin": lambda: build(units=(1000, 1), activation="tanh"),
    "convolutional": convolutional,
    "attention": attention,
}


@pytest.fixture(params=EXPORTS)
def suffix(request):
    return request.param


def assert_answers(run, encoder, n):
    """Compare in parts of the map's extent, or of its distance from the origin."""
    # Far from standardised: without the encoder's own scaling the answers are far off.
    X = np.float32(SHIFT + SCALE * np.random.default_rng(n).standard_normal((n, D)))
    got, expected = run(X), np.asarray(encoder(X, training=False))
    assert (got.shape, got.dtype) == (expected.shape, np.float32)
    extent = max(np.ptp(expected, axis=0).max(), np.abs(expected).max()) if n else 1.0
    assert np.abs(got - expected).max(initial=0.0) <= 1e-5 * extent


@pytest.mark.parametrize("kind", ENCODERS)
def test_it_answers_as_keras_and_leaves_the_encoder_as_it_was(suffix, kind, tmp_path):
    encoder = ENCODERS[kind]()
    names, before = [weight.path for weight in encoder.weights], encoder.get_weights()
    config = encoder.to_json()
    path = EXPORTS[suffix](encoder, tmp_path / "new" / f"map{suffix}")
    assert list((tmp_path / "new").iterdir()) == [path]
    run = load(path)
    for n in (1, 7, 4096):
        assert_answers(run, encoder, n)
    if suffix == ".onnx" and kind in ("relu", "gelu", "sigmoid"):
        assert_answers(run, encoder, 0)
    assert encoder.to_json() == config
    assert [weight.path for weight in encoder.weights] == names
    for value, weight in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(value, weight)


def test_onnx_takes_features_and_gives_embedding_of_any_number_of_rows(small_encoder, tmp_path):
    graph = onnx.load(serving.export_onnx(small_encoder, tmp_path / "map.onnx")).graph
    told = [
        (tensor.name, tensor.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in dims])
        for tensor in (*graph.input, *graph.output)
        for dims in [tensor.type.tensor_type.shape.dim]
    ]
    float32 = onnx.TensorProto.FLOAT
    assert told == [("features", float32, ["N", 3]), ("embedding", float32, ["N", 2])]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_written_in_float32(suffix, policy, tmp_path):
    single = networks.encoder(D, 2, hidden_units=(32,), activation="gelu", seed=0)
    keras.config.set_dtype_policy(policy)
    try:
        encoder = networks.encoder(D, 2, hidden_units=(32,), activation="gelu", seed=0)
        layers = [keras.Input((5, 4)), keras.layers.Flatten(), encoder]
        own = networks.from_rows(keras.Sequential(layers), D)
    finally:
        keras.config.set_dtype_policy("float32")
    policies = [layer.dtype_policy.name for layer in own._flatten_layers()]
    assert policy in policies
    single.set_weights(encoder.get_weights())
    assert_answers(load(EXPORTS[suffix](own, tmp_path / f"map{suffix}")), single, 256)
    assert [layer.dtype_policy.name for layer in own._flatten_layers()] == policies


def test_openvino_reads_the_onnx_file(tmp_path):
    encoder = build(activation="gelu")
    path = serving.export_onnx(encoder, tmp_path / "map.onnx")
    assert_answers(load_in_openvino(path), encoder, 7)


def test_check_rows_are_standard_normal_once_scaled():
    X = signatures.normal_rows(build(), 256)
    standard = (X - SHIFT) / SCALE
    assert np.abs(standard.mean(axis=0)).max() < 0.3
    assert np.abs(standard.std(axis=0) - 1).max() < 0.2


def test_existing_file_is_refused_and_left_untouched(suffix, small_encoder, tmp_path):
    path = tmp_path / f"map{suffix}"
    path.write_text("old")
    with pytest.raises(FileExistsError, match="path should be a new file"):
        EXPORTS[suffix](small_encoder, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def converted(small_encoder):
    """The bytes of each file of the small encoder."""
    of = {".onnx": runtimes._to_onnx, ".tflite": runtimes._to_litert}
    return functools.cache(lambda suffix: of[suffix](small_encoder, 3))


@pytest.fixture
def at_once(suffix, converted, monkeypatch):
    """Convert no more than once."""
    name = {".onnx": "_to_onnx", ".tflite": "_to_litert"}[suffix]
    monkeypatch.setattr(runtimes, name, lambda encoder, features: converted(suffix))


@pytest.mark.usefixtures("at_once")
def test_failing_write_leaves_nothing_behind(suffix, small_encoder, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="the disk is full"):
        EXPORTS[suffix](small_encoder, tmp_path / f"map{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("wrong", [lambda Y: Y + 1e-3, lambda Y: Y * np.nan], ids=["off", "NaN"])
def test_file_that_answers_otherwise_is_not_written(
    suffix, wrong, small_encoder, tmp_path, monkeypatch
):
    name = {".onnx": "_onnx_runtime", ".tflite": "_litert_interpreter"}[suffix]
    real = getattr(runtimes, name)
    monkeypatch.setattr(runtimes, name, lambda written: lambda X: wrong(real(written)(X)))
    with pytest.raises(RuntimeError, match="should answer as Keras does"):
        EXPORTS[suffix](small_encoder, tmp_path / f"map{suffix}")
    assert not list(tmp_path.iterdir())


class Determinant(keras.layers.Layer):
    """An operation that neither format has."""

    def call(self, x):
        return x * tf.linalg.logdet(tf.eye(3) + tf.einsum("ni,nj->nij", x, x))[:, None]


def test_operation_that_is_not_there_is_named(suffix, tmp_path):
    inputs = keras.Input((3,))
    encoder = keras.Model(inputs, keras.layers.Dense(2)(Determinant()(inputs)), name="own")
    with pytest.raises(RuntimeError, match=r"encoder should have layers .* 'own'; .*Cholesky|det"):
        EXPORTS[suffix](encoder, tmp_path / f"map{suffix}")
    assert not list(tmp_path.iterdir())


def test_missing_packages(small_encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # the file is written unchecked
    path = serving.export_onnx(small_encoder, tmp_path / "map.onnx")
    monkeypatch.undo()
    X = np.eye(3, dtype=np.float32)
    np.testing.assert_allclose(load(path)(X), small_encoder(X), atol=1e-6)
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs tf2onnx: pip install .*\[onnx\]"):
        serving.export_onnx(small_encoder, tmp_path / "other.onnx")


def test_other_backends_and_suffixes_are_refused(suffix, small_encoder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=f"path should end in {suffix}"):
        EXPORTS[suffix](small_encoder, tmp_path / "map.pb")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match=r"KERAS_BACKEND=tensorflow. Received: .*=jax"):
        EXPORTS[suffix](small_encoder, tmp_path / f"map{suffix}")
