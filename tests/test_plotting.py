import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from ptsne_keras import plotting


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def points(ax):
    return {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections}


def test_map_draws_each_row_once_in_the_colour_of_its_class(rng):
    Y, labels = rng.normal(size=(50, 2)), np.repeat(["b", "a"], 25)
    ax = plotting.map(Y, labels)
    drawn = points(ax)
    np.testing.assert_allclose(drawn["b"], Y[:25])
    np.testing.assert_allclose(drawn["a"], Y[25:])
    colours = [to_hex(c.get_facecolor()[0]) for c in ax.collections]
    assert colours == list(plotting.PALETTE[:2])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.get_aspect() == 1


def test_axes_given_are_the_axes_returned(rng):
    ax = plt.subplots()[1]
    assert plotting.map(rng.normal(size=(5, 2)), ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def test_overlay_draws_training_rows_faint_and_test_rows_strong(rng):
    train, test = rng.normal(size=(30, 2)), rng.normal(size=(10, 2))
    labels = np.repeat([0, 1, 2], 10)
    ax = plotting.overlay(train, labels, test, np.full(10, 2))
    faint, strong = ax.collections[:3], ax.collections[3:]
    assert all(c.get_alpha() < 0.5 for c in faint)
    assert all(c.get_alpha() is None or c.get_alpha() == 1 for c in strong)
    # A class missing from the test rows does not shift the colours of the others.
    assert [to_hex(c.get_facecolor()[0]) for c in faint] == list(plotting.PALETTE[:3])
    (drawn,) = [c for c in strong if len(c.get_offsets())]
    assert to_hex(drawn.get_facecolor()[0]) == plotting.PALETTE[2]
    assert len(ax.get_legend().get_texts()) == 3


@pytest.mark.parametrize(
    ("Y", "labels", "message"),
    [
        (np.ones((5, 3)), None, r"2-D map \[N, 2\]. Received: shape \(5, 3\)"),
        (np.ones((5, 2)), [1, 2], "one a row, 5. Received: 2"),
    ],
)
def test_bad_input_is_named(Y, labels, message):
    with pytest.raises(ValueError, match=message):
        plotting.map(Y, labels)
