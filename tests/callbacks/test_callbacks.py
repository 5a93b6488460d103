import itertools
import signal
import subprocess
import sys
import textwrap

import keras
import matplotlib.image
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import ProjectorConfig

from ptsne_keras import callbacks, losses
from ptsne_keras.data import batches


@pytest.fixture
def X(X):
    return X[:60]


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(0.05), loss=losses.TSNE())
    return model


def fit(model, X, *given, epochs=5, **options):
    data = batches.from_array(X, 8, 30, seed=0)
    return model.fit(data, epochs=epochs, verbose=0, callbacks=list(given), **options)


def test_geometric_schedule():
    schedule = callbacks.geometric(80, 5, epochs=4)
    assert [schedule(e) for e in (0, 1, 2, 3, 4, 9)] == pytest.approx([80, 40, 20, 10, 5, 5])
    with pytest.raises(ValueError, match="epochs should be above 0"):
        callbacks.geometric(100, 10, epochs=0)


def test_perplexity_anneals_through_the_pipeline(X, model):
    """Each epoch's batches have the perplexity of that epoch."""
    perplexity = callbacks.Schedule(callbacks.geometric(20, 5, epochs=2))
    data = batches.from_array(X, perplexity.value, 30, shuffle=False)
    seen = []

    def look(epoch, logs):
        fixed = batches.from_array(X, 20 / 2**epoch, 30, shuffle=False)
        (_, P), (_, expected) = next(iter(data)), next(iter(fixed))
        np.testing.assert_allclose(P, expected, atol=1e-7)
        seen.append(epoch)

    at_end = keras.callbacks.LambdaCallback(on_epoch_end=look)
    model.fit(data, epochs=3, verbose=0, callbacks=[perplexity, at_end])
    assert seen == [0, 1, 2]


