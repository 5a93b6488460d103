"""Fits that learn from some of the rows and place the others."""

import errno
import os

import joblib
import keras
import numpy as np
import pytest
import scipy.sparse
from support.fits import GRAPH, PLACED

from ptsne_keras import MapRegressor, ParametricTSNE
from ptsne_keras.affinities import neighbors
from ptsne_keras.estimators import _fit_graph

SOME = {**PLACED, "max_train_rows": 200}


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


@pytest.fixture(scope="module")
def drawn(wide):
    return ParametricTSNE(**SOME).fit(wide)


def learned(tsne):
    """Which rows are in the reference: those that the fit has drawn."""
    reference = tsne.encoder_.layers[-1].reference()[1]
    return (tsne.embedding_[:, None] == reference).all(axis=2).any(axis=1)


def test_the_rows_that_are_not_learned_are_placed_as_new_ones(drawn, wide, tmp_path):
    assert drawn.embedding_.shape == (len(wide), 2)
    others = ~learned(drawn)
    assert others.sum() == len(wide) - 200
    np.testing.assert_array_equal(drawn.embedding_[others], drawn.transform(wide[others]))
    drawn.save(tmp_path / "map")
    loaded = ParametricTSNE.load(tmp_path / "map")
    np.testing.assert_array_equal(loaded.transform(wide), drawn.transform(wide))
    assert loaded.score(wide) == drawn.score(wide)


def test_every_form_of_rows_gives_the_same_map(drawn, wide, tmp_path):
    np.save(tmp_path / "rows.npy", wide.astype(np.float64))
    forms = [np.load(tmp_path / "rows.npy", mmap_mode="r"), scipy.sparse.csr_matrix(wide)]
    out = tmp_path / "map.npy"
    whole = ParametricTSNE(**SOME).fit(forms[0], embedding_out=out)
    np.testing.assert_array_equal(whole.embedding_, drawn.embedding_)
    np.testing.assert_array_equal(np.load(out), drawn.embedding_)
    assert isinstance(whole.embedding_, np.memmap)
    sparse = ParametricTSNE(**SOME).fit(forms[1])
    assert sparse.embedding_.shape == (len(wide), 2)
    np.testing.assert_allclose(sparse.embedding_, sparse.transform(wide), atol=1e-2)


