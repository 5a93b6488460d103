"""Bulk embedding: batches of columns in, map coordinates out, alone and on Ray Data."""

import itertools
import os
import pickle
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from ptsne_keras import networks, serving
from ptsne_keras.io import maps
from ptsne_keras.serving import bulk

N, D = 100_000, 20
NAMES = [f"x{j}" for j in range(D)]


def rows(n):
    return np.random.default_rng(n).normal(5, 3, (n, D)).astype("float32")


def scalars(X):
    """A batch with a column of its own for each feature."""
    return {"id": 1000 + np.arange(len(X)), **dict(zip(NAMES, X.T, strict=True))}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    encoder = networks.encoder(D, hidden_units=(64, 64), activation="gelu", scaling=(5, 3), seed=0)
    base = tmp_path_factory.mktemp("served")
    path = serving.export_saved_model(encoder, base)
    return SimpleNamespace(encoder=encoder, base=base, path=path)


def embedded(batch):
    return np.column_stack([batch["embedding_1"], batch["embedding_2"]])


LAYOUTS = {
    "columns": scalars,
    "pandas": lambda X: pd.DataFrame(scalars(X)),
    "pyarrow": lambda X: pa.table(scalars(X)),
    "in another order": lambda X: dict(reversed(scalars(X).items())),
    "matrix": lambda X: {"v": X},
    "objects": lambda X: {"v": np.array([*map(list, X), None], dtype=object)[:-1]},
    "pyarrow lists": lambda X: pa.table({"v": X.tolist()}),
    "pyarrow lists of fixed size": lambda X: pa.table(
        {"v": pa.FixedSizeListArray.from_arrays(X.ravel(), D)}
    ),
    "pandas lists": lambda X: pd.DataFrame({"v": list(X)}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_columns_of_numbers_or_one_of_lists(exported, layout):
    X = rows(50)
    batch = LAYOUTS[layout](X)
    features, keep = (["v"], []) if "v" in list(batch) or "lists" in layout else (NAMES, ["id"])
    answer = serving.Embedder(exported.path, features, keep=keep)(batch)
    assert list(answer) == [*keep, "embedding_1", "embedding_2"]
    assert embedded(answer).dtype == np.float32
    np.testing.assert_allclose(embedded(answer), exported.encoder(X), atol=1e-6)
    if keep:
        np.testing.assert_array_equal(answer["id"], 1000 + np.arange(50))
    if layout != "in another order":
        rest = serving.Embedder(exported.path, keep=keep)(batch)
        np.testing.assert_array_equal(embedded(rest), embedded(answer))


def test_empty_batch(exported):
    answer = serving.Embedder(exported.path, NAMES, keep=["id"])(scalars(rows(0)))
    assert {name: len(column) for name, column in answer.items()} == dict.fromkeys(answer, 0)
    assert embedded(answer).dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_row_that_is_not_finite_is_named_by_what_is_kept(exported, value):
    X = rows(50)
    X[[7, 11, 20, 30], 3] = value
    batch = {"path": np.full(50, "part-3.parquet"), **scalars(X)}
    embed = serving.Embedder(exported.path, NAMES, keep=["path", "id"])
    with pytest.raises(ValueError, match=f"finite .* Received: {value} in 4 rows of 50") as error:
        embed(batch)
    assert "row 7 of the batch, path part-3.parquet, id 1007; row 11" in str(error.value)
    assert str(error.value).endswith("id 1020; ….")


RAGGED = [*rows(5).tolist()]
RAGGED[3] = RAGGED[3][:-1]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"v": np.ones((4, D - 1))}, "20 columns of numbers.* Received: 19 of dtype float64"),
        ({"v": np.full((4, D), "a")}, "20 columns of numbers.* Received: 20 of dtype <U1"),
        ({"v": np.full((4, D), 1e300)}, "finite as float32. Received: inf in 4 rows .* row 0 "),
        (pa.table({"v": RAGGED}), "have 20 features. Received: 19 in 1 rows .* row 3 "),
        ({"w": np.ones((4, D))}, r"columns \['v'\]. Received: \['w'\], without \['v'\]"),
    ],
)
def test_wrong_batches_are_refused(exported, batch, message):
    with pytest.raises(ValueError, match=message):
        serving.Embedder(exported.path, ["v"])(batch)


