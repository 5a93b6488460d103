"""Headless Chromium, controlled by Selenium: screenshots of pages, and mouse actions on them."""

import importlib.util
import io
import shutil

import matplotlib.image
import numpy as np
import pytest

from support.processes import until

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER and importlib.util.find_spec("selenium")),
    reason="needs `pip install selenium` and `apt-get install chromium chromium-driver`",
)
WIDTH, HEIGHT = 900, 700
# No host name resolves, so that a page cannot load anything.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    f"--window-size={WIDTH},{HEIGHT}",
]
# The text of a page including that of shadow roots, which `innerText` does not reach.
TEXT = """
const text = node => {
  if (node.nodeName === "STYLE" || node.nodeName === "SCRIPT") return "";
  if (node.nodeType === 3) return node.data + " ";
  return [node.shadowRoot, ...node.childNodes].map(n => n ? text(n) : "").join("");
};
return text(document.body);
"""


class Browser:
    """A browser window that shows a Bokeh page."""

    def __init__(self):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        options.arguments.extend(FLAGS)
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        self.run = self.driver.execute_script

    def open(self, page):
        self.driver.get(page.resolve().as_uri())
        until(lambda: self.run("return Bokeh.documents[0]?.is_idle"))

    def screenshot(self):
        """Return the page as it looks now: [height, width, 3] in [0, 1]."""
        return matplotlib.image.imread(io.BytesIO(self.driver.get_screenshot_as_png()))[..., :3]

    def text(self):
        return self.run(TEXT)

    def move(self, x, y, *, click=False):
        """Move the mouse to a pixel of the screenshot, coming from beside it."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        actions = ActionBuilder(self.driver, duration=0)
        for dx in (5, 0):
            actions.pointer_action.move_to_location(round(x + dx), round(y))
        if click:
            actions.pointer_action.click()
        actions.perform()

    def scroll(self, x, y, by):
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

        origin = ScrollOrigin.from_viewport(round(x), round(y))
        ActionChains(self.driver).scroll_from_origin(origin, 0, by).perform()


def of_color(picture, color, tolerance=0.03):
    """Return the pixels (x, y) [n, 2] of a colour on white at an opacity of 0.8 to 1."""
    near = np.zeros(picture.shape[:2], bool)
    for alpha in (0.8, 0.9, 0.96, 1.0):
        blended = alpha * np.asarray(color) + 1 - alpha
        near |= np.abs(picture - blended).max(axis=2) < tolerance
    return np.argwhere(near)[:, ::-1]
