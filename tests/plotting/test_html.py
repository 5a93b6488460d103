import importlib
import os
import re
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from support import browser
from support.processes import until

from ptsne_keras import plotting

MODULE = importlib.import_module("ptsne_keras.plotting.html")
PLACES = np.array([[-10.0, -8], [-10, 8], [10, 8], [12, -8], [0, 0]])


@pytest.fixture
def page(tmp_path):
    return tmp_path / "map.html"


@pytest.fixture(scope="module")
def window():
    window = browser.Browser()
    yield window
    window.driver.quit()


def purple(picture):
    """Return the pixels of the fifth class."""
    return browser.of_color(picture, to_rgb(plotting.PALETTE[4]))


def clusters(rng, n):
    labels = np.repeat(np.arange(5), n)
    return PLACES[labels] + 0.7 * rng.normal(size=(5 * n, 2)), labels


def places_on(picture):
    """Return where on the page each of five classes is."""
    pixels = [browser.of_color(picture, to_rgb(color)) for color in plotting.PALETTE[:5]]
    assert min(map(len, pixels)) > 200
    return np.array([np.median(found, axis=0) for found in pixels])


@pytest.mark.slow
@browser.needs_browser
@pytest.mark.parametrize("n", [60, 4000], ids=["few", "many"])
def test_a_screenshot_shows_each_class_in_its_colour_where_its_rows_are(n, page, rng, window):
    Y, labels = clusters(rng, n)
    assert plotting.html(Y, page, labels) == page
    window.open(page)
    found = places_on(window.screenshot())
    # Pixels = a x + b, with y downwards, and the same a in both directions.
    a, b = np.polyfit(PLACES[:, 0], found[:, 0], 1)
    c, d = np.polyfit(PLACES[:, 1], found[:, 1], 1)
    np.testing.assert_allclose(found[:, 0], a * PLACES[:, 0] + b, atol=6)
    np.testing.assert_allclose(found[:, 1], c * PLACES[:, 1] + d, atol=6)
    assert a == pytest.approx(-c, rel=0.03)
    assert 15 < a < 40  # the map fills the page


@browser.needs_browser
def test_a_screenshot_shows_numbers_in_the_colour_scale(page, rng, window):
    Y = np.stack([np.linspace(-10, 10, 400), rng.normal(size=400)], axis=1)
    plotting.html(Y, page, np.linspace(0.5, 3.5, 400))
    window.open(page)
    picture = window.screenshot()[:, :800]  # without the colour bar
    colors = mpl.colormaps[plotting.CONTINUOUS]([0.05, 0.5, 0.95])[:, :3]
    left, middle, right = (np.median(browser.of_color(picture, color)[:, 0]) for color in colors)
    assert left < middle < right


