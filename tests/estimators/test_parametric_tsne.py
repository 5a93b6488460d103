"""`ParametricTSNE`: what a fit gives, from which rows and settings."""

import keras
import numpy as np
import pandas
import pytest
import scipy.sparse
import tensorflow as tf
from sklearn.exceptions import NotFittedError
from support.fits import BOTH, GRAPH, SMALL

from ptsne_keras import MapRegressor, ParametricTSNE, affinities, metrics
from ptsne_keras.data import batches
from ptsne_keras.data.order import index_batches
from ptsne_keras.estimators._fit_graph import joined
from ptsne_keras.estimators._settings import batches_per_epoch, resolve
from ptsne_keras.utils import pca


@pytest.mark.parametrize("cls", [ParametricTSNE, MapRegressor])
def test_the_constructor_only_stores(cls):
    parameters = cls().get_params()
    strange = {name: object() for name in parameters}
    assert cls(**strange).get_params() == strange
    assert sorted(vars(cls())) == sorted(parameters)


def test_columns_keep_their_names(X):
    frame = pandas.DataFrame(X, columns=[f"p{i}" for i in range(64)])
    tsne = ParametricTSNE(**SMALL).set_params(epochs=1, pretraining=None).fit(frame)
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
    assert set(fitted.history_) == {"pretrain", "finetune", "seconds"}
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


def test_scores_use_the_settings_of_the_fit(X, new):
    tsne = ParametricTSNE(**{**GRAPH, "epochs": 1}, perplexity=10).fit(X)
    before = tsne.score(new)
    assert tsne.set_params(perplexity=4).score(new) == before


@pytest.mark.slow
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
    drawn = []
    for work in (ParametricTSNE(**{**SMALL, "epochs": 1}).fit, len):
        np.random.seed(5)  # noqa: NPY002
        tf.random.set_seed(5)
        work(X)
        drawn.append((np.random.random(), float(tf.random.uniform(()))))  # noqa: NPY002
    assert drawn[0] == drawn[1]


@pytest.mark.slow
def test_automatic_epochs_come_to_500_steps_and_1300_updates(X):
    options = {**SMALL, "hidden_units": (5,), "pretraining_epochs": "auto", "epochs": "auto"}
    tsne = ParametricTSNE(**options).fit(X[:390])  # 2 batches; 4 updates an epoch
    assert len(tsne.history_["finetune"]["loss"]) == 250
    assert [len(curves["loss"]) for curves in tsne.history_["pretrain"]] == [325, 542]  # top: 5/3


def test_dof_and_exaggeration_reach_the_loss_and_the_divergence(X):
    trainers = []
    look = keras.callbacks.Callback()
    look.on_train_begin = lambda logs: trainers.append(look.model)
    options = {**SMALL, "epochs": 1, "pretraining": None, "dof": 3.0, "exaggeration": 1.5}
    tsne = ParametricTSNE(**options).fit(X, callbacks=[look])
    (config,) = (trainer.get_config() for trainer in trainers)
    assert (config["dof"], config["exaggeration"]) == (3.0, 1.5)
    data = batches.from_array(X, 15, 200, shuffle="once", seed=0)
    expected = metrics.mean_kl_divergence(tsne.encoder_, data, dof=3.0)
    assert tsne.kl_divergence_ == pytest.approx(expected)


def test_many_rows_are_embedded_in_blocks(fitted, X, tmp_path):
    many = np.tile(X, (12, 1))
    Y = fitted.transform(many)
    assert Y.shape == (4800, 2)
    np.testing.assert_allclose(Y, np.tile(fitted.embedding_, (12, 1)), atol=1e-5)
    np.save(tmp_path / "rows.npy", many)
    on_disk = np.load(tmp_path / "rows.npy", mmap_mode="r")
    np.testing.assert_array_equal(fitted.transform(on_disk), Y)


@pytest.mark.parametrize(
    ("pretraining", "d"), [pytest.param("cd1", 1, marks=pytest.mark.slow), (None, 3)]
)
def test_numpy_typed_parameters_work(pretraining, d, X, tmp_path):
    numpy_typed = {
        "n_components": np.int64(d),
        "hidden_units": np.array([20, 10]),
        "perplexity": np.float32(15),
        "batch_size": np.int32(75),
        "epochs": np.int64(2),
        "pretraining_epochs": np.int64(1),
        "dof": np.float64(2),
        "random_state": np.int64(0),
    }
    X = X[:150]
    tsne = ParametricTSNE(pretraining=pretraining, **numpy_typed).fit(X)
    tsne.save(tmp_path)
    assert tsne.transform(X[:7]).shape == (7, d)
    np.testing.assert_array_equal(ParametricTSNE.load(tmp_path).fit(X).embedding_, tsne.embedding_)


def test_duplicates_are_reported_once(X):
    rows = np.concatenate([X, np.repeat(X[:2], 30, axis=0)])
    with pytest.warns(UserWarning, match="62 of the rows") as caught:
        ParametricTSNE(**{**SMALL, "epochs": 1, "pretraining": None}).fit(rows)
    assert sum("of the rows" in str(w.message) for w in caught) == 1


# The default method ---------------------------------------------------------------------------


