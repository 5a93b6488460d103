"""Screenshots of pages in headless Chromium, and mouse actions on them."""

import base64
import contextlib
import io
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import matplotlib.image
import numpy as np
import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium"
)
needs_driver = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no Chromium with chromedriver on PATH: apt-get install chromium chromium-driver",
)
WIDTH, HEIGHT = 900, 700
# No host name resolves, so that a page cannot load anything.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    f"--window-size={WIDTH},{HEIGHT}",
]


def until(condition, seconds=30):
    """Return the first true value of a condition that is tried again and again."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)
    return found


def screenshot(page, folder):
    """Return the page after its scripts have run: [height, width, 3] in [0, 1]."""
    picture = folder / "screenshot.png"
    subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            f"--screenshot={picture}",
            "--virtual-time-budget=10000",
            page.resolve().as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return matplotlib.image.imread(picture)[..., :3]


class Browser:
    """A browser controlled by the W3C WebDriver protocol."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._process = subprocess.Popen(
            [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._base = f"http://127.0.0.1:{port}/session"
        arguments = [*FLAGS, f"--user-data-dir={folder / 'driven'}"]
        options = {"binary": CHROMIUM, "args": arguments}
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        try:
            session = until(lambda: self._started({"capabilities": wanted}), 60)
        except BaseException:
            self.close()
            raise
        self._base += f"/{session['sessionId']}"

    def _started(self, content):
        """Return the new session, or None while the driver does not listen yet."""
        try:
            return self._post("", content)
        except urllib.error.HTTPError:
            raise
        except (ConnectionError, urllib.error.URLError):
            return None

    def open(self, page):
        self._post("/url", {"url": page.resolve().as_uri()})
        self.wait("return Bokeh.documents.length > 0 && Bokeh.documents[0].is_idle")

    def run(self, script):
        return self._post("/execute/sync", {"script": script, "args": []})

    def wait(self, script):
        return until(lambda: self.run(script))

    def screenshot(self):
        with urllib.request.urlopen(f"{self._base}/screenshot", timeout=60) as answer:
            picture = base64.b64decode(json.load(answer)["value"])
        return matplotlib.image.imread(io.BytesIO(picture))[..., :3]

    def move(self, x, y, *, click=False):
        """Move the mouse to a pixel of the screenshot, coming from beside it."""
        steps = [
            {"type": "pointerMove", "duration": 0, "x": round(x + dx), "y": round(y)}
            for dx in (5, 0)
        ]
        if click:
            steps += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        pointer = {"type": "pointer", "id": "mouse", "actions": steps}
        self._post("/actions", {"actions": [pointer]})

    def wheel(self, x, y, by):
        turn = {"type": "scroll", "x": round(x), "y": round(y), "deltaX": 0, "deltaY": by}
        wheel = {"type": "wheel", "id": "wheel", "actions": [turn | {"duration": 0}]}
        self._post("/actions", {"actions": [wheel]})

    def close(self):
        with contextlib.suppress(OSError):
            closing = urllib.request.Request(self._base, method="DELETE")
            urllib.request.urlopen(closing, timeout=20).close()
        self._process.terminate()
        self._process.wait(20)

    def _post(self, path, content):
        request = urllib.request.Request(
            self._base + path, json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]


# Text including that of shadow roots, which `innerText` does not reach.
TEXT = """
const text = node => {
  if (node.nodeName === "STYLE" || node.nodeName === "SCRIPT") return "";
  if (node.nodeType === 3) return node.data + " ";
  return [node.shadowRoot, ...node.childNodes].map(n => n ? text(n) : "").join("");
};
"""


def of_color(picture, color, tolerance=0.03):
    """Return the pixels (x, y) [n, 2] of a colour on white at an opacity of 0.8 to 1."""
    near = np.zeros(picture.shape[:2], bool)
    for alpha in (0.8, 0.9, 0.96, 1.0):
        blended = alpha * np.asarray(color) + 1 - alpha
        near |= np.abs(picture - blended).max(axis=2) < tolerance
    return np.argwhere(near)[:, ::-1]
