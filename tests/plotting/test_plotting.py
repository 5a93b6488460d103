import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from matplotlib.colors import to_hex, to_rgb
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from ptsne_keras import metrics, plotting
from ptsne_keras.networks import rbm
from ptsne_keras.plotting import density
from ptsne_keras.plotting.colors import MISSING, Labels, look, numeric, union

HOLED = np.where(np.eye(5)[1][:, None] == 1, np.nan, np.eye(5))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def points(ax):
    return {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections}


def listed(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def written(ax, kind):
    buffer = io.BytesIO()
    ax.figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def test_map_draws_each_row_once_in_the_colour_of_its_class(rng):
    Y, labels = rng.normal(size=(50, 2)), np.repeat(["b", "a"], 25)
    ax = plotting.map(Y, labels)
    drawn = points(ax)
    np.testing.assert_allclose(drawn["b"], Y[:25])
    np.testing.assert_allclose(drawn["a"], Y[25:])
    colours = [to_hex(c.get_facecolor()[0]) for c in ax.collections]
    assert colours == list(plotting.PALETTE[:2])
    assert listed(ax) == ["a", "b"]
    assert ax.get_aspect() == 1


def test_axes_given_are_the_axes_returned(rng):
    X, Y = rng.normal(size=(40, 9)), rng.normal(size=(40, 2))
    pictures = [
        lambda ax: plotting.map(Y, ax=ax),
        lambda ax: plotting.overlay(Y, None, Y, None, ax=ax),
        lambda ax: plotting.kl_curve({"loss": [2.0, 1.0]}, ax=ax),
        lambda ax: plotting.shepard(X, Y, ax=ax),
        lambda ax: plotting.recall_curve(X, Y, ax=ax),
        lambda ax: plotting.rbm_filters(X.T, ax=ax),
        lambda ax: plotting.point_quality(X, Y, ax=ax),
        lambda ax: plotting.learning_curve({"error": [1.0], "val_error": [1.0]}, ax=ax),
    ]
    for draw in pictures:
        ax = plt.subplots()[1]
        assert draw(ax) is ax
        assert len(plt.get_fignums()) == 1
        assert written(ax, "png").startswith(b"\x89PNG")
        assert b"<svg" in written(ax, "svg")
        assert written(ax, "pdf").startswith(b"%PDF")
        plt.close("all")


def test_points_are_smaller_where_they_are_many_or_the_axes_small(rng):
    whole = plt.subplots(figsize=(8, 7))[1]
    part = plt.subplots(2, 3, figsize=(8, 7))[1][0, 0]
    sizes = [
        plotting.map(rng.normal(size=(n, 2)), ax=ax).collections[-1].get_sizes()[0]
        for n, ax in ((1000, whole), (1000, part), (30_000, whole))
    ]
    assert sizes[0] > 2 * sizes[1]
    assert sizes[0] > 2 * sizes[2]
    assert plotting.map(rng.normal(size=(5, 2)), s=3).collections[0].get_sizes() == [3]


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


def test_overlay_of_numbers_has_one_scale(rng):
    train, test = rng.normal(size=(30, 2)), rng.normal(size=(10, 2))
    ax = plotting.overlay(train, np.linspace(0.1, 1, 30), test, np.linspace(0.5, 2, 10))
    assert {(c.norm.vmin, c.norm.vmax) for c in ax.collections} == {(0.1, 2.0)}


def test_fifty_classes_look_different_and_many_are_listed_in_columns(rng):
    assert len({look(i) for i in range(50)}) == 50
    assert len({density.tint(i) for i in range(50)}) == 50
    labels = [f"class {i % 50:02}" for i in range(200)]
    ax = plotting.map(rng.normal(size=(200, 2)), labels)
    assert len(listed(ax)) == 50
    ax.figure.canvas.draw()
    box, page = ax.get_legend().get_window_extent(), ax.figure.bbox
    assert box.x1 <= page.x1
    assert page.y0 <= box.y0 < box.y1 <= page.y1
    ax = plotting.map(rng.normal(size=(200, 2)), [f"class {i}" for i in range(200)])
    assert listed(ax)[-1] == "… and 140 more"


@pytest.mark.parametrize(
    ("labels", "names", "codes"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        ([3, 1, 3], ("1", "3"), [1, 0, 1]),
        ([3.0, np.nan, 1.0], ("1", "3"), [1, -1, 0]),
        (["b", "", "a"], ("a", "b"), [1, -1, 0]),
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
    found = Labels.of(labels, 3)
    assert found.names == names
    np.testing.assert_array_equal(found.codes, codes)
    assert found.values is None


@pytest.mark.parametrize(
    "labels", [[0.5, np.nan, 2], [0.5, None, 2], pd.Series([0.5, None, 2], dtype="Float64")]
)
def test_labels_that_are_not_whole_are_numbers(labels):
    np.testing.assert_array_equal(Labels.of(labels, 3).values, [0.5, np.nan, 2])
    assert Labels.of([1, 2, 3], 3, continuous=True).limits() == (1, 3)
    assert Labels.of(np.arange(51), 51).values is not None
    assert Labels.of(np.arange(50), 50).values is None
    assert Labels.of([0.5, 1.5], 2, continuous=False).names == ("0.5", "1.5")


def test_classes_of_several_lists_keep_an_order_that_one_of_them_has():
    ordered = pd.Categorical(["lo", "hi"], ["lo", "mid", "hi"])
    assert union(ordered, ["hi", "other"]) == ["lo", "mid", "hi", "other"]
    assert union(["b"], ["c", "a"]) == ["a", "b", "c"]
    assert union(["1", "2"], [1, 2]) == ["1", "2", 1, 2]  # text is no number


def test_labels_are_numbers_or_classes_taken_together(rng):
    assert numeric([0.0, 1.0], [0.5, np.nan])
    assert not numeric([0.0, np.nan], [1, 2])
    assert not numeric(["a", "b"], [0.5, 1.5])
    assert not numeric(None, None)
    Y = rng.normal(size=(4, 2))
    ax = plotting.overlay(Y, [0, 1, 2, 3], Y, [0.5, 1, 2, 9])
    assert {(c.norm.vmin, c.norm.vmax) for c in ax.collections} == {(0, 9)}
    assert listed(plotting.overlay(Y, list("abab"), Y, [0.5, 0.5, 1, 1])) == ["a", "b", "0.5", "1"]


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["2020-01-01", "2021-01-01"], "datetime64[ns]"),
        pd.Series(pd.to_datetime(["2020-01-01", None])),
        pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01"], utc=True)),
        np.array([1, 2], "timedelta64[D]"),
    ],
)
def test_dates_are_refused_with_a_mend(labels):
    with pytest.raises(ValueError, match=r"no dates; give years, .*\.year.* Received: d") as raised:
        plotting.map(np.eye(2), labels)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("density_", [True, False])