def test_a_default_fit_projects_searches_and_fine_tunes(mapped, wide):
    assert set(mapped.history_["seconds"]) == {"project", "neighbors", "batches", "finetune"}
    assert mapped.history_["pretrain"] == []
    assert mapped.encoder_.get_layer("projection").units == 100
    assert mapped.encoder_.input_shape == (None, 160)
    np.testing.assert_array_equal(mapped.embedding_, mapped.transform(wide))
    assert metrics.trustworthiness(wide, mapped.embedding_, 12) > 0.9


def test_the_projection_is_fixed(mapped, wide):
    expected = pca.principal_components(wide, 100).components
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


def test_auto_is_resolved_by_the_rows_and_the_other_settings():
    def resolved(n, features, **options):
        return resolve(ParametricTSNE(**options).get_params(), n, features)

    quick = resolved(60_000, 784)
    assert (quick.exaggeration, quick.batch_size) == (1.2, 1024)
    assert 1800 <= quick.epochs * 120 < 1800 + 120
    assert (resolved(1000, 784).batch_size, resolved(1000, 784).epochs) == (256, 25)  # of 8 batches
    assert resolved(10**6, 128).epochs == 4
    few = resolved(1000, 784)
    assert (few.perplexity, few.perplexity_of(10_000), few.perplexity_of(31)) == (30, 30, 10)
    assert (quick.perplexity, quick.perplexity_of(1000)) == (15, 15)
    large = resolved(60_000, 784, placement=False)
    assert large.exaggeration == 1.5
    assert (large.perplexity, large.batch_size, large.initial_dims) == (15, 1024, 100)
    assert large.sampling == "graph"
    assert 16_000 <= large.epochs * 120 < 16_000 + 120
    assert resolved(1000, 784, placement=False).epochs == 4000  # of 2 batches
    assert resolved(10**6, 128, placement=False).epochs >= 8
    assert resolved(31, 64).perplexity == 10
    assert resolved(60_000, 64).initial_dims is None
    paper = resolved(60_000, 784, pretraining="cd1")
    assert (paper.sampling, paper.hidden_units) == ("batch", (500, 500, 2000))
    assert (paper.activation, paper.perplexity, paper.initial_dims) == ("sigmoid", 30, None)
    assert (paper.batch_size, paper.epochs, paper.pretraining_epochs) == (2500, 21, 30)


@pytest.mark.parametrize("n", [40, 3000, 60_000, 65_000, 10**6])
def test_many_batches_come_in_multiples_of_eight(n):
    """So that eight steps or more are one call from Python."""
    count = batches_per_epoch("graph", 1024, n)
    assert count <= 32 or count % 8 == 0
    assert -(-n // count) <= 512
    assert int(index_batches(n, 512, multiple=8).cardinality()) == count


@pytest.mark.slow
def test_the_map_is_that_of_averaged_weights(X):
    """A constant rate leaves the weights restless; their average over the last steps is kept."""
    look = keras.callbacks.Callback()
    options = {"placement": False, "hidden_units": (20,), "random_state": 0}
    tsne = ParametricTSNE(epochs=400, **options).fit(X, callbacks=[look])
    optimizer = look.model.optimizer
    assert int(optimizer.iterations) == 400
    assert optimizer.ema_momentum == pytest.approx(1 - 16 / 400)
    averages = optimizer._model_variables_moving_average
    for weight, average in zip(tsne.encoder_.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(weight, average)
    # A momentum meant for thousands of steps would leave a short fit where it started.
    tsne.set_params(epochs=3).fit(X, callbacks=[look])
    assert look.model.optimizer.ema_momentum == 0


@pytest.mark.slow
def test_short_epochs_are_joined_as_long_as_a_curve_is_left(X):
    found = [joined(1, epochs) for epochs in (99, 200, 1000)]
    assert found == [1, 2, 10]
    assert joined(33, 1000) == 1  # of more steps than one call from Python makes
    tsne = ParametricTSNE(epochs=200, hidden_units=(5,), random_state=0).fit(X)
    assert len(tsne.history_["finetune"]["loss"]) == 100


@pytest.mark.slow
def test_a_perplexity_too_large_for_a_scoring_batch_is_scored_on_more_rows(rng, monkeypatch):
    monkeypatch.setattr("ptsne_keras.estimators.scoring._ROWS", 100)
    rows = rng.normal(size=(130, 5))
    tsne = ParametricTSNE(perplexity=65, epochs=1, hidden_units=(5,), random_state=0).fit(rows)
    assert np.isfinite(tsne.kl_divergence_)


# Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["transform", "score", "save"])
def test_use_before_fit_is_named(method, X):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(ParametricTSNE(), method)(X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perplexity": 199}, "perplexity should be above 1 and below B - 1 = 199"),
        ({"perplexity": 399, "sampling": "graph"}, "perplexity should be below N - 1"),
        *[
            ({name: value}, f"'{name}' parameter")
            for name, value in [
                ("sampling", "edges"),
                ("jitter", -1.0),
                ("n_components", 0),
                ("dof", "learned"),
                ("dof", -1.0),
                ("pretraining", "vae"),
                ("scaling", "bernoulli"),
                ("epochs", 0),
            ]
        ],
        ({"initial_dims": 20}, "initial_dims should be None with RBMs"),
        ({"activation": "relu"}, "set pretraining=None for others. Received: .relu"),
        ({"hidden_units": ()}, "hidden_units should be"),
        ({"hidden_units": (10, 0)}, "hidden_units should be"),
    ],
)
def test_bad_parameters_are_named_before_any_training(options, message, X):
    with pytest.raises(ValueError, match=message):
        ParametricTSNE(**{**SMALL, **options}).fit(X)
