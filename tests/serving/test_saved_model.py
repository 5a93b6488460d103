"""The SavedModel by other readers: TensorFlow's C API, OpenVINO, the official protos, XLA."""

import keras
import numpy as np
import openvino
import pytest
import tensorflow as tf
from support import c_loader
from tensorflow_serving.apis import prediction_log_pb2

from ptsne_keras import serving
from ptsne_keras.serving import _precision, checks, signatures, warmup
from ptsne_keras.utils import novelty
from ptsne_keras.utils.novelty import Landmarks

SIZES = (1, 7, 4096)
# Of float32 sums in another order, at map coordinates of this size.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SIGNATURES = {"serving_default", "embed_examples", "embed_with_novelty"}


@pytest.fixture(scope="module")
def model(served):
    return tf.saved_model.load(str(served.path))


def strings(examples):
    """Byte strings of one length, as c_loader.py takes them."""
    return np.array(examples, dtype=f"V{len(examples[0])}")


@pytest.fixture(scope="module")
def answers(served, tmp_path_factory):
    batches = {}
    for n in SIZES:
        rows = served.rows[:n]
        batches[f"serving_default/features@{n}"] = rows
        batches[f"embed_with_novelty/features@{n}"] = rows
        batches[f"embed_examples/examples@{n}"] = strings([signatures.example(row) for row in rows])
    return c_loader.run(served.path, batches, tmp_path_factory.mktemp("c"))


