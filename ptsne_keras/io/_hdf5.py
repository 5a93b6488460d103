"""A trial reading of an HDF5 file, by a process of its own that can be ended.

HDF5 takes the lengths of texts from the file before it looks for them, and follows addresses in
circles: a damaged file may take gigabytes, or never end.
"""

import contextlib
import functools
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ptsne_keras.utils import files

# Seconds of a processor, and one more for so many bytes.
_SECONDS, _SPEED = 3, 1e6
# Entries read at a time.
_BLOCK = 1 << 16


def check(file: Path) -> None:
    """Raise unless the names, attributes and texts of a file can be read within limits."""
    info = file.stat()
    known = file.resolve(), info.st_size, info.st_mtime_ns, files.expanded_limit(info.st_size)
    if sys.executable and (fault := _fault(*known)):
        raise OSError(fault)


@functools.lru_cache(maxsize=16)
def _fault(file: Path, size: int, _: int, memory: float) -> str | None:
    """Return why a file of this size and time of change cannot be read, or None."""
    seconds = int(_SECONDS + size / _SPEED)
    done = subprocess.run(
        [sys.executable, "-P", __file__, file, str(seconds), str(int(memory))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60 * (1 + seconds),  # for Windows, which cannot limit those of a processor
    )
    if done.returncode == 0:
        return None
    reason = (done.stderr.strip().splitlines() or [""])[-1].partition(": ")[2]
    return reason or f"HDF5 needs more than {seconds} s or {memory / 1e6:,.0f} MB for its names"


def main(file: str, seconds: str, memory: str) -> None:
    """Read whatever of a file has no size that can be known before."""
    h5py = importlib.import_module("h5py")
    with contextlib.suppress(ImportError):  # more kinds of compression
        importlib.import_module("hdf5plugin")
    _limit(int(seconds), int(memory))

    def read(_: str, item: Any) -> None:
        dict(item.attrs)
        if isinstance(item, h5py.Dataset) and item.dtype.hasobject:
            for start in range(0, len(item), _BLOCK) if item.shape else ():
                item[start : start + _BLOCK]
            if not item.shape:
                item[()]

    with h5py.File(file) as whole:
        read("/", whole)
        whole.visititems(read)


def _limit(seconds: int, memory: int) -> None:
    """Limit what this process may take from now on, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    most = {resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: seconds}
    if (held := Path("/proc/self/statm")).exists():
        pages = int(held.read_text().split()[0])
        most[resource.RLIMIT_AS] = pages * resource.getpagesize() + memory
    for kind, value in most.items():
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard < 0 else min(value, hard), hard))


if __name__ == "__main__":
    main(*sys.argv[1:])
