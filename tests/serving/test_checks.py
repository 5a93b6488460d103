"""`serving.check`: what it reports, and what a stock server could not run."""

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from ptsne_keras import serving
from ptsne_keras.serving import checks, warmup


def test_check_tells_all_it_looked_at(served):
    report = serving.check(served.path)
    assert report.ok, str(report)
    what = [finding.what for finding in report.findings]
    assert what[:4] == ["version folder", "operations", "devices", "weights"]
    assert {"serving_default", "embed_examples", "embed_with_novelty"} < set(what)
    assert {"warm-up", "answers", "batches"} < set(what)
    assert "embedding float32 [N, 2]" in str(report)
    assert "FAIL" not in str(report)
    assert checks.facts(served.path) == {}


def in_python(x):
    y = tf.numpy_function(lambda v: v * 2, [x], tf.float32)
    return tf.ensure_shape(y, x.shape)


def on_a_gpu(x):
    with tf.device("/GPU:0"):
        return x * 2.0


REFUSED = {
    "Python": (in_python, "operations: PyFunc"),
    "a GPU": (on_a_gpu, "devices: .*GPU:0"),
    "XLA": (tf.function(lambda x: x * 2, jit_compile=True), r"operations: .*\(jit_compile=True\)"),
    "the batch": (lambda x: x - tf.reduce_mean(x, axis=0), "batches: answers differ"),
    "NaN": (lambda x: tf.math.log(-tf.abs(x) - 1), "answers: NaN or infinity"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_stock_server_cannot_run_is_refused_and_nothing_is_written(tmp_path, kind):
    act, message = REFUSED[kind]
    layer = type("Own", (keras.layers.Layer,), {"call": lambda self, x: act(x)})
    inputs = keras.Input((3,))
    encoder = keras.Model(inputs, layer()(keras.layers.Dense(2)(inputs)))
    with pytest.raises(ValueError, match=message):
        serving.export_saved_model(encoder, tmp_path / "served" / "name")
    assert list(tmp_path.iterdir()) == []


def copied(served, tmp_path):
    return Path(shutil.copytree(served.path, tmp_path / "1"))


def failures(path):
    report = serving.check(path)
    assert not report.ok
    assert "FAIL" in str(report)
    return {finding.what for finding in report.findings if not finding.ok}


def test_check_finds_what_was_truncated_removed_or_misnamed(served, tmp_path):
    path = copied(served, tmp_path)
    records = path / warmup.FILE
    whole = records.read_bytes()
    records.write_bytes(whole[: len(whole) // 2])
    assert failures(path) == {"warm-up"}
    records.unlink()
    assert failures(path) == {"warm-up"}
    warmup.write(path, "map", [("other", {"features": tf.zeros((1, 64))})])
    assert failures(path) == {"warm-up"}
    records.write_bytes(whole)
    path = path.rename(tmp_path / "v1")
    assert failures(path) == {"version folder"}
    data = path / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    assert "loads" in failures(path)
    (path / "saved_model.pb").write_bytes(b"none")
    assert "graph" in failures(path)


def rename_output(graph):
    graph.signature_def["serving_default"].outputs["embedding"].name = "nothing:0"


ALTERED = {
    "a signature that is gone": (lambda g: g.signature_def.pop("embed_examples"), "warm-up"),
    "an output of no tensor": (rename_output, "warm-up"),
    "another tag": (lambda g: g.meta_info_def.tags.append("gpu"), "graph"),
    "a later graph": (lambda g: setattr(g.graph_def.versions, "min_consumer", 99_999), "loads"),
    "another CPU": (lambda g: setattr(g.graph_def.node[0], "device", "/device:CPU:7"), "devices"),
}


@pytest.mark.parametrize("change", ALTERED)
def test_check_looks_at_what_a_server_reads(served, tmp_path, change):
    path, (alter, what) = copied(served, tmp_path), ALTERED[change]
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    alter(saved.meta_graphs[0])
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())
    assert what in failures(path)


def test_check_counts_warm_up_records_and_their_rows(served, tmp_path):
    path = copied(served, tmp_path)
    few = [(name, {k: v[:1] for k, v in inputs.items()}) for name, inputs in warmup.read(path)]
    warmup.write(path, "map", few)
    assert failures(path) == {"batches"}
    warmup.write(path, "map", warmup.read(path) * 200)
    assert failures(path) == {"warm-up"}


def test_check_finds_weights_that_are_stored_twice_or_constants_too(served, tmp_path):
    served.encoder.export(tmp_path / "1", verbose=False)
    assert "weights" in failures(tmp_path / "1")
    kernel = np.random.default_rng(0).normal(size=(64, 50)).astype("float32")
    inputs = keras.Input((64,))
    both = keras.layers.Dense(50)(inputs) + keras.ops.matmul(inputs, kernel)
    encoder = keras.Model(inputs, keras.layers.Dense(2)(both))
    with pytest.raises(ValueError, match=r"weights: .* stored [23]\."):
        serving.export_saved_model(encoder, tmp_path)


def test_check_of_no_model_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"with a saved_model\.pb"):
        serving.check(tmp_path)