def test_base_path_takes_the_highest_version(exported, tmp_path):
    for version in ("9", "10", "2", "11.bak"):
        shutil.copytree(exported.path, tmp_path / version)
    embed = serving.Embedder(tmp_path, NAMES)
    assert embed.path == str(tmp_path / "10")
    answer = embed(scalars(rows(5)))
    np.testing.assert_allclose(embedded(answer), exported.encoder(rows(5)), atol=1e-6)


def test_missing_model_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="path should be a SavedModel's directory"):
            serving.Embedder(path)


def test_signature_that_is_not_there_or_of_something_else_is_refused(exported, tmp_path):
    embed = serving.Embedder(exported.path, NAMES, signature="other")
    message = r"should be one of .*'serving_default'.*Received: 'other'"
    with pytest.raises(ValueError, match=message):
        embed(scalars(rows(5)))
    model = tf.Module()
    model.call = tf.function(
        lambda text: {"length": tf.strings.length(text)},
        input_signature=[tf.TensorSpec([None], tf.string, name="text")],
    )
    tf.saved_model.save(model, str(tmp_path), {"serving_default": model.call})
    with pytest.raises(ValueError, match=r"Received: 'serving_default' of \['text'\]"):
        serving.Embedder(tmp_path)({"text": np.array(["a"])})


@pytest.mark.parametrize("names", [{"features": "x"}, {"keep": "id"}, {"features": ["x", "x"]}])
def test_names_that_are_no_list_are_refused(exported, names):
    with pytest.raises(ValueError, match="should be a list of distinct names"):
        serving.Embedder(exported.path, **names)


def test_pickled_one_is_small_and_loads_once_a_process(exported, monkeypatch):
    embed = serving.Embedder(exported.path, NAMES)
    expected = embedded(embed(scalars(rows(5))))
    pickled = pickle.dumps(embed)
    assert len(pickled) < 1000
    bulk._load.cache_clear()
    real, loads = tf.saved_model.load, []
    monkeypatch.setattr(tf.saved_model, "load", lambda path: loads.append(path) or real(path))
    for _ in range(3):
        answer = pickle.loads(pickled)(scalars(rows(5)))
        np.testing.assert_array_equal(embedded(answer), expected)
    assert loads == [str(exported.path)]


@pytest.fixture(scope="module")
def ray_data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        import ray.data

        patch.chdir(tmp_path_factory.mktemp("ray"))  # what Ray would send to its workers
        quiet = {"include_dashboard": False, "log_to_driver": False}
        ray.init(num_cpus=2, object_store_memory=150 * 2**20, **quiet)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield ray.data
        ray.shutdown()


