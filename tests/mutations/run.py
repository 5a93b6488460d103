"""Put one fault at a time into a copy of the package, and see whether the everyday tests notice.

    python tests/mutations/run.py [--only 3 17] [--workers 2]

Prints a line for each fault of faults.py. A fault counts as caught if the tests that are named with
it fail, except those marked slow; all of these have to pass without a fault. Ends with status 1 if
fewer than 28 of 30 faults are caught.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faults import FAULTS

ROOT = Path(__file__).parents[2]
_SHARE = 28 / 30


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """Give a copy of what the tests need."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("ptsne_keras", "tests", "benchmarks", "docs", "saved_models"):
            ignored = shutil.ignore_patterns("__pycache__", "venvs", "data", "results")
            shutil.copytree(
                ROOT / name, folder / name, ignore=ignored if name == "benchmarks" else None
            )
        for name in ("pyproject.toml", "setup.cfg", "README.md"):
            shutil.copy(ROOT / name, folder)
        yield folder


def run(folder: Path, tests: Iterable[str], *options: str) -> int:
    """Run the everyday tests of a copy, and return pytest's status."""
    options = ("-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:randomly", *options)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(str(folder / "tests" / t) for t in tests)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    if done.returncode > 1:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    return done.returncode


def caught(number: int) -> bool:
    """Return whether the tests notice a fault."""
    file, right, wrong, tests = FAULTS[number]
    with copied() as folder:
        path = folder / "ptsne_keras" / file
        text = path.read_text()
        if text.count(right) != 1:
            raise ValueError(f"{file} should have once: {right}. Received: {text.count(right)}.")
        path.write_text(text.replace(right, wrong))
        start = time.monotonic()
        status = run(folder, [tests], "-x")
    found = status == 1  # 0: all passed; others: pytest itself failed
    told = "caught" if found else "MISSED" if status == 0 else f"pytest ended with {status}"
    print(f"{number:2} {told:7} {time.monotonic() - start:4.0f} s  {file}: {wrong}", flush=True)
    return found


def main() -> int:
    """Run the tests as they are, then with each fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", type=int, default=range(len(FAULTS)))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    tests = sorted({FAULTS[number][-1] for number in options.only})
    with copied() as folder:
        if status := run(folder, tests, "-n", str(options.workers), "--dist", "loadfile"):
            print(f"The tests should pass without a fault. pytest's status: {status}.")
            return status
    with ThreadPoolExecutor(options.workers) as pool:
        found = list(pool.map(caught, options.only))
    print(f"{sum(found)} of {len(found)} caught")
    return int(sum(found) < _SHARE * len(found))


if __name__ == "__main__":
    sys.exit(main())
