"""A fit that was stopped goes on, and comes to what it would have been."""

import functools
import signal

import keras
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from ptsne_keras import MapRegressor, ParametricTSNE, training
from ptsne_keras.affinities.neighbors import Index
from ptsne_keras.callbacks import Interruption, progress
from ptsne_keras.estimators import _fit_graph, _fit_stages

QUICK = {"hidden_units": (20,), "perplexity": 5.0, "random_state": 0}
BATCH = {"sampling": "batch", "batch_size": 30}
WAYS = {
    "graph": {"epochs": 20, "batch_size": 32},
    "projected": {"epochs": 400, "batch_size": 512, "initial_dims": 3},
    "batch": {"epochs": 6, **BATCH},
    "conjugate gradients": {"epochs": 4, "sampling": "fixed", "batch_size": 30, "optimizer": "cg"},
    "learned degrees of freedom": {"epochs": 12, **BATCH, "dof": "learn"},
}


class Stop(keras.callbacks.Callback):
    """Stops after so many epochs and batches, and notes what the optimizer looks like."""

    def __init__(self, epochs, batches=None):
        super().__init__()
        self.epochs, self.batches = epochs, batches
        self.seen, self.iterations = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(epoch)
        self.iterations.append(int(self.model.optimizer.iterations))

    def on_train_batch_end(self, batch, logs=None):
        if self.batches is not None and len(self.seen) > self.epochs and batch + 1 >= self.batches:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self.batches is None and len(self.seen) == self.epochs:
            self.model.stop_training = True


@pytest.fixture(scope="module")
def whole():
    """Fits that nothing stops, by their way."""
    X = np.random.default_rng(0).normal(size=(90, 5)).astype("float32")
    return functools.cache(lambda way: ParametricTSNE(**QUICK, **WAYS[way]).fit(X))


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[pytest.mark.slow] * (way != "graph")) for way in WAYS]
)
def test_a_stopped_fit_goes_on_where_it_was(way, whole, X, tmp_path):
    settings, whole = WAYS[way], whole(way)
    tsne = ParametricTSNE(**QUICK, **settings)
    stop, later = Stop(3), Stop(-1)
    tsne.fit(X, callbacks=[stop])
    assert tsne.transform(X).shape == (90, 2)
    before = tsne.history_["finetune"]["loss"]
    assert len(before) == 3
    done = tsne.history_["stopped"]
    tsne.save(tmp_path / "map")
    again = ParametricTSNE.load(tmp_path / "map")
    assert np.array_equal(again.transform(X), tsne.transform(X))
    again.fit(X, callbacks=[later], resume=True)
    curve = again.history_["finetune"]["loss"]
    assert later.seen[0] == 3
    if "optimizer" not in settings:  # Adam's own steps go on
        assert later.iterations[0] == 3 * (later.iterations[1] - later.iterations[0]) > 0
    assert len(curve) == len(whole.history_["finetune"]["loss"])
    assert curve[:3] == before
    assert curve[3] < before[0] + 0.05
    assert "stopped" not in again.history_
    assert done * len(curve) == 3 * settings["epochs"]
    assert again.kl_divergence_ == pytest.approx(whole.kl_divergence_, abs=0.3)
    assert (again.dof_ == 1.0) == ("dof" not in settings)


class Die(Stop):
    """Ends the fit as the end of its process would."""

    def on_train_batch_end(self, batch, logs=None):
        if len(self.seen) > self.epochs:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        pass