# ---------------------------------------------------------------- signatures


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("signature", sorted(SIGNATURES))
def test_c_api_answers_every_signature_as_keras(served, answers, signature, n):
    expected = np.asarray(served.encoder(served.rows[:n]))
    found = answers[f"{signature}/embedding@{n}"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.parametrize("n", SIZES)
def test_openvino_reads_the_folder_and_answers_as_keras(served, n):
    core = openvino.Core()
    read = core.read_model(served.path)
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    found = core.compile_model(read, "CPU", options)(served.rows[:n])
    embedding = next(v for k, v in found.items() if v.shape == (n, 2))
    np.testing.assert_allclose(embedding, served.encoder(served.rows[:n]), **CLOSE)


def test_inputs_and_outputs_are_named_and_float32(model):
    assert model.signatures["serving_default"].structured_input_signature == (
        (),
        {"features": tf.TensorSpec((None, 64), tf.float32, name="features")},
    )
    outputs = {name: s.structured_outputs for name, s in model.signatures.items()}
    assert set(outputs) == SIGNATURES
    for tensors in outputs.values():
        assert tensors["embedding"].shape.as_list() == [None, 2]
        assert {tensor.dtype for tensor in tensors.values()} == {tf.float32}
    assert set(outputs["embed_with_novelty"]) == {"embedding", "novelty"}


def test_without_training_rows_there_is_no_novelty(served, tmp_path):
    path = serving.export_saved_model(served.encoder, tmp_path)
    assert set(tf.saved_model.load(str(path)).signatures) == SIGNATURES - {"embed_with_novelty"}


def test_examples_of_another_width_are_refused_by_name(model):
    short = tf.constant([signatures.example(np.zeros(63))])
    with pytest.raises(tf.errors.InvalidArgumentError, match="features"):
        model.signatures["embed_examples"](examples=short)


@pytest.mark.parametrize("width", [1, 63, 65])
def test_rows_of_another_width_are_refused_by_a_c_server(served, tmp_path, width):
    rows = np.zeros((3, width), np.float32)  # one column could be broadcast to all
    with pytest.raises(AssertionError, match=r"\[3,\d+\] is not compatible with .*64"):
        c_loader.run(served.path, {"serving_default/features": rows}, tmp_path)


def test_empty_batch_gives_an_empty_map(served, tmp_path):
    rows = np.zeros((0, 64), np.float32)
    names = ("serving_default", "embed_with_novelty")
    found = c_loader.run(served.path, {f"{name}/features": rows for name in names}, tmp_path)
    assert {name: value.shape for name, value in found.items()} == {
        "serving_default/embedding": (0, 2),
        "embed_with_novelty/embedding": (0, 2),
        "embed_with_novelty/novelty": (0,),
    }


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_spoils_no_other(served, model, value):
    rows = served.rows[:3].copy()
    rows[1, 5] = value  # ReLU would give it a place
    found = model.signatures["embed_with_novelty"](features=tf.constant(rows))
    assert np.isnan(found["embedding"][1]).all()
    assert found["novelty"][1] == 1
    expected = np.asarray(served.encoder(rows))
    np.testing.assert_allclose(found["embedding"].numpy()[[0, 2]], expected[[0, 2]], **CLOSE)


def test_every_signature_compiles_under_xla_but_that_of_strings(served, model):
    rows = tf.constant(served.rows[:7])
    for name in ("serving_default", "embed_with_novelty"):
        signature = model.signatures[name]
        compiled = tf.function(lambda x, f=signature: f(features=x), jit_compile=True)
        for key, value in signature(features=rows).items():
            np.testing.assert_allclose(compiled(rows)[key], value, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- novelty


def test_served_novelty_is_that_of_the_landmarks(served, model):
    landmarks = Landmarks.of(served.X, scale=novelty.scale_of(served.encoder))
    signature = model.signatures["embed_with_novelty"]
    strangers = np.random.default_rng(0).permuted(served.rows[:540], axis=1)
    for rows in (served.rows[:540], strangers, served.X[:100].astype("float32")):
        found = signature(features=tf.constant(rows))["novelty"]
        np.testing.assert_allclose(found, landmarks.novelty(rows), atol=0.01)  # distances tie


@pytest.mark.parametrize("reference", [np.zeros((9, 5)), np.zeros((1, 64)), np.zeros(64)])
def test_training_rows_that_do_not_fit_are_refused(served, tmp_path, reference):
    with pytest.raises(ValueError, match="reference should be two or more rows of 64 columns"):
        serving.export_saved_model(served.encoder, tmp_path, reference=reference)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- warm-up


def official(path):
    """The records by TensorFlow Serving's own protos."""
    logs = []
    for record in tf.data.TFRecordDataset(str(path / warmup.FILE)):
        logs.append(prediction_log_pb2.PredictionLog.FromString(record.numpy()))
    return logs


def test_warm_up_records_are_prediction_logs_of_every_signature(served):
    assert warmup.FILE.as_posix() == "assets.extra/tf_serving_warmup_requests"
    logs = official(served.path)
    assert {log.WhichOneof("log_type") for log in logs} == {"predict_log"}
    specs = [log.predict_log.request.model_spec for log in logs]
    assert {spec.name for spec in specs} == {"map"}
    assert {spec.signature_name for spec in specs} == SIGNATURES
    sizes = [next(iter(log.predict_log.request.inputs.values())).tensor_shape for log in logs]
    assert {shape.dim[0].size for shape in sizes} == {1, 64}


def test_warm_up_records_are_answered_by_a_c_server(served, tmp_path):
    batches = {}
    for i, log in enumerate(official(served.path)):
        request = log.predict_log.request
        for name, tensor in request.inputs.items():
            value = tf.make_ndarray(tensor)
            value = strings(list(value)) if value.dtype == object else value
            batches[f"{request.model_spec.signature_name}/{name}@{i}"] = value
    assert len(batches) == 6
    found = c_loader.run(served.path, batches, tmp_path)
    assert all(np.isfinite(value).all() for value in found.values())
    assert len(found) == 8  # the novelty's two outputs twice


def test_warm_up_is_read_as_it_was_written(tmp_path):
    requests = [("a", {"x": tf.constant([[1.5, 2.5]])}), ("b", {"y": tf.constant([b"ab\0"])})]
    warmup.write(tmp_path, "m" * 300, requests)  # a length of two bytes
    for (name, inputs), (found, values) in zip(requests, warmup.read(tmp_path), strict=True):
        assert found == name
        assert {k: v.numpy().tolist() for k, v in values.items()} == {
            k: v.numpy().tolist() for k, v in inputs.items()
        }


# ---------------------------------------------------------------- half precision


def test_bfloat16_halves_the_weights_and_tells_how_far_the_map_moves(served, tmp_path):
    path = serving.export_saved_model(
        served.encoder, tmp_path, reference=served.X, precision="bfloat16", dof=2.0
    )
    told = checks.facts(path)
    assert told["dof"] == 2.0
    assert told["precision"] == "bfloat16"
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    Y = np.asarray(served.encoder(served.X))
    moved = signature(features=tf.constant(served.X, tf.float32))["embedding"].numpy() - Y
    spread = np.sqrt(((Y - Y.mean(axis=0)) ** 2).sum(axis=1).mean())
    rms = np.sqrt((moved**2).sum(axis=1).mean()) / spread
    assert 1e-4 < rms < 0.05
    assert told["map_error"]["rms"] == pytest.approx(rms, rel=1e-2)
    assert told["map_error"]["rows"] == len(served.X)
    half, whole = (
        sum(np.asarray(tf.cast(w, tf.float32)).size * w.dtype.size for w in hidden(p))
        for p in (path, served.path)
    )
    assert half < 0.6 * whole


def hidden(path):
    checkpoint = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    sizes = [checkpoint.get_tensor(name) for name in checkpoint.get_variable_to_shape_map()]
    values = [tf.constant(v) for v in sizes if getattr(v, "shape", ()) in [(64, 50), (50, 50)]]
    assert len(values) == 2
    return values


def test_bfloat16_leaves_the_encoder_as_it_is(served):
    before = served.encoder.get_weights()
    smaller = _precision.bfloat16(served.encoder)
    assert {w.dtype for w in served.encoder.trainable_weights} == {"float32"}
    assert {w.dtype for w in smaller.layers[-1].weights} == {"float32"}
    assert all((a == b).all() for a, b in zip(before, served.encoder.get_weights(), strict=True))


def test_bfloat16_reaches_into_models_inside(tmp_path, rng):
    inside = keras.Sequential([keras.layers.Dense(64), keras.layers.Dense(64)])
    encoder = keras.Sequential([keras.Input((8,)), inside, keras.layers.Dense(2)])
    smaller = _precision.bfloat16(encoder)
    assert [w.dtype for w in smaller.weights] == ["bfloat16"] * 4 + ["float32"] * 2
    single = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="should have a hidden layer with weights"):
        _precision.bfloat16(single)


def test_mixed_precision_with_training_rows(tmp_path, rng):
    X = rng.normal(size=(50, 8)).astype("float32")
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = keras.Input((8,))
        norm = keras.layers.Normalization(mean=np.zeros(8), variance=np.ones(8))
        hidden = keras.layers.Dense(4)(norm(inputs))
        encoder = keras.Model(inputs, keras.layers.Dense(2, dtype="float32")(hidden))
    finally:
        keras.config.set_dtype_policy("float32")
    assert serving.check(serving.export_saved_model(encoder, tmp_path, reference=X)).ok


def test_bfloat16_needs_training_rows(served, tmp_path):
    with pytest.raises(ValueError, match="reference should be given"):
        serving.export_saved_model(served.encoder, tmp_path, precision="bfloat16")
    with pytest.raises(ValueError, match='precision should be "float32" or "bfloat16"'):
        serving.export_saved_model(served.encoder, tmp_path, precision="float16")
