"""What tests of processes and disks share: ports, waiting, and calls of the system."""

import contextlib
import os
import socket
import time
from pathlib import Path


def free_ports(count):
    """Return ports of this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def until(condition, seconds=300):
    """Return the first true value of a condition that is tried again and again."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)
    return found


def disk_calls(monkeypatch):
    """Return the list of what will happen: ("fsync" or "rename", path), in order."""
    calls, real = [], {name: getattr(os, name) for name in ("fsync", "rename", "replace")}

    def fsync(descriptor):
        calls.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        real["fsync"](descriptor)

    def renaming(name):
        def rename(source, target):
            calls.append(("rename", Path(target)))
            real[name](source, target)

        return rename

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, renaming(name))
    return calls
