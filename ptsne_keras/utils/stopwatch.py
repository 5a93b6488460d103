"""Seconds spent in each stage of a computation."""

import time
from collections.abc import Mapping


class Stopwatch:
    """Adds up the seconds of named stages, starting from those of an earlier run if given."""

    def __init__(self, before: Mapping[str, float] | None = None) -> None:
        self.seconds = dict(before or {})
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the seconds since the last lap to the stage `name`."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._start
        self._start = now
