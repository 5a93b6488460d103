"""What the benchmarks share: environments for the peers, files that appear whole, memory."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

VENVS = Path(__file__).parent / "venvs"


def python(name: str, steps: list[list[str]]) -> str:
    """Path of the interpreter of the environment `name`, made if need be by these pip installs."""
    folder = VENVS / name
    ready = folder / "ready"
    if not ready.exists() or ready.read_text() != str(steps):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        for packages in steps:
            command = [str(folder / "bin/pip"), "install", "--quiet", *packages]
            subprocess.run(command, check=True)
        ready.write_text(str(steps))
    return str(folder / "bin/python")


def peak_gigabytes() -> float:
    """Tell this process's peak memory. `getrusage` would begin with that of the parent (Linux)."""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def write(file: Path, contents: bytes) -> None:
    """Write beside, then rename: what was interrupted leaves nothing that looks whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".part")
    beside.write_bytes(contents)
    beside.rename(file)


class Memory:
    """Anonymous memory (no pages of mapped files) taken inside the block at most, in bytes.

    Beyond what the process held before, looked at every 10 ms.
    """

    most = 0

    def __enter__(self) -> Self:
        self._before = self._anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.most = max(self.most, self._anonymous() - self._before)

    @staticmethod
    def _anonymous() -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return 1024 * int(line.split()[1])
        raise OSError("/proc/self/status should have RssAnon, as Linux since 4.5 does.")
