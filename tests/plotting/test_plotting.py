import io
from types import SimpleNamespace

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
from ptsne_keras.plotting.colors import MISSING

HOLED = np.where(np.eye(5)[1][:, None] == 1, np.nan, np.eye(5))
CORNERS = np.array([[0, 0], [0, 8], [8, 0], [8, 8]])


@pytest.fixture
def X(rng):
    """Rows whose first two columns are their map."""
    return rng.normal(size=(60, 5))


def listed(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def written(ax, kind):
    buffer = io.BytesIO()
    ax.figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def face_colors(collections):
    return [to_hex(c.get_facecolor()[0]) for c in collections]


def test_scatter_draws_each_row_once_in_the_colour_of_its_class(rng):
    Y, labels = rng.normal(size=(50, 2)), np.repeat(["b", "a"], 25)
    ax = plotting.scatter(Y, labels)
    drawn = [c.get_offsets() for c in ax.collections]
    np.testing.assert_allclose(np.concatenate(drawn), np.roll(Y, 25, axis=0))
    assert face_colors(ax.collections) == list(plotting.PALETTE[:2])
    assert listed(ax) == ["a", "b"]
    assert ax.get_aspect() == 1


@pytest.mark.parametrize(
    "draw",
    [
        lambda X, Y, **ax: plotting.scatter(Y, **ax),
        lambda X, Y, **ax: plotting.overlay(Y, None, Y, None, **ax),
        lambda X, Y, **ax: plotting.kl_curve({"loss": [2.0, 1.0]}, **ax),
        lambda X, Y, **ax: plotting.rbm_filters(X.T, **ax),
        lambda X, Y, **ax: plotting.learning_curve({"error": [1.0], "val_error": [1.0]}, **ax),
        *(plotting.shepard, plotting.recall_curve, plotting.point_quality),
    ],
)
def test_plots_draw_on_the_given_axes_and_return_them(draw, rng):
    ax = plt.subplots()[1]
    assert draw(rng.normal(size=(40, 9)), rng.normal(size=(40, 2)), ax=ax) is ax
    assert len(plt.get_fignums()) == 1
    assert written(ax, "png").startswith(b"\x89PNG")
    assert b"<svg" in written(ax, "svg")
    assert written(ax, "pdf").startswith(b"%PDF")


def test_points_are_smaller_if_there_are_many_or_the_axes_are_small(rng):
    whole = plt.subplots(figsize=(8, 7))[1]
    part = plt.subplots(2, 3, figsize=(8, 7))[1][0, 0]
    sizes = [
        plotting.scatter(rng.normal(size=(n, 2)), ax=ax).collections[-1].get_sizes()[0]
        for n, ax in ((1000, whole), (1000, part), (30_000, whole))
    ]
    assert sizes[0] > 2 * sizes[1]
    assert sizes[0] > 2 * sizes[2]
    assert plotting.scatter(rng.normal(size=(5, 2)), s=3).collections[0].get_sizes() == [3]


def test_overlay_draws_training_rows_faint_and_test_rows_strong(rng):
    train, test = rng.normal(size=(30, 2)), rng.normal(size=(10, 2))
    labels = np.repeat([0, 1, 2], 10)
    ax = plotting.overlay(train, labels, test, np.full(10, 2))
    faint, strong = ax.collections[:3], ax.collections[3:]
    assert all(c.get_alpha() < 0.5 for c in faint)
    assert all(c.get_alpha() in (None, 1) for c in strong)
    # A class missing from the test rows does not shift the colours of the others.
    assert face_colors(faint) == list(plotting.PALETTE[:3])
    assert face_colors(c for c in strong if len(c.get_offsets())) == [plotting.PALETTE[2]]
    assert len(listed(ax)) == 3


def test_overlay_takes_labels_as_numbers_or_classes_together(rng):
    Y = rng.normal(size=(4, 2))
    ax = plotting.overlay(Y, [0, 1, 2, 3], Y, [0.5, 1, 2, 9])
    assert {(c.norm.vmin, c.norm.vmax) for c in ax.collections} == {(0, 9)}
    ax = plotting.overlay(Y, list("abab"), Y, [0.5, 0.5, 1, None])
    assert listed(ax) == ["a", "b", "0.5", "1", "no label"]


@pytest.mark.parametrize("count", [12, 50, 200])
def test_the_legend_of_many_classes_fits_and_leaves_room_for_the_map(count, rng):
    labels = [f"number {i % count} of classes with long names" for i in range(400)]
    ax = plotting.scatter(rng.normal(size=(400, 2)), labels)
    assert len(listed(ax)) == min(count, 61)
    assert (listed(ax)[-1] == "… and 140 more") == (count == 200)
    ax.figure.canvas.draw()
    page, box = ax.figure.bbox, ax.get_legend().get_window_extent()
    assert ax.get_window_extent().width > 0.5 * page.width
    assert page.y0 <= box.y0 < box.y1 <= page.y1
    assert box.x1 <= page.x1


@pytest.mark.parametrize("shaded", [True, False])
def test_dollar_signs_in_names_start_no_formula_and_names_have_one_short_line(shaded, rng):
    Y, names = rng.normal(size=(4, 2)), ["a_$", "$5 to", "_x", "$\\frac{"]
    ax = plotting.scatter(Y, pd.Series(names, name="price $x_$"), density=shaded)
    assert sorted(listed(ax)) == sorted(names)
    with mpl.rc_context({"svg.fonttype": "none"}):
        assert all(text in written(ax, "svg") for text in (b">$5 to<", b">price $x_$<"))
    ax = plotting.scatter(Y, pd.Series([0.5, 1, 2, 3], name="price $x_$"), density=shaded)
    assert written(ax, "png").startswith(b"\x89PNG")
    ax = plotting.scatter(Y[:2], ["a " * 40, "two\nlines"], density=shaded)
    assert listed(ax) == ["a " * 14 + "a…", "two lines"]


def test_numbers_have_a_colour_bar_and_missing_ones_are_grey(rng):
    Y, values = rng.normal(size=(40, 2)), np.linspace(0, 1, 40)
    values[:4] = np.nan
    ax = plotting.scatter(Y, pd.Series(values, name="age"))
    grey, colored = ax.collections
    np.testing.assert_allclose(grey.get_offsets(), Y[:4])
    assert to_hex(grey.get_facecolor()[0]) == MISSING
    np.testing.assert_allclose(colored.get_array(), values[4:])
    assert colored.cmap.name == plotting.CONTINUOUS
    (bar,) = [other for other in ax.figure.axes if other is not ax]
    assert bar.get_ylabel() == "age"
    assert bar.get_ylim() == (values[4], 1)
    assert len(plotting.scatter(Y, values, legend=False).figure.axes) == 1


@pytest.mark.parametrize(
    ("labels", "classes", "rest"),
    [(["a", None, "b", "a"], None, "no label"), (["a", "c", "b", "a"], ["a", "b"], "other")],
)
def test_rows_without_a_class_are_grey_and_listed(labels, classes, rest, rng):
    ax = plotting.scatter(rng.normal(size=(4, 2)), labels, classes=classes)
    assert listed(ax) == ["a", "b", rest]
    assert to_hex(ax.collections[0].get_facecolor()[0]) == MISSING


def test_many_rows_are_shaded_by_majority_and_files_stay_small(rng):
    labels = rng.integers(4, size=100_000)
    Y = CORNERS[labels] + rng.normal(size=(100_000, 2))
    shaded, points = plotting.scatter(Y, labels), plotting.scatter(Y[:40_000], labels[:40_000])
    assert (len(shaded.collections), len(points.images)) == (0, 0)
    assert listed(shaded) == listed(points) == ["0", "1", "2", "3"]
    left, right, bottom, _ = shaded.images[0].get_extent()
    pixels = shaded.images[0].get_array()
    columns, rows = ((CORNERS - (left, bottom)) * pixels.shape[1] / (right - left)).astype(int).T
    expected = [to_rgb(color) for color in plotting.PALETTE[:4]]
    np.testing.assert_allclose(pixels[rows, columns, :3], expected)
    assert all(len(written(shaded, kind)) < 1_000_000 for kind in ("svg", "pdf", "png"))
    assert len(written(points, "svg")) < 1_000_000


def test_shading_is_more_opaque_the_more_rows_a_square_holds():
    Y = np.repeat([[0.0, 0], [1, 0], [2, 0], [3, 1]], [1, 5, 50, 5], axis=0)
    opacity = plotting.scatter(Y, density=True).images[0].get_array()[..., 3]
    faint, middle, strong = (opacity[0, int(x * 512 / 3)] for x in (0, 1, 2))
    assert 0 < faint < middle < strong == opacity.max() == 1
    assert np.count_nonzero(opacity) == 4


def test_shading_of_numbers_shows_their_mean():
    Y = np.repeat([[0.0, 0], [1, 1], [0.5, 0.5]], 2, axis=0)
    ax = plotting.scatter(Y, [0.0, 1.0, 2.0, 2.5, np.nan, np.nan], density=True)
    pixels = ax.images[0].get_array()
    scale = mpl.colormaps[plotting.CONTINUOUS]
    np.testing.assert_allclose(pixels[0, 0, :3], scale(0.5 / 2.5)[:3])
    np.testing.assert_allclose(pixels[-1, -1, :3], scale(2.25 / 2.5)[:3])
    np.testing.assert_allclose(pixels[256, 256, :3], to_rgb(MISSING))


@pytest.mark.parametrize("Y", [np.ones((3, 2)), np.empty((0, 2))], ids=["one place", "no rows"])
@pytest.mark.parametrize("shaded", [True, False])
def test_degenerate_maps_are_drawn(Y, shaded):
    written(plotting.scatter(Y, density=shaded), "png")


def test_kl_curve_calls_the_loss_kl_only_without_exaggeration():
    history = {"finetune": {"loss": [3.0, 2.0, 1.5], "val_loss": [3.5, 3.0, 2.9]}, "pretrain": []}
    training, held_out = plotting.kl_curve(history).lines
    np.testing.assert_allclose(training.get_xydata(), [[1, 3], [2, 2], [3, 1.5]])
    np.testing.assert_allclose(held_out.get_ydata(), [3.5, 3.0, 2.9])
    for c, label in ((None, "loss, nats"), (1, "KL(P‖Q), nats"), (1.5, "loss, nats")):
        ax = plotting.kl_curve(history, exaggeration=c)
        assert ax.get_ylabel() == label
        assert ("c = 1.5" in ax.get_title()) == (c == 1.5)
    fitted = SimpleNamespace(history_=history, exaggeration=1.0)
    assert plotting.kl_curve(fitted).get_ylabel() == "KL(P‖Q), nats"


def test_shepard_shows_all_pairs_and_their_rank_correlation(X):
    Y = X[:, :2]
    ax = plotting.shepard(X, Y)
    assert ax.collections[0].get_array().sum() == 60 * 59 / 2
    assert f"ρ = {spearmanr(pdist(X), pdist(Y)).statistic:.2f}" in ax.get_title()
    sampled = plotting.shepard(scipy.sparse.csr_matrix(X), Y, sample_size=20)
    assert "20 rows" in sampled.get_title()


def test_recall_curve_shows_recall_by_k_beside_chance(X):
    Y = X[:, :2]
    rows, new = (X[:40], Y[:40]), (X[40:], Y[40:])
    test_rows = dict(zip(("X_test", "Y_test"), new, strict=True))
    ax = plotting.recall_curve(*rows, n_neighbors=(1, 5, 20, 100), **test_rows)
    for k, *found in zip((1, 5, 20), *(line.get_ydata() for line in ax.lines), strict=True):
        recall = metrics.neighborhood_recall(*rows, n_neighbors=k)
        expected = [recall, metrics.neighborhood_recall(*rows, *new, k), k / 39]
        np.testing.assert_allclose(found, expected)
    drawn = plotting.recall_curve(X, Y, n_neighbors=(5,), sample_size=20).lines[0].get_ydata()
    assert drawn == pytest.approx(metrics.neighborhood_recall(X, Y, n_neighbors=5), abs=0.2)


def test_point_quality_colours_rows_by_their_recall_with_the_worst_on_top(X):
    Y = X[:, :2]
    (drawn,) = plotting.point_quality(X, Y, n_neighbors=5).collections
    recall = drawn.get_array()
    assert (np.diff(recall) <= 0).all()
    each = metrics.neighborhood_recall_per_row(X, Y, n_neighbors=5)
    by_place = {tuple(y): value for y, value in zip(Y, each, strict=True)}
    np.testing.assert_allclose(recall, [by_place[tuple(y)] for y in drawn.get_offsets().data])


def test_rbm_filters_are_images_of_the_weights_strongest_first(rng):
    weights = rng.normal(size=(6, 5))
    weights[:, 3] *= 10
    image = plotting.rbm_filters(weights, shape=(2, 3), count=4).images[0].get_array()
    first = weights[:, 3].reshape(2, 3)
    np.testing.assert_allclose(image[:2, :3], first / np.abs(first).max())
    assert np.ma.getmaskarray(np.ma.masked_invalid(image))[:, 3].all()  # a gap
    machine = rbm.RBM(10, seed=0)
    machine.build((None, 9))
    assert "10 of 10 hidden units" in plotting.rbm_filters(machine).get_title()


FIVE, FLAT = np.eye(5), np.eye(5)[:, :2]
SPARSE_HOLED = scipy.sparse.csr_matrix(HOLED)


@pytest.mark.parametrize(
    ("plot", "given", "options", "message"),
    [
        ("scatter", [np.ones((5, 3))], {}, r"such as Y\[:, :2\]. Received: shape \(5, 3\)"),
        ("scatter", [np.ones(5)], {}, r"column_stack\(\[Y, np.zeros.* shape \(5,\)"),
        ("scatter", [np.ones((5, 1))], {}, r"a second column.* Received: shape \(5, 1\)"),
        ("scatter", [[["a", "b"]]], {}, "Y should be numeric"),
        ("scatter", [FLAT, [1, 2]], {}, "one value per row, 5. Received: 2"),
        ("scatter", [[[0, 1], [0, np.nan]]], {}, "Y should be finite.* first at index 1"),
        ("scatter", [[[0, 1]], ["a"]], {"continuous": True}, "labels should be numbers"),
        ("scatter", [[[0, 1]]], {"density": "yes"}, "density should be True, False"),
        ("scatter", [[[0, 1]]], {"continuous": "no"}, "continuous should be True, False"),
        ("overlay", [np.ones((5, 3)), None, [[0, 1]], None], {}, "Y_train should be a"),
        ("kl_curve", [{"pretrain": []}], {}, r'a "loss".* Received: \[.pretrain.\]'),
        ("kl_curve", [None], {}, "a fitted ParametricTSNE, .* Received: NoneType"),
        ("shepard", [np.ones((5, 3)), np.ones((4, 2))], {}, "X and Y should have .* rows"),
        ("shepard", [np.ones((1, 3)), np.ones((1, 2))], {}, "X should have at least 3"),
        ("shepard", [FIVE, FIVE], {"sample_size": 2}, "sample_size should be an integer of at"),
        ("shepard", [HOLED, FIVE], {}, "X should be finite.* at index 1"),
        ("shepard", [SPARSE_HOLED, FIVE], {}, r"X(\.data)? should be finite"),
        ("recall_curve", [FIVE, HOLED], {}, "Y should be finite.* at index 1"),
        ("recall_curve", [FIVE, FIVE], {"X_test": HOLED, "Y_test": FIVE}, "X_test should be fin"),
        ("recall_curve", [[["a"] * 5] * 5, FIVE], {}, "X should be numeric"),
        ("recall_curve", [FIVE, FIVE], {"n_neighbors": (9,)}, "n_neighbors should be from 1 to"),
        ("point_quality", [HOLED, FLAT], {"n_neighbors": 2}, "X should be finite"),
        ("point_quality", [FIVE, FLAT], {"n_neighbors": 2.0}, "Received: 2.0"),
        ("rbm_filters", [np.ones((7, 3))], {}, "7 is not a square"),
        ("rbm_filters", [np.ones((6, 3))], {"shape": (2, 2)}, r"Received: \(2, 2\)"),
        ("rbm_filters", [rbm.RBM(3)], {}, "no weights yet"),
    ],
)
def test_bad_input_is_named(plot, given, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        getattr(plotting, plot)(*given, **options)
    assert "\n" not in str(raised.value)
