"""ONNX and LiteRT files: what they take and give, how they answer, and none is half written."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

from ptsne_keras import networks, serving
from ptsne_keras.serving import runtimes, signatures

D = 20
BATCH_SIZES = (1, 7, 4096)
SHIFT, SCALE = np.linspace(-100, 100, D), np.geomspace(0.5, 50, D)
EXPORTS = {".onnx": serving.export_onnx, ".tflite": serving.export_litert}


def raw_rows(n: int) -> np.ndarray:
    """Rows far from standardised: without the encoder's own scaling the answers are far off."""
    return (SHIFT + SCALE * np.random.default_rng(n).standard_normal((n, D))).astype("float32")


def build(**kwargs: Any) -> keras.Model:
    return networks.encoder(
        D, kwargs.pop("d", 2), hidden_units=(32, 16), scaling=(SHIFT, SCALE), seed=0, **kwargs
    )


def convolutional() -> keras.Model:
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


def attention() -> keras.Model:
    inputs = keras.Input((5, 4))
    x = keras.layers.MultiHeadAttention(2, 4)(inputs, inputs)
    x = keras.layers.LayerNormalization()(x + inputs)
    x = keras.layers.Flatten()(x)
    return networks.from_rows(keras.Model(inputs, keras.layers.Dense(2)(x)), D)


ENCODERS: dict[str, Callable[[], keras.Model]] = {
    "relu": lambda: build(activation="relu"),
    "gelu": lambda: build(activation="gelu"),
    "elu": lambda: build(activation="elu"),
    "components": lambda: build(
        d=3, components=np.linalg.qr(np.random.default_rng(0).normal(size=(D, 6)))[0]
    ),
    "towers": lambda: build(towers=True, output="sigmoid", units=((5, -5), (80, 40))),
    "far from the origin": lambda: build(units=(1000, 1), activation="tanh"),
    "convolutional": convolutional,
    "attention": attention,
}


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> keras.Model:
    return ENCODERS[request.param]()


@pytest.fixture(scope="module", params=EXPORTS)
def exported(
    request: pytest.FixtureRequest,
    encoder: keras.Model,
    tmp_path_factory: pytest.TempPathFactory,
) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("runtime")
    path = EXPORTS[request.param](encoder, folder / f"map{request.param}")
    return SimpleNamespace(encoder=encoder, path=path, run=load(path))


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def mixed_precision(request: pytest.FixtureRequest) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield
    keras.config.set_dtype_policy(before)


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Open a file with its runtime's own names only."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        return lambda X: session.run(["embedding"], {"features": X})[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it moves to ai_edge_litert
        interpreter = tf.lite.Interpreter(str(path))
    return lambda X: interpreter.get_signature_runner()(features=X)["embedding"]


def largest_difference(run: Callable[..., Any], encoder: keras.Model, n: int) -> float:
    """In parts of the map's extent, or of its distance from the origin."""
    X = raw_rows(n)
    got, expected = run(X), np.asarray(encoder(X, training=False))
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    extent = max(np.ptp(expected, axis=0).max(), np.abs(expected).max()) if n else 1.0
    return float(np.abs(got - expected).max(initial=0.0) / extent)


# ---------------------------------------------------------------- the answers


@pytest.mark.parametrize("n", BATCH_SIZES)
def test_it_answers_as_keras(exported, n):
    assert largest_difference(exported.run, exported.encoder, n) <= 1e-5


def test_onnx_takes_no_rows_at_all(tmp_path):
    encoder = build(towers=True)
    run = load(serving.export_onnx(encoder, tmp_path / "map.onnx"))
    assert largest_difference(run, encoder, 0) == 0


def test_folder_holds_one_file(exported):
    assert list(exported.path.parent.iterdir()) == [exported.path]


def test_onnx_takes_features_and_gives_embedding_of_any_number_of_rows(small_encoder, tmp_path):
    path = serving.export_onnx(small_encoder, tmp_path / "new" / "map.onnx")
    assert path == tmp_path / "new" / "map.onnx"
    graph = onnx.load(path).graph
    told = [
        (tensor.name, tensor.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in dims])
        for tensor in (*graph.input, *graph.output)
        for dims in [tensor.type.tensor_type.shape.dim]
    ]
    float32 = onnx.TensorProto.FLOAT
    assert told == [("features", float32, ["N", 3]), ("embedding", float32, ["N", 2])]


@pytest.mark.usefixtures("mixed_precision")
@pytest.mark.parametrize("suffix", EXPORTS)
def test_mixed_precision_is_written_in_float32(suffix, tmp_path):
    encoder = networks.encoder(D, 2, hidden_units=(32,), activation="gelu", seed=0)
    own = networks.from_rows(
        keras.Sequential([keras.Input((5, 4)), keras.layers.Flatten(), encoder]), D
    )
    policies = [layer.dtype_policy.name for layer in own._flatten_layers()]
    run = load(EXPORTS[suffix](own, tmp_path / f"map{suffix}"))
    keras.config.set_dtype_policy("float32")
    single = networks.encoder(D, 2, hidden_units=(32,), activation="gelu", seed=0)
    single.set_weights(encoder.get_weights())
    assert largest_difference(run, single, 256) <= 1e-5
    assert [layer.dtype_policy.name for layer in own._flatten_layers()] == policies


