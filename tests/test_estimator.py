import json
import pickle
import shutil
import subprocess
import sys
import warnings

import keras
import numpy as np
import pandas
import pytest
import scipy.sparse
import sklearn
import tensorflow as tf
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from ptsne_keras import (
    ParametricTSNE,
    affinities,
    batches,
    metrics,
    persistence,
    projection,
    recipes,
    training,
)
from ptsne_keras.rows import index_batches

# The method of 2009, in small.
SMALL = {
    "pretraining": "rbm",
    "sampling": "batch",
    "hidden_units": (100, 100),
    "epochs": 30,
    "pretraining_epochs": 3,
    "batch_size": 200,
    "perplexity": 15,
    "random_state": 0,
}
# The default method, in small.
GRAPH = {"hidden_units": (100, 100), "epochs": 30, "batch_size": 200, "random_state": 0}
BOTH = pytest.mark.parametrize("options", [SMALL, GRAPH], ids=["batch", "graph"])


@pytest.fixture(scope="module")
def X(digits):
    return digits[0][0][:400]


@pytest.fixture(scope="module")
def new(digits):
    return digits[1][0][:50]


@pytest.fixture(scope="module")
def fitted(X):
    return ParametricTSNE(**SMALL).fit(X)


@pytest.fixture(scope="module")
def wide(X):
    """More columns than principal components, as the default method takes them."""
    return np.column_stack([X, X[:, ::-1] * 0.3, X[:, ::2] - 0.1])


@pytest.fixture(scope="module")
def mapped(wide):
    return ParametricTSNE(**GRAPH).fit(wide)


# scikit-learn's conventions ----------------------------------------------------------------


# Some of the checks' rows are duplicates, all zero for instance, which is rightly reported.
@pytest.mark.filterwarnings("ignore:.* of the rows have at least:UserWarning")
@parametrize_with_checks(
    [
        ParametricTSNE(
            hidden_units=(4,),
            epochs=1,
            pretraining="none",  # the checks are about the interface; RBMs would take minutes
            sampling=sampling,
            perplexity=1.5,
            batch_size=500,
            random_state=0,
        )
        for sampling in ("graph", "batch")
    ]
)
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


def test_the_constructor_only_stores():
    parameters = ParametricTSNE().get_params()
    strange = {name: object() for name in parameters}
    assert ParametricTSNE(**strange).get_params() == strange
    assert sorted(vars(ParametricTSNE())) == sorted(parameters)