def test_dollars_and_lines_in_names_are_text_and_no_formulas(density_, rng):
    Y, names = rng.normal(size=(4, 2)), ["a_$", "$5 to", "_x", "$\\frac{"]
    ax = plotting.map(Y, pd.Series(names, name="price $x_$"), density=density_)
    assert sorted(listed(ax)) == sorted(names)
    with mpl.rc_context({"svg.fonttype": "none"}):
        assert all(text in written(ax, "svg") for text in (b">$5 to<", b">price $x_$<"))
    ax = plotting.map(Y, pd.Series([0.5, 1, 2, 3], name="price $x_$"), density=density_)
    assert written(ax, "png").startswith(b"\x89PNG")
    assert written(plotting.overlay(Y, names, Y, names), "pdf").startswith(b"%PDF")


def test_long_names_are_cut_in_the_legend(rng):
    ax = plotting.map(rng.normal(size=(2, 2)), ["a " * 40, "two\nlines"])
    first, second = listed(ax)
    assert len(first) == 30
    assert first.endswith("…")
    assert second == "two lines"


def test_the_legend_of_many_classes_leaves_the_map_its_place(rng):
    for i in (12, 50, 200):
        labels = [f"number {k % i} of classes with long names" for k in range(400)]
        ax = plotting.map(rng.normal(size=(400, 2)), labels)
        ax.figure.canvas.draw()
        page, box = ax.figure.bbox, ax.get_legend().get_window_extent()
        assert ax.get_window_extent().width > 0.5 * page.width
        assert page.y0 <= box.y0 < box.y1 <= page.y1
        assert box.x1 <= page.x1


