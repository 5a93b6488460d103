"""Each fault is still one of the code as it stands."""

from pathlib import Path

import pytest
from mutations.faults import FAULTS

import ptsne_keras

PACKAGE, TESTS = Path(ptsne_keras.__file__).parent, Path(__file__).parents[1]


@pytest.mark.parametrize(("file", "right", "wrong", "tests"), FAULTS)
def test_a_fault_can_be_put_into_the_code(file, right, wrong, tests):
    text = (PACKAGE / file).read_text()
    assert text.count(right) == 1
    assert wrong != right
    assert (TESTS / tests).exists()
