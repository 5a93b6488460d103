"""SavedModel export: the folder that a server polls, and arguments that are refused."""

import errno
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.processes import disk_calls

from ptsne_keras import networks, serving
from ptsne_keras.serving import export

FEATURES = 64


@pytest.fixture
def quick_write(monkeypatch):
    """Replace the model by one small file, where only directories are looked at."""

    def write(encoder, judge, path, options):
        path.mkdir()
        (path / "saved_model.pb").write_text("new")

    monkeypatch.setattr(export, "_write", write)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_facts_go_along_and_the_folder_holds_nothing_but_the_version(small_encoder, tmp_path):
    path = serving.export_saved_model(small_encoder, tmp_path, dof=1.75)
    assert path == tmp_path / "1"
    assert names(tmp_path) == ["1"]
    assert json.loads((path / "assets.extra/ptsne_keras.json").read_text()) == {"dof": 1.75}


@pytest.mark.usefixtures("quick_write")
def test_default_version_follows_the_highest(small_encoder, tmp_path):
    for name in ("v7", "8.bak", ".9-abc", "assets", "-5"):  # no versions
        (tmp_path / name).mkdir()
    taken = [serving.export_saved_model(small_encoder, tmp_path).name for _ in range(2)]
    assert taken == ["1", "2"]
    # 10 and 9: as text "9" would be the higher one.
    for version in (10, 9):
        serving.export_saved_model(small_encoder, tmp_path, version)
    assert serving.export_saved_model(small_encoder, tmp_path) == tmp_path / "11"


@pytest.mark.usefixtures("quick_write")
@pytest.mark.parametrize("version", [0, 1, 20260131])
def test_explicit_version_is_taken(small_encoder, tmp_path, version):
    path = serving.export_saved_model(small_encoder, str(tmp_path / "new" / "base"), version)
    assert path == tmp_path / "new" / "base" / str(version)
    assert names(path) == ["saved_model.pb"]


@pytest.mark.usefixtures("quick_write")
@pytest.mark.parametrize("taken", ["7", "007"])
def test_existing_version_is_refused_and_left_untouched(small_encoder, tmp_path, taken):
    (tmp_path / taken).mkdir()
    (tmp_path / taken / "saved_model.pb").write_text("old")
    with pytest.raises(FileExistsError, match="should be a new one"):
        serving.export_saved_model(small_encoder, tmp_path, 7)
    assert names(tmp_path) == [taken]
    assert (tmp_path / taken / "saved_model.pb").read_text() == "old"
    assert serving.export_saved_model(small_encoder, tmp_path).name == "8"


def test_version_taken_during_the_write_is_left_untouched(small_encoder, tmp_path, monkeypatch):
    def write_while_another_finishes(encoder, judge, path, options):
        for folder, text in ((path, "ours"), (tmp_path / "1", "theirs")):
            folder.mkdir()
            (folder / "saved_model.pb").write_text(text)

    monkeypatch.setattr(export, "_write", write_while_another_finishes)
    with pytest.raises(FileExistsError):
        serving.export_saved_model(small_encoder, tmp_path, 1)
    assert names(tmp_path) == ["1"]
    assert (tmp_path / "1" / "saved_model.pb").read_text() == "theirs"


