import keras
import numpy as np
import pytest
import tensorflow as tf

from ptsne_keras import affinities, losses, metrics
from ptsne_keras.metrics import NeighborRecall, Trustworthiness


@pytest.fixture
def X(rng):
    return rng.normal(size=(60, 8))


@pytest.fixture
def Y(X, rng):
    return (X[:, :2] + 0.3 * rng.normal(size=(60, 2))).astype("float32")


def conditional(X):
    """Ranked exactly as the distances are, which the symmetric P is not."""
    return affinities.conditional_probabilities(X, 50).numpy()


def value(metric, P, Y):
    metric.update_state(P, Y)
    return float(metric.result())


@pytest.mark.parametrize("k", [1, 5, 12])
def test_of_all_rows_they_are_the_measures_of_arrays(k, X, Y):
    found = value(Trustworthiness(k, sample_size=60), conditional(X), Y)
    assert found == pytest.approx(metrics.trustworthiness(X, Y, k), abs=1e-6)
    found = value(NeighborRecall(k, sample_size=60), conditional(X), Y)
    wanted = metrics.neighborhood_recall(X, Y, n_neighbors=k)
    assert found == pytest.approx(wanted, abs=1e-6)


def test_equal_probabilities_share_their_mean_rank():
    """If all p_ij are equal, a neighbour's rank is B / 2 on average, whatever the map."""
    B, k = 41, 4
    P = (1 - np.eye(B)) / (B * (B - 1))
    Y = np.random.default_rng(0).normal(size=(B, 2))
    expected = 1 - 2 * (B / 2 - k) / (2 * B - 3 * k - 1)
    assert value(Trustworthiness(k, sample_size=B), P, Y) == pytest.approx(expected, abs=1e-6)


def test_a_sample_estimates_the_value_of_all_rows(X, Y):
    all_rows, some = (value(NeighborRecall(5, sample_size=n), conditional(X), Y) for n in (60, 30))
    assert some == pytest.approx(all_rows, abs=0.1)
    assert some != all_rows


def test_recall_of_pairs_is_the_share_of_partners_found(rng):
    half = rng.normal(size=(30, 2)) * 10
    P = np.full((60, 1), 1 / 60)
    near, far = (np.concatenate([half, other]) for other in (half + 0.01, rng.permutation(half)))
    assert value(NeighborRecall(1, sample_size=60), P, near) == 1.0
    assert value(NeighborRecall(1, sample_size=60), P, far) < 0.3
    with pytest.raises(ValueError, match=r"Trustworthiness should have P \[B, B\]"):
        Trustworthiness().update_state(P, near)


@pytest.mark.parametrize("kind", [NeighborRecall, Trustworthiness])
@pytest.mark.parametrize("name", ["n_neighbors", "sample_size", "blocks"])
def test_bad_sizes_are_named(kind, name):
    for wrong in (0, 1.5, "3", None):
        with pytest.raises(ValueError, match=f"{name} should be an integer of at least 1"):
            kind(**{name: wrong})


@pytest.mark.parametrize(("metric", "B"), [(NeighborRecall(7), 7), (Trustworthiness(4), 8)])
def test_batches_with_too_few_rows(metric, B, rng):
    """An error if their size is known in advance, else NaN; one more row suffices."""
    Y = rng.normal(size=(B + 1, 2)).astype("float32")
    P = 1 - np.eye(B + 1, dtype="float32")
    with pytest.raises(ValueError, match="n_neighbors should be smaller, or batches have at least"):
        metric.update_state(P[:B, :B], Y[:B])
    signature = [tf.TensorSpec([None, None]), tf.TensorSpec([None, 2])]
    update = tf.function(metric.update_state, input_signature=signature)
    update(P[:B, :B], Y[:B])
    assert np.isnan(metric.result())
    metric.reset_state()
    update(P, Y)
    assert np.isfinite(metric.result())


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_in_a_users_own_model(X, Y, tmp_path, jit_compile):
    P = conditional(X).astype("float32")
    P = (P + P.T) / (2 * len(P))
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    both = [NeighborRecall(5), Trustworthiness(5)]
    model.compile("adam", loss=losses.TSNE(), metrics=both, jit_compile=jit_compile)
    model.fit(X.astype("float32"), P, batch_size=60, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    options = {"batch_size": 60, "verbose": 0, "return_dict": True}
    found = loaded.evaluate(X.astype("float32"), P, **options)
    assert found == pytest.approx(model.evaluate(X.astype("float32"), P, **options))
    assert 0 < found["neighbor_recall"] < 1
