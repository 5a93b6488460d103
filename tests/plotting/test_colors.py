import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from ptsne_keras import plotting
from ptsne_keras.plotting import density
from ptsne_keras.plotting.colors import MISSING, look, read_labels


@pytest.mark.parametrize(
    ("labels", "names", "codes"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        ([3, 1, 3], ("1", "3"), [1, 0, 1]),
        ([3.0, np.nan, 1.0], ("1", "3"), [1, -1, 0]),
        (["b", "", "a"], ("a", "b"), [1, -1, 0]),
        (["b", "NA", "Na"], ("Na", "b"), [1, -1, 0]),
        (np.array(["b", "", "a"], object), ("a", "b"), [1, -1, 0]),
        (["class 10", "class 2", "class 1"], ("class 1", "class 2", "class 10"), [2, 1, 0]),
        (["v1.10", "v1", "v1.9"], ("v1", "v1.9", "v1.10"), [2, 0, 1]),
        (["007", "7", "a"], ("007", "7", "a"), [0, 1, 2]),
        (["b", None, "a"], ("a", "b"), [1, -1, 0]),
        (["b", 1, None], ("b", "1"), [0, 1, -1]),
        (np.array([b"b", b"a", b"b"]), ("a", "b"), [1, 0, 1]),
        (pd.Series(["b", "a", None], index=[7, 8, 9]), ("a", "b"), [1, 0, -1]),
        (pd.Series([2, None, 1], dtype="Int64"), ("1", "2"), [1, -1, 0]),
        (pd.Categorical(["lo", "hi", None], ["lo", "hi"]), ("lo", "hi"), [0, 1, -1]),
        (pd.Series(pd.Categorical(["x", "z", "z"], list("zyx"))), ("z", "y", "x"), [2, 0, 0]),
    ],
)
def test_labels_of_many_kinds_are_classes(labels, names, codes):
    (read,) = read_labels((labels, 3))
    assert read.names == names
    np.testing.assert_array_equal(read.codes, codes)
    assert read.values is None


def test_fractions_are_numbers_and_integers_are_if_there_are_many_or_on_request():
    half = [0.5, np.nan, 2], [0.5, None, 2], pd.Series([0.5, None, 2], dtype="Float64")
    for labels in half:
        np.testing.assert_array_equal(read_labels((labels, 3))[0].values, [0.5, np.nan, 2])
    assert read_labels(([1, 2, 3], 3), continuous=True)[0].limits() == (1, 3)
    assert read_labels((np.arange(51), 51))[0].values is not None
    assert read_labels((np.arange(50), 50))[0].values is None
    assert read_labels(([0.5, 1.5], 2), continuous=False)[0].names == ("0.5", "1.5")


@pytest.mark.parametrize(
    ("several", "classes"),
    [
        ((pd.Categorical(["lo"], ["lo", "mid", "hi"]), ["other"]), ("lo", "mid", "hi", "other")),
        ((["b"], ["a"]), ("a", "b")),
        ((["1"], [1]), ("1", 1)),  # text is not a number
        (([0.5], [1.5]), ()),
        (([1.0], [0.5]), ()),
        (([np.nan], [1]), (1.0,)),
        ((["a"], [0.5]), ("a", 0.5)),
        ((None, ["a"]), ("a",)),
        ((None, None), ("",)),
    ],
)
def test_lists_read_together_share_classes_or_are_all_numbers(several, classes):
    read = read_labels(*((labels, 1) for labels in several))
    assert read[1].classes == classes
    assert [part.values is None for part in read] == [classes != ()] * 2


def test_fifty_classes_look_different_and_unlabelled_rows_are_lighter():
    assert len({look(i) for i in range(50)}) == len({density.tint(i) for i in range(50)}) == 50
    light = [np.mean(to_rgb(color)) for color in plotting.PALETTE]
    assert np.mean(to_rgb(MISSING)) > max(light) + 0.1


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["2020-01-01", "2021-01-01"], "datetime64[ns]"),
        pd.Series(pd.to_datetime(["2020-01-01", None])),
        pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01"], utc=True)),
        np.array([1, 2], "timedelta64[D]"),
    ],
)
def test_dates_are_refused_and_the_error_says_what_to_give(labels):
    with pytest.raises(ValueError, match=r"no dates; give years, .*\.year.* Received: d") as raised:
        read_labels((labels, 2))
    assert "\n" not in str(raised.value)