@pytest.mark.parametrize("suffix", EXPORTS)
def test_encoder_is_left_as_it_was(suffix, tmp_path):
    encoder = build(activation="gelu")
    config, weights = encoder.to_json(), [weight.copy() for weight in encoder.get_weights()]
    names = [weight.path for weight in encoder.weights]
    EXPORTS[suffix](encoder, tmp_path / f"map{suffix}")
    assert encoder.to_json() == config
    assert [weight.path for weight in encoder.weights] == names
    for before, after in zip(weights, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_openvino_reads_the_onnx_file(tmp_path):
    openvino = pytest.importorskip("openvino")
    encoder = build(activation="gelu")
    core = openvino.Core()
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    path = serving.export_onnx(encoder, tmp_path / "map.onnx")
    model = core.compile_model(core.read_model(path), "CPU", config)
    assert largest_difference(lambda X: model({"features": X})["embedding"], encoder, 7) <= 1e-5


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize("suffix", EXPORTS)
def test_existing_file_is_refused_and_left_untouched(suffix, small_encoder, tmp_path):
    path = tmp_path / f"map{suffix}"
    path.write_text("old")
    with pytest.raises(FileExistsError, match="path should be a new file"):
        EXPORTS[suffix](small_encoder, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", EXPORTS)
def test_failing_write_leaves_nothing_behind(suffix, small_encoder, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        EXPORTS[suffix](small_encoder, tmp_path / f"map{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", EXPORTS)
@pytest.mark.parametrize("wrong", [lambda Y: Y + 1e-3, lambda Y: Y * np.nan], ids=["off", "NaN"])
def test_file_that_answers_otherwise_is_not_written(
    suffix, wrong, small_encoder, tmp_path, monkeypatch
):
    name = {".onnx": "_onnx_runtime", ".tflite": "_litert_interpreter"}[suffix]
    real = getattr(runtimes, name)

    def wrong_runtime(written):
        run = real(written)
        return lambda X: wrong(run(X))

    monkeypatch.setattr(runtimes, name, wrong_runtime)
    with pytest.raises(RuntimeError, match="should answer as Keras does"):
        EXPORTS[suffix](small_encoder, tmp_path / f"map{suffix}")
    assert not list(tmp_path.iterdir())


def test_check_rows_are_standard_normal_once_scaled():
    X = signatures.normal_rows(build(), 256)
    standard = (X - SHIFT) / SCALE
    assert np.abs(standard.mean(axis=0)).max() < 0.3
    assert np.abs(standard.std(axis=0) - 1).max() < 0.2


# ---------------------------------------------------------------- what does not work


class Determinant(keras.layers.Layer):
    """An operation that neither format has."""

    def call(self, x: Any) -> Any:
        return x * tf.linalg.logdet(tf.eye(3) + tf.einsum("ni,nj->nij", x, x))[:, None]


@pytest.mark.parametrize("suffix", EXPORTS)
def test_operation_that_is_not_there_is_named(suffix, tmp_path):
    inputs = keras.Input((3,))
    encoder = keras.Model(inputs, keras.layers.Dense(2)(Determinant()(inputs)), name="own")
    with pytest.raises(RuntimeError, match=r"encoder should have layers .* 'own'; .*Cholesky|det"):
        EXPORTS[suffix](encoder, tmp_path / f"map{suffix}")
    assert not list(tmp_path.iterdir())


def test_missing_package_is_named(small_encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs tf2onnx: pip install .*\[onnx\]"):
        serving.export_onnx(small_encoder, tmp_path / "map.onnx")


def test_without_onnxruntime_the_file_is_written_unchecked(small_encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = serving.export_onnx(small_encoder, tmp_path / "map.onnx")
    monkeypatch.undo()
    X = np.eye(3, dtype=np.float32)
    np.testing.assert_allclose(load(path)(X), small_encoder(X), atol=1e-6)


@pytest.mark.parametrize("suffix", EXPORTS)
def test_other_backends_are_refused(suffix, small_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match=r"KERAS_BACKEND=tensorflow. Received: .*=jax"):
        EXPORTS[suffix](small_encoder, tmp_path / f"map{suffix}")


@pytest.mark.parametrize("suffix", EXPORTS)
def test_other_suffixes_are_refused(suffix, small_encoder, tmp_path):
    with pytest.raises(ValueError, match=f"path should end in {suffix}"):
        EXPORTS[suffix](small_encoder, tmp_path / "map.pb")


@pytest.mark.parametrize("suffix", EXPORTS)
def test_encoder_that_is_not_matrix_to_matrix_is_refused(suffix, tmp_path):
    with pytest.raises(ValueError, match=r"encoder should be .* one input"):
        EXPORTS[suffix](keras.Sequential([keras.layers.Dense(2)]), tmp_path / f"map{suffix}")
