"""scikit-learn's conventions."""

import pytest
import tensorflow as tf
from sklearn.utils.estimator_checks import check_regressors_train, parametrize_with_checks

from ptsne_keras import MapRegressor, ParametricTSNE


def small(sampling, placement=True):
    return ParametricTSNE(
        hidden_units=(4,), epochs=1, sampling=sampling, perplexity=1.5, batch_size=500,
        placement=placement, random_state=0,
    )  # fmt: skip


# Some of the checks' rows are duplicates, all zero for instance, which is rightly reported.
duplicates = pytest.mark.filterwarnings("ignore:.* of the rows have at least:UserWarning")
# float64 places of a float32 network: products of one row are rounded differently from many.
rounded = {"check_methods_subset_invariance": "float32 products depend on the number of rows"}


@pytest.fixture
def untraced():
    """Run steps as they are: the checks' few steps are done sooner than traced."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.slow
@duplicates
@pytest.mark.usefixtures("untraced")
@parametrize_with_checks([small("graph")])
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@duplicates
@pytest.mark.usefixtures("untraced")
@parametrize_with_checks([small("batch", placement=False)])
def test_scikit_learns_estimator_checks_of_batches(estimator, check):
    check(estimator)


def failing(estimator):
    few = {"check_regressors_train": "two epochs are too few: see below"}
    return rounded | (few if estimator.objective == "squares" else {})


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
@parametrize_with_checks(
    [
        MapRegressor(objective=each, epochs=2, batch_size=50, random_state=0)
        for each in ("placement", "squares")
    ],
    expected_failed_checks=failing,
)
def test_scikit_learns_checks_of_regressors(estimator, check):
    check(estimator)


# Last, since it is traced: what runs untraced later in the same process would be slow.
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"readonly_memmap": True}, {"readonly_memmap": True, "X_dtype": "float32"}],
    ids=str,
)
def test_scikit_learns_check_of_what_regressors_learn(options):
    estimator = MapRegressor(objective="squares", epochs=30, batch_size=50, random_state=0)
    check_regressors_train("MapRegressor", estimator, **options)
