"""What the benchmarks share: an environment of its own for each peer, files that appear whole."""

import subprocess
import sys
from pathlib import Path

VENVS = Path(__file__).parent / "venvs"


def python(name: str, steps: list[list[str]]) -> str:
    """Path of the interpreter of the environment `name`, made if need be by these pip installs."""
    folder = VENVS / name
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        for packages in steps:
            command = [str(folder / "bin/pip"), "install", "--quiet", *packages]
            subprocess.run(command, check=True)
        (folder / "ready").touch()
    return str(folder / "bin/python")


def write(file: Path, contents: bytes) -> None:
    """Write beside, then rename: what was interrupted leaves nothing that looks whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".part")
    beside.write_bytes(contents)
    beside.rename(file)
