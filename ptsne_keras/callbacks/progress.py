"""Progress of a stage: a bar or a meter, and the seconds of each epoch."""

import sys
import time
from collections.abc import Callable
from typing import Any

import keras


class StageBar(keras.callbacks.Callback):
    """A progress bar over all epochs of a stage, which may be several calls of `fit`."""

    def __init__(self, title: str, epochs: int, values: tuple[str, ...] = ("loss",)) -> None:
        super().__init__()
        # In a log each update is a line's worth of text: few are enough there.
        interval = 0.2 if sys.stdout.isatty() else 30.0
        print(title, flush=True)
        self.bar = keras.utils.Progbar(
            epochs, unit_name="epoch", interval=interval, stateful_metrics=values
        )
        self.values = values
        self.done = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Move on by one epoch."""
        self.done += 1
        logs = logs or {}
        self.bar.update(self.done, [(name, logs[name]) for name in self.values if name in logs])


class EpochSeconds(keras.callbacks.Callback):
    """Adds the seconds of each epoch to the history."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note the seconds."""
        if logs is not None:
            logs["seconds"] = time.perf_counter() - self.start


# Seconds between two lines of a meter, on a terminal, where a line is written over, and in a log.
_OFTEN, _SELDOM = 0.2, 30.0


class Meter:
    """Shows rows done, rows/s and the time left on stderr; one line every 30 s in logs."""

    def __init__(self, title: str, total: int | None = None) -> None:
        self.title, self.total, self.done = title, total, 0
        self._start = self._shown = time.perf_counter()
        self._wide = 0
        self._last = ""

    def update(self, done: int, note: str = "") -> None:
        """Show that so many rows are done, if the last line is old enough."""
        self.done, self._last = done, note
        now = time.perf_counter()
        if now - self._shown >= (_OFTEN if sys.stderr.isatty() else _SELDOM):
            self._shown = now
            self._write(now)

    def close(self) -> None:
        """Show the last line, and leave it there."""
        self._write(time.perf_counter())
        if sys.stderr.isatty():
            sys.stderr.write("\n")

    def line(self, seconds: float) -> str:
        """Give the line as it is after so many seconds."""
        rate = self.done / max(seconds, 1e-9)
        parts = [f"{self.title}: {self.done:,} rows"]
        if self.total is not None:
            share = self.done / max(self.total, 1)
            parts = [f"{self.title}: {self.done:,} of {self.total:,} rows", f"{100 * share:.0f} %"]
        parts.append(f"{rate:,.0f} rows/s")
        if self.total is not None and 0 < self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        return ", ".join([*parts, self._last] if self._last else parts)

    def _write(self, now: float) -> None:
        text = self.line(now - self._start)
        if sys.stderr.isatty():
            sys.stderr.write("\r" + text.ljust(self._wide))
            self._wide = len(text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


class FitMeter(keras.callbacks.Callback):
    """A meter over all epochs of each stage of a fit; give it to `fit(callbacks=[…])`.

    Parameters
    ----------
    meter : callable
        Makes a meter of a title and of rows in all.

    Examples
    --------
    >>> tsne = ParametricTSNE(epochs=2).fit(X, callbacks=[FitMeter()])
    """

    def __init__(self, meter: Callable[[str, int | None], Meter] = Meter) -> None:
        super().__init__()
        self._make = meter
        self._meter: Meter | None = None
        self._title = ""
        self._rows = self._epochs = self._done = 0

    def stage(self, title: str, epochs: int, rows: int) -> "FitMeter":
        """Begin a stage of so many epochs over so many rows each."""
        self.finish()
        self._title, self._epochs, self._rows, self._done = title, epochs, rows, 0
        return self

    def finish(self) -> None:
        """End the line of the last stage."""
        if self._meter is not None:
            self._meter.close()
        self._meter = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin the line; a fit that goes on has fewer epochs left."""
        if self._meter is None:
            self._meter = self._make(self._title, (self._epochs - epoch) * self._rows)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Move on by the rows of the batches."""
        steps = max(self.params.get("steps") or 1, 1)
        self._show(self._done + min((batch + 1) / steps, 1.0), logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Move on by an epoch."""
        self._done += 1
        self._show(self._done, logs)

    def _show(self, epochs: float, logs: Any) -> None:
        if self._meter is not None:
            loss = (logs or {}).get("loss")
            self._meter.update(
                round(epochs * self._rows), "" if loss is None else f"loss {float(loss):.3f}"
            )


def duration(seconds: float) -> str:
    """Give minutes and seconds, or hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
