"""The SavedModel by other readers: TensorFlow's C API, OpenVINO, the official protos, XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import c_loader
from support.runtimes import load_in_openvino
from tensorflow_serving.apis import prediction_log_pb2

from ptsne_keras import serving
from ptsne_keras.serving import _precision, checks, signatures, warmup

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


def official(path):
    """The warm-up records by TensorFlow Serving's own protos."""
    records = tf.data.TFRecordDataset(str(path / warmup.FILE))
    return [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in records]


@pytest.fixture(scope="module")
def answers(served, tmp_path_factory):
    batches = {}
    for n in SIZES:
        rows = served.rows[:n]
        batches[f"serving_default/features@{n}"] = rows
        batches[f"embed_with_novelty/features@{n}"] = rows
        batches[f"embed_examples/examples@{n}"] = strings([signatures.example(row) for row in rows])
    for name in ("serving_default", "embed_with_novelty"):
        batches[f"{name}/features@0"] = served.rows[:0]
    for i, log in enumerate(official(served.path)):
        request = log.predict_log.request
        for name, tensor in request.inputs.items():
            value = tf.make_ndarray(tensor)
            value = strings(list(value)) if value.dtype == object else value
            batches[f"{request.model_spec.signature_name}/{name}@warm{i}"] = value
    return c_loader.run(served.path, batches, tmp_path_factory.mktemp("c"))


@pytest.mark.parametrize("n", SIZES)
def test_c_api_and_openvino_answer_as_keras(served, answers, n):
    expected = np.asarray(served.encoder(served.rows[:n]))
    for signature in SIGNATURES:
        found = answers[f"{signature}/embedding@{n}"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, **CLOSE)
    np.testing.assert_allclose(load_in_openvino(served.path)(served.rows[:n]), expected, **CLOSE)


def test_empty_batch_gives_an_empty_map(answers):
    empty = {name: value.shape for name, value in answers.items() if name.endswith("@0")}
    assert empty == {
        "serving_default/embedding@0": (0, 2),
        "embed_with_novelty/embedding@0": (0, 2),
        "embed_with_novelty/novelty@0": (0,),
    }


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


@pytest.mark.parametrize("width", [1, 63])
def test_rows_of_another_width_are_refused(served, model, tmp_path, width):
    example = tf.constant([signatures.example(np.zeros(width))])
    with pytest.raises(tf.errors.InvalidArgumentError, match="features"):
        model.signatures["embed_examples"](examples=example)
    rows = np.zeros((3, width), np.float32)  # one column could be broadcast to all
    with pytest.raises(AssertionError, match=r"\[3,\d+\] is not compatible with .*64"):
        c_loader.run(served.path, {"serving_default/features": rows}, tmp_path)


def test_served_novelty_is_a_quantile_of_the_training_rows_distances(served, model):
    def novelty(rows):
        signature = model.signatures["embed_with_novelty"]
        return signature(features=tf.constant(rows, tf.float32))["novelty"].numpy()

    usual = novelty(served.rows[:540])
    assert np.median(usual) == pytest.approx(0.5, abs=0.1)
    assert 0.02 < (usual < 0.1).mean() < 0.2
    assert np.median(novelty(np.random.default_rng(0).permuted(served.rows[:540], axis=1))) > 0.99
    # Known rows are those that are alone in their cell: half as many cells as rows.
    assert 0.1 < (novelty(served.X) == 0).mean() < 0.4


def test_warm_up_records_are_prediction_logs_of_every_signature(served):
    assert warmup.FILE.as_posix() == "assets.extra/tf_serving_warmup_requests"
    logs = official(served.path)
    assert {log.WhichOneof("log_type") for log in logs} == {"predict_log"}
    specs = [log.predict_log.request.model_spec for log in logs]
    assert {spec.name for spec in specs} == {"map"}
    assert {spec.signature_name for spec in specs} == SIGNATURES
    sizes = [next(iter(log.predict_log.request.inputs.values())).tensor_shape for log in logs]
    assert {shape.dim[0].size for shape in sizes} == {1, 64}


def test_warm_up_records_are_answered_by_a_c_server(answers):
    found = [value for name, value in answers.items() if "@warm" in name]
    assert len(found) == 8  # of six records, and the novelty's two outputs twice
    assert all(np.isfinite(value).all() for value in found)


def test_warm_up_is_read_as_it_was_written(tmp_path):
    requests = [("a", {"x": tf.constant([[1.5, 2.5]])}), ("b", {"y": tf.constant([b"ab\0"])})]
    warmup.write(tmp_path, "m" * 300, requests)  # a length of two bytes
    for (name, inputs), (found, values) in zip(requests, warmup.read(tmp_path), strict=True):
        assert found == name
        assert {k: v.numpy().tolist() for k, v in values.items()} == {
            k: v.numpy().tolist() for k, v in inputs.items()
        }


def test_bfloat16_halves_the_weights_and_tells_how_far_the_map_moves(served, tmp_path):
    path = serving.export_saved_model(
        served.encoder, tmp_path, reference=served.X, precision="bfloat16", dof=2.0
    )
    told = checks.facts(path)
    assert (told["dof"], told["precision"]) == (2.0, "bfloat16")
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    Y = np.asarray(served.encoder(served.X))
    moved = signature(features=tf.constant(served.X, tf.float32))["embedding"].numpy() - Y
    spread = np.sqrt(((Y - Y.mean(axis=0)) ** 2).sum(axis=1).mean())
    rms = np.sqrt((moved**2).sum(axis=1).mean()) / spread
    assert 1e-4 < rms < 0.05
    assert told["map_error"]["rms"] == pytest.approx(rms, rel=1e-2)
    assert told["map_error"]["rows"] == len(served.X)
    whole, half = (hidden_dtypes(p) for p in (served.path, path))
    assert (whole, half) == ([tf.float32] * 2, [tf.bfloat16] * 2)


def hidden_dtypes(path):
    """The dtypes of the hidden layers' kernels, as stored."""
    checkpoint = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    shapes = checkpoint.get_variable_to_shape_map().items()
    dtypes = checkpoint.get_variable_to_dtype_map()
    return [dtypes[name] for name, shape in shapes if shape in ([64, 40], [40, 40])]


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
    inputs, half = keras.Input((8,)), {"dtype": "mixed_float16"}
    norm = keras.layers.Normalization(mean=np.zeros(8), variance=np.ones(8), **half)
    hidden = keras.layers.Dense(4, **half)(norm(inputs))
    encoder = keras.Model(inputs, keras.layers.Dense(2, dtype="float32")(hidden))
    X = rng.normal(size=(50, 8)).astype("float32")
    assert serving.check(serving.export_saved_model(encoder, tmp_path, reference=X)).ok
