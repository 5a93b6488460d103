"""Nothing is lost to kills, power cuts, second writers or damage: the benchmark, in small."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "robustness.py"


@pytest.mark.slow
def test_nothing_is_lost():
    """In a process of its own, which forks before it has used TensorFlow.

    A fiftieth of the benchmark's size: a tenth takes a minute and a half.
    """
    code = f"import sys; sys.path.insert(0, {str(BENCHMARK.parent)!r}); import robustness as r\n"
    code += "lines = list(r.run(0.02)); print(*map(r.shown, lines), len(lines), sep='\\n')\n"
    code += "sys.exit(any(any(line.wrong.values()) for line in lines))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1]) >= 8