def test_no_label_is_lighter_than_every_class():
    light = [np.mean(to_rgb(color)) for color in plotting.PALETTE]
    assert np.mean(to_rgb(MISSING)) > max(light) + 0.1


def test_numbers_are_drawn_by_a_scale_that_is_shown_and_missing_ones_grey(rng):
    Y, values = rng.normal(size=(40, 2)), np.linspace(0, 1, 40)
    values[:4] = np.nan
    ax = plotting.map(Y, pd.Series(values, name="age"))
    grey, colored = ax.collections
    np.testing.assert_allclose(grey.get_offsets(), Y[:4])
    assert to_hex(grey.get_facecolor()[0]) == MISSING
    np.testing.assert_allclose(colored.get_array(), values[4:])
    assert colored.cmap.name == plotting.CONTINUOUS
    (bar,) = [other for other in ax.figure.axes if other is not ax]
    assert bar.get_ylabel() == "age"
    assert bar.get_ylim() == (values[4], 1)
    assert len(plotting.map(Y, values, legend=False).figure.axes) == 1


def test_rows_without_a_label_are_listed_and_grey(rng):
    ax = plotting.map(rng.normal(size=(4, 2)), ["a", None, "b", "a"])
    assert listed(ax) == ["a", "b", "no label"]
    ax = plotting.map(rng.normal(size=(4, 2)), ["a", "c", "b", "a"], classes=["a", "b"])
    assert listed(ax) == ["a", "b", "other"]
    assert to_hex(ax.collections[0].get_facecolor()[0]) == MISSING


def test_many_rows_are_shaded_by_the_class_of_most_and_stay_small_in_every_format(rng):
    n = 100_000
    labels = rng.integers(4, size=n)
    Y = np.array([[0, 0], [0, 8], [8, 0], [8, 8]])[labels] + rng.normal(size=(n, 2))
    ax = plotting.map(Y, labels)
    assert not ax.collections
    (image,) = ax.images
    assert listed(ax) == ["0", "1", "2", "3"]
    left, _, bottom, _ = image.get_extent()
    pixels, side = image.get_array(), (image.get_extent()[1] - left) / image.get_array().shape[1]
    for i, place in enumerate([[0, 0], [0, 8], [8, 0], [8, 8]]):
        column, row = ((np.array(place) - (left, bottom)) / side).astype(int)
        np.testing.assert_allclose(pixels[row, column, :3], to_rgb(plotting.PALETTE[i]))
    for kind in ("svg", "pdf", "png"):
        assert len(written(ax, kind)) < 1_000_000
    points = plotting.map(Y[:40_000], labels[:40_000])
    assert points.collections
    assert not points.images
    assert len(written(points, "svg")) < 1_000_000


def test_shading_is_the_stronger_the_more_rows_and_empty_where_there_are_none():
    Y = np.repeat([[0.0, 0], [1, 0], [2, 0], [3, 1]], [1, 5, 50, 5], axis=0)
    opacity = plotting.map(Y, density=True).images[0].get_array()[..., 3]
    faint, middle, strong = (opacity[0, int(x * 512 / 3)] for x in (0, 1, 2))
    assert 0 < faint < middle < strong == 1
    assert np.count_nonzero(opacity) == 4
    assert opacity.max() == 1