@pytest.mark.slow
def test_every_row_of_parquet_once_through_ray(ray_data, exported, tmp_path):
    X, folder, out = rows(N), tmp_path / "rows", tmp_path / "embedded"
    folder.mkdir()
    ends = [0, 1, 30_000, 30_000, 55_555, 55_560, 80_000, 99_999, N]  # empty and short files
    for i, (start, end) in enumerate(itertools.pairwise(ends)):
        table = pa.table({**scalars(X[start:end]), "id": np.arange(start, end)})
        pq.write_table(table, folder / f"part-{i}.parquet")
    ray_data.read_parquet(str(folder)).map_batches(
        serving.Embedder,
        fn_constructor_kwargs={"path": str(exported.base), "features": NAMES, "keep": ["id"]},
        concurrency=2,
        num_cpus=0.5,  # else both CPUs are taken and none is left to read
        batch_size=4096,
    ).write_parquet(str(out))
    table = pq.read_table(out)
    assert sorted(table.column_names) == ["embedding_1", "embedding_2", "id"]
    order = table["id"].to_numpy()
    np.testing.assert_array_equal(np.sort(order), np.arange(N))
    Y = np.asarray(exported.encoder.predict(X, batch_size=4096, verbose=0))
    np.testing.assert_allclose(embedded(table.to_pandas()), Y[order], rtol=0, atol=1e-6)
    # What was written is a map.
    pq.write_table(table, tmp_path / "map.parquet")
    names = [str(i) for i in range(10)]
    read = maps.read(tmp_path / "map.parquet", ids="id").of(names)
    np.testing.assert_allclose(read, Y[:10], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_ray_reports_the_file_and_row_that_cannot_be_embedded(ray_data, exported, tmp_path):
    X = rows(100)
    X[42, 0] = np.nan
    pq.write_table(pa.table(scalars(X)), tmp_path / "bad.parquet")
    embedding = ray_data.read_parquet(str(tmp_path), include_paths=True).map_batches(
        serving.Embedder(exported.path, NAMES, keep=["path", "id"])
    )
    with pytest.raises(Exception, match=r"nan in 1 rows .* path \S*bad.parquet, id 1042"):
        embedding.materialize()


@pytest.fixture
def folder(tmp_path):
    """Rows in files of a few thousand, one of them empty and one in a folder of its own."""
    X, ends = rows(20_000), [0, 0, 9_000, 13_000, 20_000]
    for i, (start, end) in enumerate(itertools.pairwise(ends)):
        file = tmp_path / "rows" / ("more/part.parquet" if i == 3 else f"part-{i}.parquet")
        file.parent.mkdir(exist_ok=True, parents=True)
        table = pa.table({**scalars(X[start:end]), "id": np.arange(start, end)})
        pq.write_table(table, file)
    return SimpleNamespace(X=X, rows=tmp_path / "rows", out=tmp_path / "embedded", path=tmp_path)


def assert_every_row_once(folder, exported):
    files = sorted(folder.out.rglob("*"))
    assert sum(file.is_file() for file in files) == 4, files  # and nothing half written
    parts = [pq.read_table(file) for file in folder.out.rglob("*.parquet")]
    table = pa.concat_tables(parts).sort_by("id")
    np.testing.assert_array_equal(table["id"], np.arange(20_000))
    Y = np.asarray(exported.encoder.predict(folder.X, batch_size=4096, verbose=0))
    np.testing.assert_allclose(embedded(table.to_pandas()), Y, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_worker_that_dies_leaves_every_row_written_once(ray_data, exported, folder):
    flag = folder.path / "died"

    class Dying(serving.Embedder):
        def __call__(self, batch):
            if len(batch) and not flag.exists():  # in the middle of a file
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    embed = Dying(exported.path, NAMES, keep=["id"])
    written = serving.embed_parquet(folder.rows, folder.out, embed, workers=2)
    assert flag.exists()
    assert len(written) == 4
    assert_every_row_once(folder, exported)


@pytest.mark.slow
def test_a_second_run_writes_what_is_missing(ray_data, exported, folder):
    embed = serving.Embedder(exported.path, NAMES, keep=["id"])
    bad = folder.rows / "part-2.parquet"
    good = pq.read_table(bad)
    broken = good.set_column(1, "x0", pa.array(np.full(len(good), np.nan)))
    pq.write_table(broken, bad)
    with pytest.raises(
        Exception, match=r"part-2.parquet: Each row should be finite.* nan in 4000 rows"
    ):
        serving.embed_parquet(folder.rows, folder.out, embed)
    pq.write_table(good, bad)
    before = {file: file.stat().st_mtime_ns for file in folder.out.rglob("*.parquet")}
    written = serving.embed_parquet(folder.rows, folder.out, embed)
    assert folder.out / "part-2.parquet" in written
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len(before) + len(written) == 4
    assert_every_row_once(folder, exported)
    assert serving.embed_parquet(folder.rows, folder.out, embed) == []


def test_a_folder_without_files_is_refused(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"rows should be a folder of \.parquet files"):
        serving.embed_parquet(tmp_path, tmp_path, serving.Embedder(exported.path))


def test_a_folder_in_the_rows_is_refused(exported, folder):
    for out in (folder.rows, folder.rows / "embedded"):
        with pytest.raises(ValueError, match="out should be outside rows"):
            serving.embed_parquet(folder.rows, out, serving.Embedder(exported.path))


def test_what_is_kept_stays_as_it_was(exported, tmp_path):
    n = bulk._BLOCK + 9
    kept = {
        "text": pa.array([f"s{i}" for i in range(n - 1)] + [None]),
        "whole": pa.array([*range(n - 1), None]),
        "time": pa.array(range(n), pa.timestamp("us", "UTC")),
        "lists": pa.array([[i] for i in range(n)]),
    }
    columns = {**kept, **dict(zip(NAMES, rows(n).T, strict=True))}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    embed = serving.Embedder(exported.path, NAMES, keep=list(kept))
    bulk._FileEmbedder(tmp_path, tmp_path / "out", embed)({"item": "a.parquet"})
    found = pq.read_table(tmp_path / "out/a.parquet")
    assert found.select(list(kept)).equals(pa.table(kept))
    assert found.column_names == [*kept, "embedding_1", "embedding_2"]