@browser.needs_browser
def test_hovering_shows_the_name_and_the_values_of_a_row(page, window):
    strange = "</script><script>window.hacked = 1</script><b>bold</b>"
    plotting.html(
        PLACES,
        page,
        np.array(["a", "b", "c", "d", strange]),
        names=["first", "second", "third", "fourth", strange],
        values={"weight": [1.5, 2.5, 3.5, 4.5, 5.5], "<i>kind": list("uvwxy")},
        title=f"Title {strange}",
    )
    window.open(page)
    picture = window.screenshot()

    def hover(i):  # the classes are in the order of their names: "</script>…" comes first
        inside = browser.of_color(picture, to_rgb(plotting.PALETTE[(i + 1) % 5]))
        window.move(*np.median(inside[inside[:, 0] < 0.7 * browser.WIDTH], axis=0))
        until(lambda: "weight" in window.text())
        return window.text()

    text = hover(1)
    assert all(words in text for words in ("second", "2.5"))
    assert "first" not in text
    window.move(5, browser.HEIGHT // 2)
    until(lambda: "weight" not in window.text())
    text = hover(4)
    assert all(words in text for words in (strange, "5.5"))
    assert window.run("return window.hacked === undefined")
    assert window.driver.title == f"Title {strange}"


@browser.needs_browser
def test_a_click_in_the_legend_hides_a_class_and_scrolling_zooms(page, window, rng):
    Y, labels = clusters(rng, 60)
    plotting.html(Y, page, labels)
    window.open(page)
    places, pixels = places_on(window.screenshot()), purple(window.screenshot())
    entry = pixels[pixels[:, 0] > pixels[:, 0].max() - 6].mean(axis=0)
    window.move(*entry, click=True)
    until(lambda: len(purple(window.screenshot())) <= 60)
    window.move(*entry, click=True)
    window.scroll(*places[4], -200)
    pixels_per_unit = (places[2, 0] - places[1, 0]) / 20
    expected = 1.2 * 4 * 0.7 * pixels_per_unit  # four standard deviations, and a fifth more

    def zoomed():
        found = purple(window.screenshot())
        return len(found) and np.ptp(np.percentile(found[:, 1], [5, 95])) > expected

    until(zoomed)


def test_a_page_makes_no_network_requests(page, rng):
    plotting.html(rng.normal(size=(30, 2)), page, np.repeat(list("abc"), 10))
    text = page.read_text()
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", text)
    assert len(text) < 2_000_000


def test_the_legend_is_limited_and_names_are_plain_text(page, rng, monkeypatch):
    from bokeh.models import ColorBar, PlainText, Title

    shown = []
    monkeypatch.setattr("bokeh.embed.file_html", lambda plot, *_: shown.append(plot) or "")
    codes = np.arange(400) % 200
    labels = pd.Series([f"$$x_{{{i}}}$$ in a list of very many classes" for i in codes])
    plotting.html(rng.normal(size=(400, 2)), page, labels.rename("$$y$$"), title="$$z$$")
    (legend,) = shown[0].legend
    names = [item.label.value for item in legend.items]
    assert len(names) == 61
    assert names[-1] == "… and 140 more"
    assert all(len(name) <= 30 for name in names)
    assert legend.ncols == 2
    assert len(shown[0].renderers) == 200
    plotting.html(rng.normal(size=(400, 2)), page, pd.Series(codes + 0.5, name="$$y$$"))
    (bar,) = shown[1].select(ColorBar)
    titles = [bar.title, *(title.text for plot in shown for title in plot.select(Title))]
    assert {title.text for title in titles if title} >= {"$$y$$", "$$z$$"}
    assert all(isinstance(title, PlainText) for title in titles if title)


def test_a_row_takes_few_bytes_and_many_are_sampled(page, rng, monkeypatch):
    sizes = []
    for n in (1000, 11_000):
        plotting.html(rng.normal(size=(n, 2)), page, rng.integers(10, size=n))
        sizes.append(page.stat().st_size)
    assert (sizes[1] - sizes[0]) / 10_000 < 40
    monkeypatch.setattr(MODULE, "_MOST", 500)
    plotting.html(rng.normal(size=(1234, 2)), page, names=[f"name{i}" for i in range(1234)])
    text = page.read_text()
    assert "500 of 1,234 rows, drawn at random" in text
    assert len(set(re.findall(r"name\d+", text))) == 500


def test_bad_input_is_named_and_nothing_is_written(page):
    for name, given in (("labels", [1]), ("names", ["a"]), ("values", {"x": [1]})):
        words = rf"{name}(\['x'\])? should have one value per row, 4. Received"
        with pytest.raises(ValueError, match=words):
            plotting.html(np.zeros((4, 2)), page, **{name: given})
    assert not os.listdir(page.parent)


def test_a_page_that_cannot_be_written_leaves_the_old_one(page, monkeypatch):
    page.write_text("old")
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(MODULE.os, "replace", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match=r"map\.html could not be written: the disk is full"):
        plotting.html(np.zeros((4, 2)), page)
    assert page.read_text() == "old"
    assert os.listdir(page.parent) == ["map.html"]


def test_without_bokeh_the_error_names_the_extra(page, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh.embed", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ptsne_keras\[plots\]'"):
        plotting.html(np.zeros((4, 2)), page)