def test_shading_of_numbers_shows_their_mean():
    Y = np.repeat([[0.0, 0], [1, 1], [0.5, 0.5]], 2, axis=0)
    ax = plotting.map(Y, [0.0, 1.0, 2.0, 2.5, np.nan, np.nan], density=True)
    pixels = ax.images[0].get_array()
    scale = mpl.colormaps[plotting.CONTINUOUS]
    np.testing.assert_allclose(pixels[0, 0, :3], scale(0.5 / 2.5)[:3])
    np.testing.assert_allclose(pixels[-1, -1, :3], scale(2.25 / 2.5)[:3])
    np.testing.assert_allclose(pixels[256, 256, :3], to_rgb(MISSING))


def test_maps_of_one_place_and_of_no_rows_are_drawn():
    for Y in (np.ones((3, 2)), np.empty((0, 2))):
        for density_ in (True, False):
            written(plotting.map(Y, density=density_), "png")


def test_kl_curve_calls_the_loss_divergence_only_where_it_is(rng):
    history = {"finetune": {"loss": [3.0, 2.0, 1.5], "val_loss": [3.5, 3.0, 2.9]}, "pretrain": []}
    ax = plotting.kl_curve(history, exaggeration=1)
    training, held_out = ax.lines
    np.testing.assert_allclose(training.get_xydata(), [[1, 3], [2, 2], [3, 1.5]])
    np.testing.assert_allclose(held_out.get_ydata(), [3.5, 3.0, 2.9])
    assert ax.get_ylabel() == "KL(P‖Q), nats"
    assert plotting.kl_curve(history).get_ylabel() == "loss, nats"
    ax = plotting.kl_curve(history, exaggeration=1.5)
    assert ax.get_ylabel() == "loss, nats"
    assert "c = 1.5" in ax.get_title()

    class Fitted:
        history_, exaggeration = history, 1.0

    assert plotting.kl_curve(Fitted()).get_ylabel() == "KL(P‖Q), nats"


def test_shepard_shows_all_pairs_and_says_their_rank_correlation(rng):
    X = rng.normal(size=(60, 5))
    Y = X[:, :2]
    ax = plotting.shepard(X, Y)
    assert ax.collections[0].get_array().sum() == 60 * 59 / 2
    assert f"ρ = {spearmanr(pdist(X), pdist(Y)).statistic:.2f}" in ax.get_title()
    assert "20 rows" in plotting.shepard(scipy.sparse.csr_matrix(X), Y, rows=20).get_title()


def test_recall_curve_is_recall_by_k_beside_chance(rng):
    X = rng.normal(size=(80, 5))
    Y = X[:, :2]
    ax = plotting.recall_curve(X[:60], Y[:60], X_test=X[60:], Y_test=Y[60:], ks=(1, 5, 20, 100))
    train, test, chance = ax.lines
    for k, of_train, of_test in zip((1, 5, 20), train.get_ydata(), test.get_ydata(), strict=True):
        each = metrics.neighborhood_recall_per_row(X[:60], Y[:60], k)
        assert of_train == pytest.approx(each.mean())
        expected = metrics.neighborhood_recall(X[:60], Y[:60], X[60:], Y[60:], k)
        assert of_test == pytest.approx(expected)
    np.testing.assert_allclose(chance.get_ydata(), np.array([1, 5, 20]) / 59)
    drawn = plotting.recall_curve(X, Y, ks=(5,), rows=20).lines[0].get_ydata()
    assert drawn == pytest.approx(metrics.neighborhood_recall_per_row(X, Y, 5).mean(), abs=0.2)


def test_point_quality_colours_each_row_by_its_recall_the_worst_last(rng):
    X = rng.normal(size=(60, 5))
    Y = X[:, :2]
    (drawn,) = plotting.point_quality(X, Y, k=5).collections
    shares = drawn.get_array()
    assert (np.diff(shares) <= 0).all()
    recall = metrics.neighborhood_recall_per_row(X, Y, 5)
    each = {tuple(y): share for y, share in zip(Y, recall, strict=True)}
    np.testing.assert_allclose(shares, [each[tuple(y)] for y in drawn.get_offsets().data])


