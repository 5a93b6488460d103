"""What the benchmarks share: environments for the peers, files that appear whole, memory."""

import subprocess
import sys
from pathlib import Path

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