@pytest.mark.slow
def test_graph_batches_anneal_too(X, model):
    perplexity = callbacks.Schedule(callbacks.geometric(15, 3, epochs=4))
    data = batches.from_graph(X, perplexity.value, 20, seed=0)

    def mean_distance():
        x = np.concatenate([x for _ in range(20) for x, _ in data])
        half = [np.split(part, 2) for part in np.split(x, len(x) // 20)]
        return np.mean([np.square(a - b).sum(1).mean() for a, b in half])

    wide = mean_distance()
    model.fit(data, epochs=5, verbose=0, callbacks=[perplexity])
    assert mean_distance() < 0.8 * wide


def test_a_perplexity_that_grew_beyond_the_neighbours_is_named(X):
    perplexity = tf.Variable(3.0)
    data = batches.from_graph(X, perplexity, 20, seed=0)
    perplexity.assign(9.5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="below the 9 neighbours"):
        next(iter(data))


def test_a_schedule_may_be_made_in_the_scope_of_a_strategy(X):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        perplexity = callbacks.Schedule(lambda epoch: 5.0)
    for make in (batches.from_array, batches.from_graph):
        _, P = next(iter(make(X, perplexity.value, 20, seed=0)))
        assert np.isfinite(P).all()


def test_order_derives_from_the_epoch(X):
    epoch = callbacks.Schedule()
    data = batches.from_array(X, 8, 30, seed=0, epoch=epoch.value)
    graph = batches.from_graph(X, 8, 20, seed=0, epoch=epoch.value, jitter=0.5)
    for pipeline in (data, graph):
        passes = []
        for number in (0, 1, 0):
            epoch.on_epoch_begin(number)
            passes.append(np.concatenate([x for x, _ in pipeline]))
        np.testing.assert_array_equal(passes[0], passes[2])
        assert not np.array_equal(passes[0], passes[1])


def names_in(folder, pattern="*"):
    return sorted(path.name for path in folder.glob(pattern))


class TestMapSnapshots:
    def test_pictures_and_an_animation(self, X, model, tmp_path):
        labels = np.arange(60) % 3
        fit(model, X, callbacks.MapSnapshots(X, tmp_path / "maps", labels=labels, epochs=2))
        names = [f"epoch_000{n}{suffix}" for n in (2, 4, 5) for suffix in (".npy", ".png")]
        assert names_in(tmp_path / "maps") == [*names, "map.gif"]
        picture = matplotlib.image.imread(tmp_path / "maps/epoch_0005.png")
        assert picture[..., :3].std() > 0.05
        with Image.open(tmp_path / "maps/map.gif") as animation:
            assert animation.n_frames == 3

    def test_each_map_lies_as_the_one_before(self, X, model, tmp_path):
        def turn(epoch, logs):
            kernel, bias = model.get_weights()
            angle = 1.0 + epoch
            R = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])
            model.set_weights([kernel @ R, bias @ R + 50])

        model.optimizer.learning_rate = 1e-4
        snapshots = callbacks.MapSnapshots(X, tmp_path, epochs=1, animation=None)
        fit(model, X, keras.callbacks.LambdaCallback(on_epoch_begin=turn), snapshots)
        maps = [np.load(path) for path in sorted(tmp_path.glob("*.npy"))]
        assert len(maps) == 5
        for before, after in itertools.pairwise(maps):
            assert np.abs(after - before).max() < 0.02 * np.abs(before).max()
        Y = model(X).numpy()
        shape = np.linalg.svd(Y - Y.mean(0), compute_uv=False)  # not scaled
        np.testing.assert_allclose(np.linalg.svd(maps[-1], compute_uv=False), shape, rtol=1e-4)

    @pytest.mark.slow
    def test_a_resumed_run_goes_on_with_its_pictures(self, X, model, tmp_path):
        snapshots = callbacks.MapSnapshots(X, tmp_path, epochs=[1, 3])
        fit(model, X, snapshots, epochs=4)
        fit(model, X, snapshots, epochs=6, initial_epoch=2)
        assert names_in(tmp_path, "*.png") == [f"epoch_000{n}.png" for n in (1, 3, 6)]
        others = callbacks.MapSnapshots(X[:9], tmp_path, epochs=1)
        with pytest.raises(ValueError, match="maps of the same 9 rows, or none"):
            fit(model, X, others, epochs=8, initial_epoch=7)

    def test_the_last_map_is_kept_where_training_stops_early(self, X, model, tmp_path):
        stop = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 2)
        )
        snapshots = callbacks.MapSnapshots(X, tmp_path / "maps", epochs=2)
        fit(model, X, stop, snapshots, callbacks.Projector(X, tmp_path, epochs=np.int64(2)))
        assert names_in(tmp_path / "maps", "*.png") == ["epoch_0002.png", "epoch_0003.png"]
        assert names_in(tmp_path, "map_*.tsv") == ["map_0002.tsv", "map_0003.tsv"]
        with Image.open(tmp_path / "maps/map.gif") as animation:
            assert animation.n_frames == 2

    @pytest.mark.parametrize("kind", [scipy.sparse.csr_array, np.ndarray.tolist])
    def test_rows_that_are_no_array(self, X, model, tmp_path, kind):
        snapshots = callbacks.MapSnapshots(kind(X), tmp_path, animation=None)
        fit(model, X, snapshots, epochs=1)
        Y = model(X).numpy()
        np.testing.assert_allclose(np.load(tmp_path / "epoch_0001.npy"), Y - Y.mean(0), atol=1e-5)

    def test_a_map_that_is_not_flat_is_refused_as_training_begins(self, X, tmp_path):
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
        model.compile("adam", loss=losses.TSNE())
        with pytest.raises(ValueError, match=r"should get maps \[B, 2\]"):
            fit(model, X, callbacks.MapSnapshots(X, tmp_path), epochs=1)

    def test_a_map_that_is_not_finite_is_named(self, X, model, tmp_path):
        model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
        with pytest.raises(ValueError, match=r"map should be finite.*after epoch 1"):
            fit(model, X, callbacks.MapSnapshots(X, tmp_path), epochs=1)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            *[({"X": X}, "X should have one or more rows") for X in (None, [], [3], [[], []])],
            *[({"epochs": n}, "one or more integers") for n in (0, 2.5, [], [1, 0], "3", True)],
            ({"labels": [1, 2]}, "labels should have one value per row, 60"),
            ({"animation": "map.avi"}, r'name that ends in "\.gif" or "\.mp4"'),
            ({"animation": "folder/map.gif"}, r'name that ends in "\.gif" or "\.mp4"'),
            ({"animation": "map.mp4"}, "where ffmpeg is missing"),
        ],
        ids=str,
    )
    def test_bad_input_is_reported_at_once(self, X, monkeypatch, options, message):
        monkeypatch.setenv("PATH", "")
        with pytest.raises(ValueError, match=message):
            callbacks.MapSnapshots(**{"X": X, "folder": "maps", **options})