@pytest.mark.usefixtures("quick_write")
def test_exports_at_the_same_time_take_versions_of_their_own(small_encoder, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        exported = list(pool.map(serving.export_saved_model, [small_encoder] * 8, [tmp_path] * 8))
    assert sorted(path.name for path in exported) == names(tmp_path) == list("12345678")


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    tf.errors.ResourceExhaustedError(None, None, "variables; No space left on device"),
    RuntimeError("of another process: No space left on device"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(
    error, small_encoder, tmp_path, monkeypatch
):
    def write_half(encoder, judge, path, options):
        (path / "variables").mkdir(parents=True)
        (path / "saved_model.pb").write_text("half")
        raise error

    monkeypatch.setattr(export, "_write", write_half)
    with pytest.raises(OSError, match=r"could not be written: the disk is full; free space .*\.$"):
        serving.export_saved_model(small_encoder, tmp_path)
    assert names(tmp_path) == []


def test_version_appears_only_when_it_is_complete(small_encoder, tmp_path, monkeypatch):
    real_write, seen = export._write, {}

    def watched_write(encoder, judge, path, options):
        real_write(encoder, judge, path, options)
        seen["names"] = names(tmp_path)
        seen["files"] = {p.relative_to(path): p.stat().st_ino for p in path.rglob("*")}

    monkeypatch.setattr(export, "_write", watched_write)
    target = serving.export_saved_model(small_encoder, tmp_path)
    # A server takes integer names for versions; all else it ignores.
    assert len(seen["names"]) == 1
    assert not seen["names"][0].isdecimal()
    # The same inodes: renamed in one step, not copied file by file.
    assert {p.relative_to(target): p.stat().st_ino for p in target.rglob("*")} == seen["files"]
    assert Path("saved_model.pb") in seen["files"]


def test_all_of_it_is_flushed_before_it_appears(tmp_path, quick_write, small_encoder, monkeypatch):
    calls = disk_calls(monkeypatch)
    target = serving.export_saved_model(small_encoder, tmp_path / "base")
    kinds = [kind for kind, _ in calls]
    assert kinds == ["fsync", "fsync", "rename", "fsync", "fsync"]
    assert [path.name for _, path in calls[:2]] == ["saved_model.pb", "1"]
    assert [path for _, path in calls[2:]] == [target, tmp_path / "base", tmp_path]


def test_weights_are_written_once(tmp_path):
    encoder = networks.encoder(FEATURES, 2, seed=0)  # of the paper's widths
    path = serving.export_saved_model(encoder, tmp_path)
    parameters = sum(np.asarray(weight).nbytes for weight in encoder.weights)
    on_disk = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    bound = 1.1 * parameters + 1e6
    assert bound < 2 * parameters, "too small an encoder for this test to notice a second copy"
    assert parameters < on_disk < bound


@pytest.mark.parametrize("own", [False, True], ids=["networks.encoder", "own"])
def test_mixed_precision_encoder_answers_float32(tmp_path, own):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layers = [keras.Input((FEATURES,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(2)]
        encoder = networks.encoder(FEATURES, 2, hidden_units=(16,), seed=0)
        # In a user's own network the last layer follows the policy: its output is bfloat16.
        encoder = keras.Sequential(layers) if own else encoder
    finally:
        keras.config.set_dtype_policy("float32")
    assert "bfloat16" in {layer.compute_dtype for layer in encoder.layers}
    path = serving.export_saved_model(encoder, tmp_path)
    rows = np.random.default_rng(0).standard_normal((7, FEATURES)).astype("float32")
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    answer = signature(features=tf.constant(rows))["embedding"]
    assert answer.dtype == tf.float32
    expected = keras.ops.cast(encoder(rows, training=False), "float32")
    # bfloat16 keeps 8 bits; a rounding that falls the other way shows as 2**-8.
    np.testing.assert_allclose(answer, expected, rtol=2**-7, atol=2**-7)


@pytest.mark.slow
def test_another_process_writes_the_same_model(small_encoder, tmp_path, monkeypatch):
    """As on other backends; a warm-up under the name that was given, novelty of all rows."""
    X = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
    decoder = networks.encoder(2, 3, hidden_units=(4,), seed=0)
    options = {"reference": X, "dof": 2, "decoder": decoder}
    here = serving.export_saved_model(small_encoder, tmp_path / "a" / "map", **options)
    monkeypatch.setattr(export, "_write", export._write_elsewhere)
    there = serving.export_saved_model(small_encoder, tmp_path / "b" / "map", **options)
    for file in ("assets.extra/tf_serving_warmup_requests", "assets.extra/ptsne_keras.json"):
        assert (here / file).read_bytes() == (there / file).read_bytes()
    models = [tf.saved_model.load(str(path)) for path in (here, there)]
    answers = [m.signatures["embed_with_novelty"](features=tf.constant(X)) for m in models]
    for name in ("embedding", "novelty"):
        np.testing.assert_array_equal(answers[0][name], answers[1][name])
    back = [m.signatures["inverse"](embedding=tf.constant(X[:, :2]))["features"] for m in models]
    np.testing.assert_array_equal(*back)


@pytest.mark.slow
def test_another_process_that_fails_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    class Own(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    inputs = keras.Input((3,))
    encoder = keras.Model(inputs, keras.layers.Dense(2)(Own()(inputs)))
    monkeypatch.setattr(export, "_write", export._write_elsewhere)
    with pytest.raises(RuntimeError, match=r"encoder should be one that Keras loads .*'Own'"):
        serving.export_saved_model(encoder, tmp_path)
    assert names(tmp_path) == []


def no_maps():
    inputs = [keras.Input((3,)), keras.Input((3,))]
    dense, rows = keras.layers.Dense(2), keras.Input((5, 3))
    return [
        pytest.param(keras.Model(inputs, dense(keras.layers.Add()(inputs))), id="two inputs"),
        pytest.param(keras.Model(inputs[0], [dense(inputs[0])] * 2), id="two outputs"),
        pytest.param(keras.Model(rows, dense(rows[:, 0])), id="sequences"),
        pytest.param(keras.Sequential([keras.layers.Dense(2)]), id="unbuilt"),
    ]


@pytest.mark.parametrize("encoder", no_maps())
def test_encoder_that_is_not_matrix_to_matrix_is_refused(tmp_path, encoder):
    for export_it in (serving.export_saved_model, serving.export_onnx, serving.export_litert):
        suffix = {"export_onnx": ".onnx", "export_litert": ".tflite"}.get(export_it.__name__, "")
        with pytest.raises(ValueError, match=r"encoder should be .* one input"):
            export_it(encoder, tmp_path / f"map{suffix}")
    assert names(tmp_path) == []


def test_encoder_of_a_name_that_tensorflow_does_not_take_is_refused(tmp_path):
    layers = [keras.Input((3,)), keras.layers.Dense(2)]
    with pytest.raises(ValueError, match="encoder should have a name"):
        serving.export_saved_model(keras.Sequential(layers, name="my model"), tmp_path / "map")
    assert names(tmp_path) == []


WRONG = [
    *[({"version": v}, "version should be an integer") for v in (-1, "1", True, 1.0, 2**63)],
    *[({"dof": d}, "dof should be a number above 0") for d in (0, -1.0, np.nan, np.inf, "learn")],
    *[({"reference": np.zeros(n)}, "two or more rows of 3 columns") for n in ((9, 5), (1, 3), 3)],
    ({"precision": "bfloat16"}, "reference should be given"),
    ({"precision": "float16"}, 'precision should be "float32" or "bfloat16"'),
    ({"directory": "[map]*"}, "directory should not contain"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments_are_refused_and_make_nothing(small_encoder, tmp_path, arguments, message):
    directory = tmp_path / arguments.get("directory", "new")
    with pytest.raises(ValueError, match=message):
        serving.export_saved_model(small_encoder, **{**arguments, "directory": directory})
    assert names(tmp_path) == []  # not even the base directory