@pytest.mark.parametrize(
    "way",
    [
        "batch",
        pytest.param("graph", marks=pytest.mark.slow),
        pytest.param("conjugate gradients", marks=pytest.mark.slow),
    ],
)
def test_a_fit_that_died_goes_on_from_its_checkpoint(way, whole, X, tmp_path):
    settings, whole = {**QUICK, **WAYS[way]}, whole(way)
    often = {"checkpoint": tmp_path / "kept", "checkpoint_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        ParametricTSNE(**settings).fit(X, callbacks=[Die(2)], **often)
    kept = ParametricTSNE.load(tmp_path / "kept")
    assert kept.history_["stopped"] >= 1
    assert np.array_equal(kept.embedding_, kept.transform(X))
    kept.fit(X, resume=True)
    assert len(kept.history_["finetune"]["loss"]) == len(whole.history_["finetune"]["loss"])
    assert kept.kl_divergence_ == pytest.approx(whole.kl_divergence_, abs=0.3)
    checked = ParametricTSNE(**settings).fit(X, **often)
    assert "stopped" not in checked.history_
    np.testing.assert_array_equal(checked.embedding_, whole.embedding_)


def test_a_fit_that_died_after_training_does_not_train_or_search_again(
    whole, X, tmp_path, monkeypatch
):
    settings, kept, whole = {**QUICK, **WAYS["graph"]}, tmp_path / "kept", whole("graph")
    monkeypatch.setattr(_fit_graph, "_LONG_SEARCH", 0.0)
    monkeypatch.setattr(_fit_stages, "_LONG_TRAINING", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(training, "refine", dying)
        with pytest.raises(KeyboardInterrupt):
            ParametricTSNE(**settings).fit(X, checkpoint=kept)
    tsne, later, searched = ParametricTSNE.load(kept), Stop(-1), []
    real = Index.search
    monkeypatch.setattr(Index, "search", lambda *a, **o: (searched.append(a[1]), real(*a, **o))[1])
    tsne.fit(X, resume=True, checkpoint=kept, callbacks=[later])
    assert later.seen == []
    assert not any(rows is None for rows in searched)
    np.testing.assert_array_equal(tsne.embedding_, whole.embedding_)
    ParametricTSNE(**settings).fit(X[::-1], checkpoint=kept)  # of other rows
    assert any(rows is None for rows in searched)


def dying(*_, **__):
    raise KeyboardInterrupt


def test_a_checkpoint_that_cannot_be_written_is_no_reason_to_stop(X, tmp_path):
    (tmp_path / "file").write_text("mine")
    often = {"checkpoint": tmp_path / "file", "checkpoint_seconds": 0}
    tsne = ParametricTSNE(**QUICK, **WAYS["batch"])
    with pytest.warns(UserWarning, match="The checkpoint is not up to date: path should be a fol"):
        tsne.fit(X[:30], **often)
    assert "stopped" not in tsne.history_


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_each_signal_that_ends_a_process_stops_after_the_step(name, X):
    number, calls = getattr(signal, name), []
    before = signal.signal(number, lambda *_: calls.append("theirs"))
    try:
        with Interruption() as interruption:
            raising = keras.callbacks.LambdaCallback(
                on_train_batch_begin=lambda batch, logs=None: signal.raise_signal(number)
            )
            tsne = ParametricTSNE(**QUICK, **WAYS["batch"])
            tsne.fit(X[:30], callbacks=[raising, interruption])
        assert (tsne.history_["stopped"], interruption.requested) == (1, True)
        with Interruption(), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)  # before training
        signal.raise_signal(number)
        assert calls == ["theirs"]
        signal.signal(number, signal.SIG_IGN)
        with Interruption() as interruption:
            signal.raise_signal(number)
        assert not interruption.requested
    finally:
        signal.signal(number, before)


@pytest.mark.slow
def test_fixed_batches_go_on_to_the_same_map(whole, X):
    settings, whole = {**QUICK, **WAYS["conjugate gradients"]}, whole("conjugate gradients")
    stopped = ParametricTSNE(**settings).fit(X, callbacks=[Stop(2)]).fit(X, resume=True)
    np.testing.assert_allclose(stopped.embedding_, whole.embedding_, atol=1e-3)


@pytest.mark.parametrize(
    "way", ["batch", pytest.param("conjugate gradients", marks=pytest.mark.slow)]
)
def test_an_epoch_that_was_begun_is_done_again_even_twice(way, X):
    tsne = ParametricTSNE(**QUICK, **WAYS[way]).fit(X, callbacks=[Stop(2, batches=1)])
    assert tsne.history_["stopped"] == 2
    assert len(tsne.history_["finetune"]["loss"]) == 3  # what was begun is seen
    later = Stop(1)
    tsne.fit(X, callbacks=[later], resume=True)
    assert (later.seen, tsne.history_["stopped"]) == ([2], 3)
    tsne.fit(X, resume=True)
    assert len(tsne.history_["finetune"]["loss"]) == WAYS[way]["epochs"]


def test_only_what_is_unfinished_goes_on(X):
    tsne = ParametricTSNE(**QUICK, **WAYS["batch"])
    with pytest.raises(NotFittedError):
        tsne.fit(X, resume=True)
    tsne.fit(X)
    with pytest.raises(ValueError, match="resume should be False: the fit reached its end"):
        tsne.fit(X, resume=True)
    tsne.fit(X, callbacks=[Stop(2)])
    for others in (X[::-1], X[:80]):
        with pytest.raises(ValueError, match="X should be the rows of the unfinished fit"):
            tsne.fit(others, resume=True)
    with pytest.raises(ValueError, match="Received: another epochs, perplexity"):
        tsne.set_params(epochs=20, perplexity=6).fit(X, resume=True)


def test_a_regressor_that_is_stopped_places_rows(X):
    regressor = MapRegressor(objective="squares", random_state=0, batch_size=32, epochs=30)
    regressor.fit(X, X[:, :2], callbacks=[Stop(2)])
    assert len(regressor.history_["finetune"]["error"]) == 2
    assert np.isfinite(regressor.transform(X)).all()


@pytest.fixture
def meters(monkeypatch):
    """The meters that a fit makes."""
    made = []

    class Kept(progress.Meter):
        def __init__(self, title, total=None):
            super().__init__(title, total)
            made.append(self)

    monkeypatch.setattr(progress, "Meter", Kept)
    return made


@pytest.mark.slow
def test_the_meter_counts_all_rows_of_each_stage(meters, X, capsys):
    settings = {"pretraining": "cd1", "pretraining_epochs": 3, "epochs": 4, "batch_size": 30}
    ParametricTSNE(**QUICK, **settings, verbose=1).fit(X)
    # 3 epochs for the lower RBM, 5 for the top one
    assert [(meter.done, meter.total) for meter in meters] == [(90 * 8, 90 * 8), (90 * 4, 90 * 4)]
    shown = capsys.readouterr()
    for words in ("Stage 1, pretraining", "reconstruction_error", "Stage 3, fine-tuning", "loss"):
        assert words in shown.err
    assert shown.out == ""
    ParametricTSNE(**QUICK, **settings).fit(X)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_the_meter_of_a_resumed_fit_counts_what_is_left(meters, X):
    tsne = ParametricTSNE(**QUICK, **WAYS["batch"]).fit(X, callbacks=[Stop(2)])
    tsne.set_params(verbose=1).fit(X, resume=True)
    assert [(meter.done, meter.total) for meter in meters] == [(360, 360)]


@pytest.mark.slow
def test_the_meter_of_a_regressor(meters, X):
    MapRegressor(objective="squares", random_state=0, epochs=20, verbose=1).fit(X, X[:, :2])
    assert [0 < meter.done <= meter.total for meter in meters] == [True]