def test_all_rows_can_be_written_too(placed, wide, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tsne = ParametricTSNE(**PLACED).fit(wide, embedding_out="~/new/map.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "new/map.npy"), placed.embedding_)
    assert tsne.embedding_.shape == (len(wide), 2)


def test_files_that_cannot_be_the_map_are_refused_before_the_fit(wide, tmp_path, monkeypatch):
    monkeypatch.setattr("ptsne_keras.estimators._fit_stages.fit", pytest.fail)
    np.save(tmp_path / "rows.npy", wide)
    (tmp_path / "folder.npy").mkdir()
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for out, message in (("rows.npy", "not be the file of X"), ("folder.npy", "be a file")):
        with pytest.raises(ValueError, match=f"embedding_out should {message}"):
            ParametricTSNE(**SOME).fit(rows, embedding_out=tmp_path / out)
    assert np.load(tmp_path / "rows.npy").shape == wide.shape


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(wide, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"map\.npy could not be written: the disk is full"):
        ParametricTSNE(**{**SOME, "epochs": 2}).fit(wide, embedding_out=tmp_path / "map.npy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [PLACED, {**GRAPH, "placement": False}], ids=["placed", "not"])
def test_a_fit_to_some_rows_goes_on_with_the_same_and_other_threads(options, wide, tmp_path):
    options = {**options, "max_train_rows": 200, "epochs": 4}
    tsne = ParametricTSNE(**options, n_jobs=1)
    tsne.fit(wide, callbacks=Stop(), checkpoint=tmp_path / "kept", checkpoint_seconds=0.0)
    assert len(tsne.embedding_) == len(wide)
    kept = [ParametricTSNE.load(tmp_path / "kept").set_params(n_jobs=jobs) for jobs in (1, 2)]
    for unfinished in (tsne, *kept):
        with pytest.raises(ValueError, match="X should be the rows of the unfinished fit"):
            unfinished.fit(wide[::-1], resume=True)
        unfinished.fit(wide, resume=True)
        assert len(unfinished.embedding_) == len(wide)
    np.testing.assert_array_equal(kept[0].embedding_, kept[1].embedding_)


def test_classes_are_those_of_the_rows_that_were_drawn(wide, monkeypatch):
    y, seen, real = np.arange(len(wide)) % 7, [], _fit_graph.with_labels

    def with_labels(graph, codes, *rest):
        seen.append(codes)
        return real(graph, codes, *rest)

    monkeypatch.setattr(_fit_graph, "with_labels", with_labels)
    tsne = ParametricTSNE(**SOME, label_weight=0.9).fit(wide, y)
    np.testing.assert_array_equal(seen, [y[learned(tsne)]])


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        (SOME, {"neighbors": True}, "max_train_rows should be None with neighbors"),
        (PLACED, {"embedding_out": "map.csv"}, "embedding_out should be a file that ends in .npy"),
        ({**PLACED, "max_train_rows": 3}, {}, "'max_train_rows' parameter"),
    ],
)
def test_what_cannot_be_is_refused(options, arguments, message, wide):
    if "neighbors" in arguments:
        others = (np.arange(len(wide))[:, None] + np.arange(1, 6)) % len(wide)
        arguments = {"neighbors": (others, np.ones(others.shape))}
    with pytest.raises(ValueError, match=message):
        ParametricTSNE(**options).fit(wide, **arguments)


CORES = joblib.cpu_count()


@pytest.mark.parametrize(
    ("n_jobs", "threads"),
    [(1, 1), (np.int64(2), min(2, CORES)), (10_000, CORES), (-1, CORES), (-10_000, 1)],
)
def test_n_jobs_limits_the_threads_of_the_search_and_of_the_freed_rows(
    n_jobs, threads, wide, monkeypatch
):
    import faiss
    import openTSNE

    seen, before = [], faiss.omp_get_max_threads()
    search, embedding = neighbors.Index.search, openTSNE.TSNEEmbedding

    def searched(*args, **options):
        seen.append(faiss.omp_get_max_threads())
        return search(*args, **options)

    def freed(*args, n_jobs, **options):
        seen.append(n_jobs)
        made = embedding(*args, n_jobs=n_jobs, **options)
        made.optimize = lambda iterations, **options: embedding.optimize(made, 2, **options)
        return made

    monkeypatch.setattr(neighbors.Index, "search", searched)
    monkeypatch.setattr(openTSNE, "TSNEEmbedding", freed)
    monkeypatch.setattr("ptsne_keras.training.descent._TREE_ROWS", 100)  # few rows take one thread
    wide = wide[:150]
    quick = PLACED | {"epochs": 1, "hidden_units": (8,)}
    tsne = ParametricTSNE(**quick, n_jobs=n_jobs).fit(wide)
    tsne.transform(wide)
    tsne.novelty(wide)
    tsne.extend(wide[:20] + 0.01, refine_new=True)
    MapRegressor(n_jobs=n_jobs).fit(wide, wide[:, :2]).transform(wide)
    assert len(seen) >= 8
    assert set(seen) == {threads}
    assert faiss.omp_get_max_threads() == before


def test_only_long_fits_are_compiled():
    short = {"jit_compile": False, "steps_per_execution": 1}
    assert [_fit_graph.compilation(9, 111), _fit_graph.compilation(3, 1)] == [short, short]
    assert _fit_graph.compilation(60, 100) == {"jit_compile": True, "steps_per_execution": 60}


def test_n_jobs_of_zero_is_refused(wide):
    with pytest.raises(ValueError, match="'n_jobs' parameter"):
        ParametricTSNE(**PLACED, n_jobs=0).fit(wide)