def test_columns_keep_their_names(X):
    frame = pandas.DataFrame(X, columns=[f"p{i}" for i in range(64)])
    tsne = ParametricTSNE(**SMALL).set_params(epochs=1).fit(frame)
    assert list(tsne.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        tsne.transform(frame[frame.columns[::-1]])


# What a fit gives ----------------------------------------------------------------------------


def test_fitted_attributes(fitted, X):
    assert isinstance(fitted.encoder_, keras.Model)
    assert fitted.n_features_in_ == 64
    assert fitted.embedding_.shape == (400, 2)
    assert fitted.embedding_.dtype == np.float32
    np.testing.assert_array_equal(fitted.embedding_, fitted.transform(X))
    np.testing.assert_allclose(fitted.encoder_(X), fitted.embedding_, rtol=1e-5, atol=1e-5)
    assert len(fitted.history_["pretrain"]) == 3
    assert len(fitted.history_["finetune"]["loss"]) == 30
    assert set(fitted.history_["seconds"]) == {"batches", "pretrain", "unroll", "finetune"}
    assert list(fitted.get_feature_names_out()) == ["parametrictsne0", "parametrictsne1"]


def test_kl_divergence_and_score_are_means_over_batches(fitted, X, new):
    data = batches.from_array(X, 15, 200, shuffle="once", seed=0)
    expected = metrics.mean_kl_divergence(fitted.encoder_, data)
    assert fitted.kl_divergence_ == pytest.approx(expected)
    assert fitted.score(X) == pytest.approx(-expected)
    P = affinities.joint_probabilities(new, 15)
    single = metrics.kl_divergence(P, fitted.transform(new))
    assert fitted.score(new) == pytest.approx(-single, rel=1e-4)


def test_fitting_improves_on_the_pretrained_start(X):
    scores = [ParametricTSNE(**{**SMALL, "epochs": e}).fit(X).score(X) for e in (1, 200)]
    assert scores[1] > scores[0] + 0.4


@BOTH
def test_random_state_makes_two_fits_equal(options, X):
    options = {**options, "epochs": 5}
    first, again, other = (
        ParametricTSNE(**{**options, "random_state": seed}).fit_transform(X) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other, rtol=1e-2)


def test_fit_seeds_no_global_generator(X):
    def draws_after(work):
        np.random.seed(5)  # noqa: NPY002
        tf.random.set_seed(5)
        work()
        return np.random.random(), float(tf.random.uniform(()))  # noqa: NPY002

    tsne = ParametricTSNE(**SMALL).set_params(epochs=1)
    assert draws_after(lambda: tsne.fit(X)) == draws_after(lambda: None)


def test_automatic_epochs_come_to_500_steps_and_1300_updates(X):
    options = {**SMALL, "hidden_units": (5,), "pretraining_epochs": "auto", "epochs": "auto"}
    tsne = ParametricTSNE(**options).fit(X[:390])  # 2 batches; 4 updates an epoch
    assert len(tsne.history_["finetune"]["loss"]) == 250
    assert len(tsne.history_["pretrain"][0]["loss"]) == 325
    assert len(tsne.history_["pretrain"][1]["loss"]) == 542  # the top one: 5/3


def test_dof_and_exaggeration_reach_the_loss_and_the_divergence(X, monkeypatch):
    made = []
    real = training.Trainer.__init__

    def spy(self, encoder, **options):
        made.append((options["dof"], options["exaggeration"]))
        real(self, encoder, **options)

    monkeypatch.setattr(training.Trainer, "__init__", spy)
    options = {**SMALL, "epochs": 1, "pretraining": "none", "dof": 3.0, "exaggeration": 1.5}
    tsne = ParametricTSNE(**options).fit(X)
    assert made == [(3.0, 1.5)]
    data = batches.from_array(X, 15, 200, shuffle="once", seed=0)
    expected = metrics.mean_kl_divergence(tsne.encoder_, data, dof=3.0)
    assert tsne.kl_divergence_ == pytest.approx(expected)


def test_many_rows_are_embedded_in_parts(fitted, X):
    many = np.tile(X, (12, 1))
    Y = fitted.transform(many)
    assert Y.shape == (4800, 2)
    np.testing.assert_allclose(Y, np.tile(fitted.embedding_, (12, 1)), atol=1e-5)


@pytest.mark.parametrize("pretraining", ["rbm", "none"])
def test_numpy_typed_parameters_work(pretraining, X, tmp_path):
    numpy_typed = {
        "n_components": np.int64(3),
        "hidden_units": np.array([20, 10]),
        "perplexity": np.float32(15),
        "batch_size": np.int32(200),
        "epochs": np.int64(2),
        "pretraining_epochs": np.int64(1),
        "dof": np.float64(2),
        "random_state": np.int64(0),
    }
    tsne = ParametricTSNE(pretraining=pretraining, **numpy_typed).fit(X)
    tsne.save(tmp_path)
    np.testing.assert_array_equal(ParametricTSNE.load(tmp_path).fit(X).embedding_, tsne.embedding_)


def test_duplicates_are_reported_once(X):
    with pytest.warns(UserWarning, match="62 of the rows") as caught:
        ParametricTSNE(**{**SMALL, "epochs": 1}).fit(np.concatenate([X, np.repeat(X[:2], 30, 0)]))
    assert len([w for w in caught if "of the rows" in str(w.message)]) == 1


@pytest.mark.parametrize("d", [1, 3])
def test_maps_of_other_dimensions(d, X):
    tsne = ParametricTSNE(d, **{**SMALL, "epochs": 3}, dof="auto").fit(X)
    assert tsne.transform(X[:7]).shape == (7, d)


@pytest.mark.parametrize(
    "make",
    [
        lambda X: (X * 255).astype(np.uint8),
        lambda X: np.rint(X * 16),
        lambda X: X * 3 - 1,
        lambda X: (X - 0.5) * 1e6,
        lambda X: (X - 0.5) * 1e-6,
        lambda X: (X + 100) * 10,
        lambda X: -X,
        lambda X: np.column_stack([X - 0.5, np.full(len(X), 3.0)]),
        lambda X: np.concatenate([X, X[:50], X[:50]]),
    ],
    ids=[
        "pixels in 0 … 255",
        "integers as floats",
        "columns around 0",
        "large units",
        "small units",
        "far from 0",
        "negative",
        "a constant column",
        "duplicated rows",
    ],
)
@pytest.mark.parametrize(
    "options", [SMALL, {**SMALL, "pretraining": "none"}, GRAPH], ids=["rbm", "batch", "graph"]
)
def test_rows_of_any_scale_are_learnt(make, options, X):
    rows = make(X)
    tsne = ParametricTSNE(**{**options, "epochs": 200})
    Y = tsne.fit_transform(rows)
    assert np.isfinite(Y).all()
    assert metrics.trustworthiness(rows, Y, 12) > 0.85  # PCA: 0.82


def test_a_new_value_in_a_constant_column_does_not_fling_a_row_away(X):
    rows = np.column_stack([X - 0.5, np.full(len(X), 3.0)])
    tsne = ParametricTSNE(**SMALL).fit(rows)
    moved = rows[:20].copy()
    moved[:, -1] += 0.1
    shift = np.abs(tsne.transform(moved) - tsne.transform(rows[:20])).max()
    assert shift < np.ptp(tsne.embedding_) / 4


def test_one_progress_bar_a_stage(X, capsys):
    ParametricTSNE(**{**SMALL, "epochs": 2}, verbose=1).fit(X)
    shown = capsys.readouterr().out
    for stage in ("Stage 1, RBM pretraining", "Stage 2, unrolling", "Stage 3, fine-tuning"):
        assert shown.count(stage) == 1
    assert "reconstruction_error:" in shown
    assert "loss:" in shown
    ParametricTSNE(**{**SMALL, "epochs": 2}).fit(X)
    assert capsys.readouterr().out == ""


# The default method ---------------------------------------------------------------------------


def test_a_default_fit_projects_searches_and_fine_tunes(mapped, wide):
    assert set(mapped.history_["seconds"]) == {"project", "neighbors", "finetune"}
    assert mapped.history_["pretrain"] == []
    assert mapped.encoder_.get_layer("projection").units == 100
    assert mapped.encoder_.input_shape == (None, 160)
    np.testing.assert_array_equal(mapped.embedding_, mapped.transform(wide))
    assert metrics.trustworthiness(wide, mapped.embedding_, 12) > 0.9


def test_the_projection_is_fixed(mapped, wide):
    expected = projection.principal_components(wide, 100).components
    kernel = mapped.encoder_.get_layer("projection").get_weights()[0]
    # As subspaces: the sign of a component is arbitrary, and near-ties may rotate.
    np.testing.assert_allclose(
        wide @ kernel @ kernel.T, wide @ expected @ expected.T, rtol=1e-2, atol=1e-2
    )


def test_sparse_rows_give_the_map_of_dense_ones(wide):
    options = {**GRAPH, "epochs": 3}
    rows = np.where(np.abs(wide) > 0.3, wide, 0)
    dense = ParametricTSNE(**options).fit(rows)
    sparse = ParametricTSNE(**options).fit(scipy.sparse.csr_matrix(rows))
    assert sparse.embedding_.shape == (400, 2)
    first = sparse.transform(scipy.sparse.csr_array(rows[:20]))
    np.testing.assert_allclose(first, sparse.transform(rows[:20]), rtol=1e-5, atol=1e-5)
    assert sparse.score(scipy.sparse.csr_matrix(rows)) == pytest.approx(dense.score(rows), abs=0.3)


@pytest.mark.parametrize("n", [4, 5, 12, 60])
def test_few_rows_need_no_settings(n, X):
    tsne = ParametricTSNE(epochs=3, random_state=0).fit(X[:n])
    assert np.isfinite(tsne.embedding_).all()
    assert tsne.transform(X[n : 2 * n]).shape == (n, 2)
    assert np.isfinite(tsne.kl_divergence_)


def test_auto_is_resolved_by_the_rows_and_the_other_settings():
    def resolved(n, features, **options):
        return recipes.resolve(ParametricTSNE(**options).get_params(), n, features)

    large = resolved(60_000, 784)
    assert (large.perplexity, large.batch_size, large.initial_dims) == (15, 1024, 100)
    assert large.sampling == "graph"
    assert 16_000 <= large.epochs * 120 < 16_000 + 120
    assert resolved(1000, 784).epochs == 4000  # of 2 batches
    assert resolved(10**6, 128).epochs >= 8
    assert resolved(31, 64).perplexity == 10
    assert resolved(60_000, 64).initial_dims is None
    paper = resolved(60_000, 784, pretraining="rbm")
    assert paper.sampling == "batch"
    assert paper.hidden_units == (500, 500, 2000)
    assert (paper.activation, paper.perplexity, paper.initial_dims) == ("sigmoid", 30, None)
    assert (paper.batch_size, paper.epochs, paper.pretraining_epochs) == (2500, 21, 30)


@pytest.mark.parametrize("n", [40, 3000, 60_000, 65_000, 10**6])
def test_many_batches_come_in_multiples_of_eight(n):
    """So that eight steps or more are one call from Python."""
    count, rows = recipes.batches_an_epoch("graph", 1024, n)
    assert count <= 32 or count % 8 == 0
    assert -(-n // count) <= 512
    assert rows <= 1024
    assert int(index_batches(n, 512, multiple=8).cardinality()) == count


def test_the_map_is_that_of_averaged_weights(X, monkeypatch):
    """A steady rate leaves the weights restless; their average over the last steps is kept."""
    compiled = []
    compile_model = keras.Model.compile

    def spy(self, *args, **kwargs):
        compiled.append(self)
        return compile_model(self, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "compile", spy)
    tsne = ParametricTSNE(epochs=400, hidden_units=(20,), random_state=0).fit(X)
    optimizer = compiled[0].optimizer
    assert int(optimizer.iterations) == 400
    assert optimizer.ema_momentum == pytest.approx(1 - 16 / 400)
    averages = optimizer._model_variables_moving_average
    for weight, average in zip(tsne.encoder_.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(weight, average)
    # A momentum meant for thousands of steps would leave a short fit where it started.
    ParametricTSNE(epochs=3, hidden_units=(20,), random_state=0).fit(X)
    assert compiled[1].optimizer.ema_momentum == 0


def test_short_epochs_are_joined_as_long_as_a_curve_is_left(X):
    points = {}
    for epochs in (99, 200, 1000):
        tsne = ParametricTSNE(epochs=epochs, hidden_units=(5,), random_state=0).fit(X)
        points[epochs] = len(tsne.history_["finetune"]["loss"])
    assert points == {99: 99, 200: 100, 1000: 100}


def test_a_perplexity_too_large_for_a_scoring_batch_is_scored_on_more_rows(rng):
    rows = rng.normal(size=(2600, 5))
    tsne = ParametricTSNE(perplexity=1300, epochs=1, hidden_units=(5,), random_state=0).fit(rows)
    assert np.isfinite(tsne.kl_divergence_)


def test_rbms_alone_mean_the_method_of_2009(X):
    options = {"pretraining": "rbm", "hidden_units": (20,), "epochs": 2, "pretraining_epochs": 2}
    alone, spelt = (
        ParametricTSNE(sampling=sampling, random_state=0, **options).fit(X)
        for sampling in ("auto", "batch")
    )
    np.testing.assert_array_equal(alone.embedding_, spelt.embedding_)


# Errors --------------------------------------------------------------------------------------


def test_use_before_fit_is_named(X, tmp_path):
    for call in (lambda t: t.transform(X), lambda t: t.score(X), lambda t: t.save(tmp_path)):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            call(ParametricTSNE())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((5, 3)), "X has 3 features, but ParametricTSNE is expecting 64"),
        (np.full((5, 64), np.nan), "should be finite.* NaN in 5 of 5 rows"),
        (np.full((5, 64), np.inf), "should be finite.* infinity or"),
        (np.ones(64), "Reshape your data"),
        (np.full((5, 64), "a"), "should be numeric"),
        (np.ones((0, 64)), "at least 1 rows.* n_samples=0"),
    ],
)
def test_rows_that_cannot_be_transformed_are_named(fitted, rows, message):
    with pytest.raises(ValueError, match=message):
        fitted.transform(rows)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"perplexity": 199}, ValueError, "perplexity should be above 1 and below B - 1 = 199"),
        ({"perplexity": 399, "sampling": "graph"}, ValueError, "perplexity should be below N - 1"),
        ({"sampling": "edges"}, ValueError, "'sampling' parameter"),
        ({"jitter": -1.0}, ValueError, "'jitter' parameter"),
        ({"initial_dims": 20}, ValueError, "initial_dims should be None with RBMs"),
        ({"perplexity": 1}, ValueError, "'perplexity' parameter"),
        ({"n_components": 0}, ValueError, "'n_components' parameter"),
        ({"dof": "learned"}, ValueError, "'dof' parameter"),
        ({"dof": -1.0}, ValueError, "'dof' parameter"),
        ({"pretraining": "vae"}, ValueError, "'pretraining' parameter"),
        ({"activation": "relu"}, ValueError, 'set pretraining="none" for others. Received: .relu'),
        ({"epochs": 0}, ValueError, "'epochs' parameter"),
        ({"hidden_units": ()}, ValueError, "hidden_units should be"),
        ({"hidden_units": (10, 0)}, ValueError, "hidden_units should be"),
    ],
)
def test_bad_parameters_are_named_before_any_training(options, error, message, X):
    with pytest.raises(error, match=message):
        ParametricTSNE(**{**SMALL, **options}).fit(X)


