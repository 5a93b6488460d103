"""scikit-learn's conventions."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from ptsne_keras import ParametricTSNE


def small(sampling):
    return ParametricTSNE(
        hidden_units=(4,),
        epochs=1,
        pretraining="none",  # the checks are about the interface; RBMs would take minutes
        sampling=sampling,
        perplexity=1.5,
        batch_size=500,
        random_state=0,
    )


# Some of the checks' rows are duplicates, all zero for instance, which is rightly reported.
duplicates = pytest.mark.filterwarnings("ignore:.* of the rows have at least:UserWarning")


@duplicates
@parametrize_with_checks([small("graph")])
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@duplicates
@parametrize_with_checks([small("batch")])
def test_scikit_learns_estimator_checks_of_batches(estimator, check):
    check(estimator)
