"""Ctrl-C while a command works: the first stops a fit where it can go on, the second at once."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import keras


class Interruption(keras.callbacks.Callback):
    """Stops training after the current step when Ctrl-C is pressed."""

    def __init__(self) -> None:
        super().__init__()
        self.requested = self._training = False
        self._before: Any = None

    def __enter__(self) -> Self:
        """Take the signal over, where that is possible: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the signal back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def on_train_begin(self, logs: Any = None) -> None:
        """From here on there is something to keep."""
        self._training = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop, if that is wanted."""
        if self.requested:
            self.model.stop_training = True

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self.requested or not self._training:
            raise KeyboardInterrupt
        self.requested = True
        # Not through sys.stderr, in whose midst the signal may have come.
        os.write(2, b"\nptsne: stopping after this step, then saving; Ctrl-C again ends at once\n")
