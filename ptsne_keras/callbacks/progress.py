"""Progress on the terminal or in a log, and the seconds of each epoch.

`Meter` takes the place of `keras.utils.Progbar` because it also shows stages that are no Keras fit,
rows per second and the time left, and writes to a log a line each 30 s.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import keras

# Seconds between two updates, on a terminal, where the line is written over, and in a log.
_TERMINAL_SECONDS, _LOG_SECONDS = 0.2, 30.0


class Meter:
    """Shows rows done, rows per second and time left on stderr; a line every 30 s in a log."""

    def __init__(self, title: str, total: int | None = None) -> None:
        self.title, self.total, self.done = title, total, 0
        self._start = self._shown = time.perf_counter()
        self._width = 0
        self._note = ""

    def update(self, done: int, note: str = "") -> None:
        """Set the number of rows done, and show it if the last update is old enough."""
        self.done, self._note = done, note
        now = time.perf_counter()
        if now - self._shown >= (_TERMINAL_SECONDS if sys.stderr.isatty() else _LOG_SECONDS):
            self._shown = now
            self._write(now)

    def close(self) -> None:
        """Show the final state and end the line."""
        self._write(time.perf_counter())
        if sys.stderr.isatty():
            sys.stderr.write("\n")

    def line(self, seconds: float) -> str:
        """Return the text of the line after this many seconds."""
        rate = self.done / max(seconds, 1e-9)
        parts = [f"{self.title}: {self.done:,} rows"]
        if self.total is not None:
            share = self.done / max(self.total, 1)
            parts = [f"{self.title}: {self.done:,} of {self.total:,} rows", f"{100 * share:.0f} %"]
        parts.append(f"{rate:,.0f} rows/s")
        if self.total is not None and 0 < self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        return ", ".join([*parts, self._note] if self._note else parts)

    def _write(self, now: float) -> None:
        text = self.line(now - self._start)
        if sys.stderr.isatty():
            sys.stderr.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


class StageMeter(keras.callbacks.Callback):
    """Shows a meter for one stage of a fit, which may be several calls of `keras.Model.fit`."""

    def __init__(self, title: str, epochs: int, rows: int, value: str = "loss") -> None:
        super().__init__()
        self.title, self.epochs, self.rows, self.value = title, epochs, rows, value
        self.meter: Meter | None = None
        self._done = 0

    def close(self) -> None:
        """Show the final state and end the line."""
        if self.meter is not None:
            self.meter.close()
        self.meter = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the meter; a fit that is resumed has fewer epochs left."""
        if self.meter is None:
            self.meter = Meter(self.title, (self.epochs - epoch) * self.rows)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the rows of a batch."""
        steps = max(self.params.get("steps") or 1, 1)
        self._show(self._done + min((batch + 1) / steps, 1.0), logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Count the rows of an epoch."""
        self._done += 1
        self._show(self._done, logs)

    def _show(self, epochs: float, logs: Any) -> None:
        if self.meter is not None:
            value = (logs or {}).get(self.value)
            note = "" if value is None else f"{self.value} {float(value):.3f}"
            self.meter.update(round(epochs * self.rows), note)


@contextlib.contextmanager
def stage(
    title: str, epochs: int, rows: int, *, value: str = "loss", verbose: int = 1
) -> Iterator[list[keras.callbacks.Callback]]:
    """Yield the callbacks that show a stage, none unless `verbose`; close the meter at the end."""
    if not verbose:
        yield []
        return
    meter = StageMeter(title, epochs, rows, value)
    try:
        yield [meter]
    finally:
        meter.close()


class EpochSeconds(keras.callbacks.Callback):
    """Adds the seconds of each epoch to the history, under "seconds".

    Examples
    --------
    >>> model.compile("adam", loss=ptsne_keras.losses.TSNE())
    >>> dataset = data.from_array(X, 30, seed=0)
    >>> history = model.fit(dataset, callbacks=[EpochSeconds()], shuffle=False, verbose=0)
    >>> len(history.history["seconds"])
    1
    """

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add the seconds to the logs."""
        if logs is not None:
            logs["seconds"] = time.perf_counter() - self.start


def duration(seconds: float) -> str:
    """Return seconds as minutes and seconds, or hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
