"""Headless Chromium: a real screenshot of a page, and hands to move about in it."""

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
# No name resolves: a page that asks for anything elsewhere goes without.
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


def screenshot(page, folder):
    """The page as it looks after all its scripts have run: [height, width, 3] in [0, 1]."""
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
    """A browser that is driven by the W3C's WebDriver protocol."""

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
            deadline = time.monotonic() + 60
            while True:
                try:
                    session = self._post("", {"capabilities": wanted})
                    break
                except (ConnectionError, urllib.error.URLError) as error:
                    starting = not isinstance(error, urllib.error.HTTPError)
                    if not starting or time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
        except BaseException:
            self.close()
            raise
        self._base += f"/{session['sessionId']}"

    def open(self, page):
        self._post("/url", {"url": page.resolve().as_uri()})
        self.wait("return Bokeh.documents.length > 0 && Bokeh.documents[0].is_idle")

    def run(self, script):
        return self._post("/execute/sync", {"script": script, "args": []})

    def wait(self, script, seconds=30):
        deadline = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < deadline, script
            time.sleep(0.05)
        return found

    def screenshot(self):
        with urllib.request.urlopen(f"{self._base}/screenshot", timeout=60) as answer:
            picture = base64.b64decode(json.load(answer)["value"])
        return matplotlib.image.imread(io.BytesIO(picture))[..., :3]

    def move(self, x, y, *, click=False):
        """Move the mouse to a pixel of the screenshot, from beside it; press if asked to."""
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


# The text that is shown, in the trees of Bokeh's own that `innerText` does not reach.
TEXT = """
const text = node => {
  if (node.nodeName === "STYLE" || node.nodeName === "SCRIPT") return "";
  if (node.nodeType === 3) return node.data + " ";
  return [node.shadowRoot, ...node.childNodes].map(n => n ? text(n) : "").join("");
};
"""


def of_color(picture, color, tolerance=0.03):
    """Pixels (x, y) [n, 2] of a colour that is laid on white at an opacity of 0.8 to 1."""
    near = np.zeros(picture.shape[:2], bool)
    for alpha in (0.8, 0.9, 0.96, 1.0):
        blended = alpha * np.asarray(color) + 1 - alpha
        near |= np.abs(picture - blended).max(axis=2) < tolerance
    return np.argwhere(near)[:, ::-1]