@pytest.mark.slow
def test_projector_files_say_what_the_map_is(X, model, tmp_path):
    (tmp_path / "map_0009.tsv").write_text("of a longer run")
    labels = [f"class\t\n{i % 3}" for i in range(60)]
    projector = callbacks.Projector(X, tmp_path, labels=labels, epochs=2)
    board = keras.callbacks.TensorBoard(tmp_path)
    fit(model, X, projector, board)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "map_0005.tsv"), model(X), rtol=1e-4)
    assert (tmp_path / "labels.tsv").read_text().splitlines()[:2] == ["class 0", "class 1"]
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert [e.tensor_name for e in config.embeddings] == ["map_0002", "map_0004", "map_0005"]
    assert {e.metadata_path for e in config.embeddings} == {"labels.tsv"}
    assert config.embeddings[2].tensor_path == "map_0005.tsv"
    assert not (tmp_path / "map_0009.tsv").exists()
    assert any((tmp_path / "train").glob("events.out.tfevents.*"))


RUN = """
    import os, signal, sys
    import keras, numpy as np
    from ptsne_keras import callbacks, losses
    from ptsne_keras.data import batches

    class Die(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            print(epoch)
            self.now = epoch == int(sys.argv[2])

        def on_train_batch_end(self, batch, logs=None):
            if self.now:
                os.kill(os.getpid(), signal.SIGKILL)

    keras.utils.set_random_seed(0)
    X = np.random.default_rng(0).normal(size=(60, 5)).astype("float32")
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(20, "relu"),
                              keras.layers.Dense(2)])
    exaggeration = callbacks.Schedule(lambda epoch: 4.0 if epoch < 5 else 1.0)
    perplexity = callbacks.Schedule(callbacks.geometric(20, 5, epochs=10))
    epoch = callbacks.Schedule()
    model.compile(keras.optimizers.Adam(0.01), loss=losses.TSNE(exaggeration=exaggeration.value))
    data = batches.from_array(X, perplexity.value, 30, seed=0, epoch=epoch.value)
    backup = keras.callbacks.BackupAndRestore(sys.argv[1], double_checkpoint=True)
    history = model.fit(data, epochs=16, verbose=0,
                        callbacks=[backup, exaggeration, perplexity, epoch, Die()])
    print("loss", history.history["loss"][-1])
"""


def run(folder, dies_in, code=0):
    """The words that a run prints, which dies in an epoch."""
    command = [sys.executable, "-c", textwrap.dedent(RUN), str(folder), str(dies_in)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=600)
    assert done.returncode == code
    return done.stdout.split()


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """Kill -9 in mid-run, start again: the same final loss, schedules and order included."""
    whole = run(tmp_path / "whole", -1)
    run(tmp_path / "killed", 8, code=-signal.SIGKILL)
    resumed = run(tmp_path / "killed", -1)
    assert resumed[:-2] == [str(epoch) for epoch in range(8, 16)]
    assert float(resumed[-1]) == pytest.approx(float(whole[-1]), rel=1e-5)