def test_too_few_rows_are_named():
    with pytest.raises(ValueError, match=r"at least 4 rows.* n_samples=3"):
        ParametricTSNE().fit(np.eye(3))


# Saving --------------------------------------------------------------------------------------


@BOTH
def test_save_load_transform_is_equal_to_the_bit(options, X, new, tmp_path):
    fitted = ParametricTSNE(**{**options, "epochs": 2}).fit(X)
    fitted.save(tmp_path / "map")
    again = ParametricTSNE.load(tmp_path / "map")
    np.testing.assert_array_equal(again.transform(new), fitted.transform(new))
    np.testing.assert_array_equal(again.embedding_, fitted.embedding_)
    assert again.get_params() == fitted.get_params()
    assert again.history_ == fitted.history_
    assert again.kl_divergence_ == fitted.kl_divergence_
    assert again.n_features_in_ == 64
    assert again.score(new) == fitted.score(new)


def test_save_load_fit_works_and_repeats_the_fit(fitted, X, tmp_path):
    fitted.save(tmp_path)
    again = ParametricTSNE.load(tmp_path).fit(X)
    np.testing.assert_array_equal(again.embedding_, fitted.embedding_)


def test_another_process_gets_the_same_map(fitted, new, tmp_path):
    fitted.save(tmp_path / "map")
    np.save(tmp_path / "new.npy", new)
    code = (
        "import sys, numpy as np, ptsne_keras; f = sys.argv[1]\n"
        "tsne = ptsne_keras.ParametricTSNE.load(f + '/map')\n"
        "np.save(f + '/out.npy', tsne.transform(np.load(f + '/new.npy')))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), fitted.transform(new))


def test_a_folder_from_before_dof_was_learned_loads(fitted, new, tmp_path):
    fitted.save(tmp_path)
    manifest = json.loads((tmp_path / "model.json").read_text())
    del manifest["state"]["dof"], manifest["sha256"]
    (tmp_path / "model.json").write_text(json.dumps(manifest))
    loaded = ParametricTSNE.load(tmp_path)
    assert loaded.dof_ == fitted.dof_
    assert loaded.score(new) == fitted.score(new)


def test_a_loaded_map_saves_again_over_itself(fitted, new, tmp_path):
    fitted.save(tmp_path)
    ParametricTSNE.load(tmp_path).save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3  # the replaced files are gone
    np.testing.assert_array_equal(
        ParametricTSNE.load(tmp_path).transform(new), fitted.transform(new)
    )


def test_other_files_in_the_folder_stay(fitted, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    fitted.save(tmp_path)
    fitted.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("call", range(4))
def test_a_failing_save_leaves_the_old_model_whole(call, fitted, X, new, tmp_path, monkeypatch):
    """The disk fills up at the nth file: nothing is lost and nothing half-written is left."""
    fitted.save(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    other = ParametricTSNE(**{**SMALL, "epochs": 1}).fit(X)
    writes = []
    real = persistence.os.fsync

    def full(descriptor):
        writes.append(descriptor)
        if len(writes) > call:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(persistence.os, "fsync", full)
    if call == 3:  # three files: this save succeeds, so the test is of something
        other.save(tmp_path)
        assert not np.array_equal(ParametricTSNE.load(tmp_path).embedding_, fitted.embedding_)
        return
    with pytest.raises(OSError, match="the disk is full"):
        other.save(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("part", ["model.json", "encoder", "arrays"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damage_is_named(part, damage, fitted, tmp_path):
    fitted.save(tmp_path)
    (file,) = tmp_path.glob(f"{part}*")
    contents = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(contents[: len(contents) // 2])
    else:
        file.write_bytes(b"[]" if part == "model.json" else contents[:-1] + b"?")
    words = "should be a folder|truncated or altered|is missing|not a model's manifest"
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        ParametricTSNE.load(tmp_path)


def test_what_is_no_model_of_this_version_and_class_is_named(fitted, tmp_path):
    with pytest.raises(FileNotFoundError, match="should be a folder that `save` wrote"):
        ParametricTSNE.load(tmp_path / "nothing")
    fitted.save(tmp_path / "map")
    manifest = json.loads((tmp_path / "map/model.json").read_text())
    for change, message in (
        ({"format": 99}, "Upgrade ptsne_keras"),
        ({"kind": "MapRegressor"}, "should hold a ParametricTSNE. Received: a MapRegressor"),
    ):
        shutil.copytree(tmp_path / "map", tmp_path / "copy", dirs_exist_ok=True)
        (tmp_path / "copy/model.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(ValueError, match=message):
            ParametricTSNE.load(tmp_path / "copy")
    with pytest.raises(NotADirectoryError, match="should be a folder"):
        fitted.save(tmp_path / "map/model.json")


def test_loading_runs_no_code_from_the_files(fitted, tmp_path):
    """Arrays are read without pickle, and the encoder's file may hold no Python code."""

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a file ran code",))

    fitted.save(tmp_path)
    arrays = np.array([Bomb()], dtype=object)
    np.savez(tmp_path / "bomb.npz", embedding=arrays, allow_pickle=True)
    rewrite(tmp_path, "arrays", "bomb.npz")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        ParametricTSNE.load(tmp_path)

    fitted.save(tmp_path)
    inputs = keras.Input((64,))
    evil = keras.Model(inputs, keras.layers.Lambda(lambda x: x[:, :2])(inputs))
    evil.save(tmp_path / "evil.keras")
    rewrite(tmp_path, "encoder", "evil.keras")
    with pytest.raises(ValueError, match=r"[Ll]ambda"):
        ParametricTSNE.load(tmp_path)


def rewrite(folder, role, name):
    """Make the manifest name another file, its digest right."""
    import hashlib

    manifest = json.loads((folder / "model.json").read_text())
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    manifest["files"][role] = {"name": name, "sha256": digest}
    del manifest["sha256"]  # as in folders of older versions
    (folder / "model.json").write_text(json.dumps(manifest))


def test_the_encoder_loads_without_this_package(fitted, new, tmp_path):
    fitted.save(tmp_path)
    (file,) = tmp_path.glob("encoder*.keras")
    np.save(tmp_path / "new.npy", new)
    code = (
        "import sys, keras, numpy as np\n"
        "Y = keras.models.load_model(sys.argv[1])(np.load(sys.argv[2] + '/new.npy'))\n"
        "assert not any(m.startswith('ptsne_keras') for m in sys.modules)\n"
        "np.save(sys.argv[2] + '/out.npy', np.asarray(Y))"
    )
    command = [sys.executable, "-c", code, str(file), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), fitted.transform(new))


def test_a_random_state_generator_does_not_block_saving(X, tmp_path):
    options = {**SMALL, "epochs": 1, "random_state": np.random.RandomState(0)}
    ParametricTSNE(**options).fit(X).save(tmp_path)
    assert ParametricTSNE.load(tmp_path).random_state is None


def test_it_pickles_and_clones(fitted, new):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(new), fitted.transform(new))
    assert not hasattr(sklearn.clone(fitted), "encoder_")


def test_no_warning_reaches_the_user(X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="__array__ implementation doesn't accept a copy")
        ParametricTSNE(**{**SMALL, "epochs": 2}).fit(X).transform(X[:5])


# A network of one's own -----------------------------------------------------------------------


def conv():
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(8, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(2),
    ]
    return keras.Sequential(layers)


def two_inputs():
    keras.utils.set_random_seed(0)
    top, bottom = keras.Input((32,), name="top"), keras.Input((4, 8), name="bottom")
    x = keras.layers.Concatenate()([top, keras.layers.Flatten()(bottom)])
    return keras.Model([top, bottom], keras.layers.Dense(2)(x))


def residual():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((64,))
    x = keras.layers.Dense(32, "relu")(x)
    x = keras.layers.Add()([x, keras.layers.Dense(32, "relu")(x)])
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@keras.saving.register_keras_serializable(package="test_estimator")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


OWN = {"epochs": 2, "batch_size": 200, "random_state": 0}


@pytest.mark.filterwarnings("ignore:`build:UserWarning")
@pytest.mark.parametrize("make", [conv, two_inputs, residual, Subclassed])
def test_any_model_is_trained_saved_loaded_and_fitted_again(make, X, new, tmp_path):
    tsne = ParametricTSNE(encoder=make(), **OWN).fit(X)
    Y = tsne.transform(new)
    assert Y.shape == (50, 3 if make is residual else 2)
    tsne.save(tmp_path)
    loaded = ParametricTSNE.load(tmp_path)
    np.testing.assert_array_equal(loaded.transform(new), Y)
    np.testing.assert_array_equal(loaded.fit(X).transform(new), Y)


def test_fitting_starts_from_its_weights_and_leaves_them(X, new):
    model = conv()
    before = [w.copy() for w in model.get_weights()]
    tsne = ParametricTSNE(encoder=model, learning_rate=1e-9, **OWN).fit(X)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(tsne.transform(new), model(new.reshape(-1, 8, 8, 1)), atol=1e-3)
    Y = ParametricTSNE(encoder=model, **OWN).fit(X).transform(new)
    assert np.abs(Y - tsne.transform(new)).max() > 0.1


def test_layers_that_are_frozen_stay(X):
    model = conv()
    model.layers[0].trainable = False
    tsne = ParametricTSNE(encoder=model, **OWN).fit(X)
    (inner,) = [layer for layer in tsne.encoder_.layers if isinstance(layer, keras.Sequential)]
    np.testing.assert_array_equal(inner.get_weights()[0], model.get_weights()[0])
    assert not np.array_equal(inner.get_weights()[2], model.get_weights()[2])


def test_an_own_encoder_clones_and_prints(X):
    tsne = sklearn.base.clone(ParametricTSNE(encoder=conv(), **OWN))
    assert "Sequential" in repr(tsne)
    assert tsne.fit(X).embedding_.shape == (400, 2)


@pytest.mark.parametrize(
    "options", [{"pretraining": "rbm"}, {"initial_dims": 20}], ids=["rbm", "projection"]
)
def test_what_an_own_encoder_excludes_is_named(options, X):
    with pytest.raises(ValueError, match="encoder"):
        ParametricTSNE(encoder=conv(), **options).fit(X)


@pytest.mark.parametrize("options", [SMALL, GRAPH], ids=["batch", "graph"])
def test_dof_is_learned_saved_and_used(options, X, tmp_path):
    tsne = ParametricTSNE(dof="learn", **{**options, "epochs": 5, "n_components": 3}).fit(X)
    history = tsne.history_["finetune"]["dof"]
    assert history[0] == pytest.approx(2.0, abs=0.05)
    assert tsne.dof_ != 2.0
    settings = recipes.resolve(tsne.get_params(), *X.shape)
    model, data = recipes.score_batches(tsne.encoder_, X, settings)
    kl = metrics.mean_kl_divergence(model, data, dof=tsne.dof_)
    assert tsne.kl_divergence_ == pytest.approx(kl, rel=1e-5)
    tsne.save(tmp_path)
    assert ParametricTSNE.load(tmp_path).dof_ == tsne.dof_


@pytest.mark.parametrize("options", [SMALL, GRAPH], ids=["batch", "graph"])
def test_several_perplexities(options, X, new, tmp_path):
    options = {**options, "epochs": 2, "perplexity": (5, 15)}
    tsne = ParametricTSNE(**options).fit(X)
    tsne.save(tmp_path)
    loaded = ParametricTSNE.load(tmp_path)
    assert loaded.perplexity == (5, 15)
    assert loaded.score(new) == tsne.score(new)


def test_an_encoder_that_cannot_be_copied_is_named(digits):
    class Unregistered(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    with pytest.raises(ValueError, match="encoder should be one that Keras can copy"):
        ParametricTSNE(encoder=Unregistered(), epochs=1).fit(digits[0][0][:200])


def test_an_encoder_with_nothing_to_train_is_named(digits):
    encoder = keras.Sequential([keras.Input((64,)), keras.layers.Dense(2)])
    encoder.trainable = False
    with pytest.raises(ValueError, match="encoder should have weights to train"):
        ParametricTSNE(encoder=encoder, epochs=1).fit(digits[0][0][:200])


FEW = {"hidden_units": (20, 10), "pretraining_epochs": 2, "epochs": 3, "batch_size": 150}


class TestPaper:
    def test_has_the_settings_of_2009(self):
        tsne = ParametricTSNE.paper()
        assert (tsne.hidden_units, tsne.activation) == ((500, 500, 2000), "sigmoid")
        assert (tsne.pretraining, tsne.sampling, tsne.batch_size) == ("rbm-cd1", "fixed", 5000)
        assert (tsne.optimizer, tsne.exaggeration, tsne.dof) == ("cg", 1.0, 1.0)
        settings = recipes.resolve(tsne.get_params(), 60_000, 784)
        assert (settings.pretraining_epochs, settings.epochs, settings.perplexity) == (30, 30, 30.0)
        assert settings.initial_dims is None
        pcd = tsne.set_params(pretraining="rbm-pcd")
        assert recipes.resolve(pcd.get_params(), 60_000, 784).pretraining_epochs == 100

    def test_few_rows_get_more_epochs_and_a_lower_perplexity(self):
        settings = recipes.resolve(ParametricTSNE.paper().get_params(), 61, 4)
        assert (settings.pretraining_epochs, settings.epochs) == (1300, 120)
        assert settings.perplexity == 20.0

    @pytest.mark.parametrize("optimizer", ["cg", keras.optimizers.SGD()], ids=["cg", "own"])
    def test_a_learning_rate_that_would_be_passed_over_is_refused(self, optimizer, digits):
        tsne = ParametricTSNE.paper(optimizer=optimizer, learning_rate=0.1)
        with pytest.raises(ValueError, match='learning_rate should be "auto" unless'):
            tsne.fit(digits[0][0])

    def test_an_optimizer_that_cannot_be_made_again_is_named(self, digits):
        tsne = ParametricTSNE.paper(optimizer=keras.optimizers.SGD(lambda: 0.05))
        with pytest.raises(ValueError, match="optimizer should be one that Keras can make again"):
            tsne.fit(digits[0][0])

    def test_weights_that_an_optimizer_should_not_decay_are_kept_from_it(self, digits):
        def learned(*excluded):
            optimizer = keras.optimizers.AdamW(0.01, weight_decay=5.0)
            optimizer.exclude_from_weight_decay(var_names=list(excluded))
            changes = {"dof": "learn", "optimizer": optimizer, "pretraining": "none", **FEW}
            return ParametricTSNE.paper(4, random_state=0, **changes).fit(digits[0][0][:300]).dof_

        assert learned("log_dof") > 1.1 * learned()

    def test_a_map_loads_without_the_class_of_its_optimizer(self, digits, tmp_path):
        class Mine(keras.optimizers.SGD):
            pass

        X = digits[0][0][:300]
        tsne = ParametricTSNE.paper(optimizer=Mine(0.01), pretraining="none", **FEW).fit(X)
        tsne.save(tmp_path / "map")
        with pytest.warns(UserWarning, match="'Mine'"):
            loaded = ParametricTSNE.load(tmp_path / "map")
        np.testing.assert_array_equal(loaded.transform(X), tsne.embedding_)
        assert loaded.optimizer == "adam"

    def test_half_precision_is_refused_before_any_work(self, digits):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            with pytest.raises(ValueError, match="should compute in float32"):
                ParametricTSNE.paper().fit(digits[0][0])
        finally:
            keras.config.set_dtype_policy("float32")

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"pretraining": "rbm-pcd", **FEW},
            {"pretraining": "none"},
            {"optimizer": "adam"},
            {"optimizer": keras.optimizers.Nadam(0.01)},
            {"dof": "auto", "n_components": 3},
            {"dof": "learn", "n_components": 3},
        ],
        ids=["all", "pcd", "no pretraining", "adam", "own optimizer", "auto dof", "learned dof"],
    )
    def test_each_part_can_be_exchanged_alone(self, changes, digits, tmp_path):
        X = digits[0][0][:300]
        tsne = ParametricTSNE.paper(random_state=0, **{**FEW, **changes}).fit(X)
        history = tsne.history_["finetune"]
        assert history["loss"][-1] < history["loss"][0]
        assert ("evaluations" in history) == (tsne.optimizer == "cg")
        assert ("dof" in history) == (tsne.dof == "learn")
        assert len(tsne.history_["pretrain"]) == (0 if tsne.pretraining == "none" else 3)
        tsne.save(tmp_path / "map")
        loaded = ParametricTSNE.load(tmp_path / "map")
        np.testing.assert_array_equal(loaded.transform(X), tsne.embedding_)
        assert loaded.dof_ == tsne.dof_
        np.testing.assert_array_equal(loaded.fit(X).embedding_, tsne.embedding_)

    def test_learned_dof_begins_at_d_minus_1_and_stays_above_0(self, digits):
        X = digits[0][0][:300]
        tsne = ParametricTSNE.paper(4, dof="learn", random_state=0, **FEW).fit(X)
        curve = tsne.history_["finetune"]["dof"]
        assert curve[0] == pytest.approx(3.0)
        assert curve[1] != pytest.approx(3.0)
        assert min(curve) > 0
        assert tsne.dof_ == curve[-1]