def test_rbm_filters_are_the_weights_as_images_strongest_first(rng):
    weights = rng.normal(size=(6, 5))
    weights[:, 3] *= 10
    image = plotting.rbm_filters(weights, shape=(2, 3), count=4).images[0].get_array()
    first = weights[:, 3].reshape(2, 3)
    np.testing.assert_allclose(image[:2, :3], first / np.abs(first).max())
    assert np.ma.getmaskarray(np.ma.masked_invalid(image))[:, 3].all()  # a gap
    machine = rbm.RBM(10, seed=0)
    machine.build((None, 9))
    assert "10 of 10 hidden units" in plotting.rbm_filters(machine).get_title()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plotting.map(np.ones((5, 3))), r"such as Y\[:, :2\]. Received: shape \(5, 3\)"),
        (lambda: plotting.map(np.ones(5)), r"column_stack\(\[Y, np.zeros.* shape \(5,\)"),
        (lambda: plotting.map(np.ones((5, 1))), r"a second column.* Received: shape \(5, 1\)"),
        (lambda: plotting.map([["a", "b"]]), "Y should be numeric"),
        (lambda: plotting.map(np.ones((5, 2)), [1, 2]), "one a row, 5. Received: 2"),
        (lambda: plotting.map([[0, 1], [0, np.nan]]), "Y should be finite. .* first at index 1"),
        (lambda: plotting.map([[0, 1]], ["a"], continuous=True), "should be numbers"),
        (lambda: plotting.map([[0, 1]], density="yes"), "density should be True, False"),
        (lambda: plotting.map([[0, 1]], continuous="no"), "continuous should be True, False"),
        (lambda: plotting.overlay(np.ones((5, 3)), None, [[0, 1]], None), "Y_train should be a"),
        (lambda: plotting.kl_curve({"pretrain": []}), r'a "loss".* Received: \[.pretrain.\]'),
        (lambda: plotting.kl_curve(None), "a fitted ParametricTSNE, .* Received: NoneType"),
        (lambda: plotting.shepard(np.ones((5, 3)), np.ones((4, 2))), "a place for each row"),
        (lambda: plotting.shepard(np.ones((1, 3)), np.ones((1, 2))), "X should have at least 3"),
        (lambda: plotting.shepard(np.eye(5), np.eye(5), rows=2), "rows should be at least 3"),
        (lambda: plotting.shepard(HOLED, np.eye(5)), "X should be finite.* at index 1"),
        (lambda: plotting.shepard(scipy.sparse.csr_matrix(HOLED), np.eye(5)), "X should be finite"),
        (lambda: plotting.recall_curve(np.eye(5), HOLED), "Y should be finite.* at index 1"),
        (
            lambda: plotting.recall_curve(np.eye(5), np.eye(5), X_test=HOLED, Y_test=np.eye(5)),
            "X_test should be finite",
        ),
        (lambda: plotting.recall_curve([["a"] * 5] * 5, np.eye(5)), "X should be numeric"),
        (lambda: plotting.point_quality(HOLED, np.eye(5)[:, :2], k=2), "X should be finite"),
        (
            lambda: plotting.point_quality(np.eye(5), np.eye(5)[:, :2], k=2.0),
            "should be an integer of at least 1. Received: 2.0",
        ),
        (lambda: plotting.recall_curve(np.eye(5), np.eye(5), ks=(9,)), "ks should be from 1 to"),
        (lambda: plotting.rbm_filters(np.ones((7, 3))), "7 is not a square"),
        (lambda: plotting.rbm_filters(np.ones((6, 3)), shape=(2, 2)), r"Received: \(2, 2\)"),
        (lambda: plotting.rbm_filters(rbm.RBM(3)), "no weights yet"),
    ],
)
def test_bad_input_is_named(draw, message):
    with pytest.raises(ValueError, match=message) as raised:
        draw()
    assert "\n" not in str(raised.value)
