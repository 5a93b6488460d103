import keras
import numpy as np
import pytest
import tensorflow as tf

from ptsne_keras import affinities, losses, metrics
from ptsne_keras.metrics import batch


@pytest.fixture
def X(rng):
    return rng.normal(size=(60, 8))


@pytest.fixture
def Y(X, rng):
    return (X[:, :2] + 0.3 * rng.normal(size=(60, 2))).astype("float32")


def conditional(X):
    """Ranks as the distances do, which the symmetric P does not exactly."""
    return affinities.conditional_probabilities(X, 50).numpy()


def value(metric, P, Y):
    metric.update_state(P, Y)
    return float(metric.result())


@pytest.mark.parametrize("k", [1, 5, 12])
def test_trustworthiness_is_that_of_all_rows(X, Y, k):
    found = value(batch.Trustworthiness(k, rows=60), conditional(X), Y)
    assert found == pytest.approx(metrics.trustworthiness(X, Y, k), abs=1e-6)


@pytest.mark.parametrize("k", [1, 5, 12])
def test_recall_is_the_share_of_neighbours_found(X, Y, k):
    def nearest(Z):
        D2 = np.square(Z[:, None] - Z[None]).sum(-1)
        np.fill_diagonal(D2, np.inf)
        return np.argsort(D2, axis=1)[:, :k]

    wanted = np.mean(
        [len(set(a) & set(b)) / k for a, b in zip(nearest(X), nearest(Y), strict=True)]
    )
    found = value(batch.NeighborRecall(k, rows=60), conditional(X), Y)
    assert found == pytest.approx(wanted, abs=1e-6)


def test_equal_probabilities_have_their_mean_rank():
    """All p_ij equal: a neighbour's rank is B / 2 on average, whatever the map."""
    B, k = 41, 4
    P = (1 - np.eye(B)) / (B * (B - 1))
    Y = np.random.default_rng(0).normal(size=(B, 2))
    expected = 1 - 2 * (B / 2 - k) / (2 * B - 3 * k - 1)
    metric = batch.Trustworthiness(k, rows=B)
    assert value(metric, P, Y) == pytest.approx(expected, abs=1e-6)


def test_some_rows_estimate_all(X, Y):
    all_rows = value(batch.NeighborRecall(5, rows=60), conditional(X), Y)
    some = value(batch.NeighborRecall(5, rows=30), conditional(X), Y)
    assert some == pytest.approx(all_rows, abs=0.1)
    assert some != all_rows


def test_recall_of_pairs_is_the_share_of_partners_found(rng):
    half = rng.normal(size=(30, 2)) * 10
    far = rng.permutation(half)
    P = np.full((60, 1), 1 / 60)
    near = np.concatenate([half, half + 0.01])
    assert value(batch.NeighborRecall(1, rows=60), P, near) == 1.0
    assert value(batch.NeighborRecall(1, rows=60), P, np.concatenate([half, far])) < 0.3


def test_pairs_have_no_trustworthiness():
    with pytest.raises(ValueError, match=r"Trustworthiness should have P \[B, B\]"):
        batch.Trustworthiness().update_state(np.full((60, 1), 1 / 60), np.zeros((60, 2)))


@pytest.mark.parametrize("kind", [batch.NeighborRecall, batch.Trustworthiness])
def test_bad_sizes(kind):
    for k in (0, 1.5, "3", None):
        with pytest.raises(ValueError, match="k and rows should be integers of at least 1"):
            kind(k)


@pytest.mark.parametrize(
    ("metric", "B"), [(batch.NeighborRecall(7), 7), (batch.Trustworthiness(4), 8)]
)
def test_batches_with_too_few_rows(metric, B, rng):
    """An error where their size is known before they run, NaN where it is not; k + 1 rows do."""
    Y = rng.normal(size=(B + 1, 2)).astype("float32")
    P = 1 - np.eye(B + 1, dtype="float32")
    with pytest.raises(ValueError, match="k should be smaller, or batches of at least"):
        metric.update_state(P[:B, :B], Y[:B])
    signature = [tf.TensorSpec([None, None]), tf.TensorSpec([None, 2])]
    update = tf.function(metric.update_state, input_signature=signature)
    update(P[:B, :B], Y[:B])
    assert np.isnan(metric.result())
    metric.reset_state()
    update(P, Y)
    assert np.isfinite(metric.result())


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_model_of_ones_own(X, Y, tmp_path, jit_compile):
    P = conditional(X).astype("float32")
    P = (P + P.T) / (2 * len(P))
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    both = [batch.NeighborRecall(5), batch.Trustworthiness(5)]
    model.compile("adam", loss=losses.TSNE(), metrics=both, jit_compile=jit_compile)
    model.fit(X.astype("float32"), P, batch_size=60, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    options = {"batch_size": 60, "verbose": 0, "return_dict": True}
    found = loaded.evaluate(X.astype("float32"), P, **options)
    assert found == pytest.approx(model.evaluate(X.astype("float32"), P, **options))
    assert 0 < found["neighbor_recall"] < 1
