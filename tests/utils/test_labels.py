import numpy as np
import pandas
import pytest

from ptsne_keras.utils import labels


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", "", " ", "NA", "<NA>", "NaN", "null", "None"], [False, *[True] * 7]),
        (["Na", "none", "no", "0"], [False] * 4),
        ([b"a", b"NA"], [False, True]),
        ([1.0, np.nan], [False, True]),
        ([1, 0], [False] * 2),
        (np.array([None, np.nan, pandas.NA, pandas.NaT, "NA", "a"], object), [True] * 5 + [False]),
        (np.array(["2020-01-01", "NaT"], "datetime64[D]"), [False, True]),
        (pandas.Series(["a", None], dtype="string"), [False, True]),
        (pandas.Categorical(["a", None]), [False, True]),
    ],
)
def test_missing_labels(values, expected):
    assert labels.is_missing(values).tolist() == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["0", "10", "9"], [0, 10, 9]),
        (["0.0", "1.0", None], [0, 1, None]),
        (["0.5", "-1e-3"], [0.5, -0.001]),
        (["01", "1", "1.0"], ["01", "1", "1.0"]),
        (["1", "1.0"], ["1", "1.0"]),
        (["007", "8"], ["007", "8"]),
        (["1_0", "2"], ["1_0", "2"]),
        (["9007199254740993", "1"], ["9007199254740993", "1"]),
        (["inf", "1"], ["inf", "1"]),
        ([None, None], [None, None]),
    ],
)
def test_labels_are_numbers_only_if_nothing_is_lost(texts, expected):
    kind = object if None in texts else str
    found = labels.as_numbers(np.array(texts, kind)).tolist()
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))
