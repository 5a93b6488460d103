"""Work in forks of a process that has imported TensorFlow and not used it, and their deaths."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptsne_keras import cli
from ptsne_keras.cli import commands  # noqa: F401 - so that children need not import it


def child(work: Callable[[], Any]) -> int:
    """Start work in a fork of this process, which has imported TensorFlow and not used it."""
    sys.stdout.flush()
    if process := os.fork():
        return process
    code = 1
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        code = int(work() or 0)
    finally:
        os._exit(code)


def status(process: int) -> int:
    """Wait for a child and return its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def done(work: Callable[[], Any]) -> bool:
    """Return whether work succeeds in a child."""
    return status(child(work)) == 0


def ptsne(*words: Any) -> Callable[[], int]:
    """Return the call of a command."""
    return lambda: cli.main([str(word) for word in words])


def dying(work: Callable[[], Any], folder: Path, moment: int | None) -> tuple[bool, int]:
    """Kill a child at its n-th change in a folder; return whether it died, and the changes."""
    reader, writer = os.pipe()

    def watched() -> Any:
        count = 0
        kinds = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.fsync"}

        def change(path: Any, always: bool = False) -> None:
            nonlocal count
            if always or str(path).startswith(str(folder)):
                os.write(writer, b".")
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            reads = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
            if event in kinds and not reads:
                change(arguments[0])

        fsync = os.fsync
        os.fsync = lambda descriptor: (change("", True), fsync(descriptor))[1]
        sys.addaudithook(hook)
        return work()

    died = status(child(watched)) == -signal.SIGKILL
    os.close(writer)
    with open(reader, "rb") as counts:
        return died, len(counts.read())
