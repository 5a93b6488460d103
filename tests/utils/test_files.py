"""Files are complete or absent, whoever dies and whoever else writes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import disk_calls

from ptsne_keras.utils import files


def test_what_is_written_is_flushed_before_it_appears_and_so_is_its_name(tmp_path, monkeypatch):
    calls = disk_calls(monkeypatch)
    with files.made(tmp_path / "a" / "b"):
        files.write(tmp_path / "a" / "b" / "file.txt", b"new")
    folder = tmp_path / "a" / "b"
    (first, beside), *rest = calls
    assert first == "fsync"
    assert beside.name.startswith(f".ptsne-{os.getpid()}-")
    assert beside.suffix == ".txt"
    assert rest == [
        ("rename", folder / "file.txt"),
        ("fsync", folder),
        ("fsync", tmp_path / "a"),
        ("fsync", tmp_path),
    ]
    assert os.listdir(folder) == ["file.txt"]


def test_a_folder_is_flushed_with_all_that_is_in_it(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    (tmp_path / "other").write_text("y")
    calls = disk_calls(monkeypatch)
    files.flush_all(tmp_path)
    names = {path for _, path in calls}
    assert names == {tmp_path, tmp_path / "a", tmp_path / "a" / "file", tmp_path / "other"}


def test_a_new_file_does_not_replace_one_that_came_meanwhile(tmp_path):
    file = tmp_path / "file.txt"
    writing = files.replacing(file, new=True)
    writing.__enter__().write_text("mine")
    file.write_text("theirs")
    with pytest.raises(FileExistsError, match="path should be a new file"):
        writing.__exit__(None, None, None)
    assert file.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["file.txt"]


CODE = """
import sys
from pathlib import Path
from ptsne_keras.utils import files
folder = Path(sys.argv[1])
with files.replacing(folder / "file.csv") as beside, files.scratch(folder) as scratch:
    beside.write_text("half")
    (scratch / "file").write_text("half")
    print("there", flush=True)
    sys.stdin.read()
"""


def test_temporary_files_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path):
    (tmp_path / ".ptsne-mine").symlink_to(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", CODE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "there\n"
        started = sorted(tmp_path.iterdir())
        assert len(started) == 3
        files.write(tmp_path / "other.csv", b"")
        assert sorted(tmp_path.iterdir()) == [*started, tmp_path / "other.csv"]
        process.send_signal(signal.SIGKILL)
    files.write(tmp_path / "file.csv", b"whole")
    assert sorted(os.listdir(tmp_path)) == [".ptsne-mine", "file.csv", "other.csv"]


def test_a_file_that_is_swept_before_its_lock_is_made_again(tmp_path, monkeypatch):
    real, swept = files._lock, []

    def sweeping(descriptor, *, wait):
        if not swept:
            swept.append(True)
            files.sweep(tmp_path)
        return real(descriptor, wait=wait)

    monkeypatch.setattr(files, "_lock", sweeping)
    files.write(tmp_path / "file.csv", b"whole")
    assert swept
    assert os.listdir(tmp_path) == ["file.csv"]


def test_a_folder_has_one_holder(tmp_path):
    with files.locked(tmp_path) as first, files.locked(tmp_path, wait=False) as second:
        assert (first, second) == (True, False)
    with files.locked(tmp_path, wait=False) as free:
        assert free


@pytest.mark.parametrize("kind", ["link", "pipe", "device", "folder", "large"])
def test_only_a_regular_file_of_its_size_is_read(kind, tmp_path):
    file = tmp_path / "file"
    match kind:
        case "link":
            file.symlink_to(__file__)
        case "pipe":
            os.mkfifo(file)
        case "device":
            file = Path("/dev/zero")
        case "folder":
            file.mkdir()
        case "large":
            file.write_bytes(bytes(11))
    start = time.process_time()
    with pytest.raises(ValueError, match=f"{file} should be a file of at most 10 bytes"):
        files.read(file, 10)
    assert time.process_time() - start < 1


def test_the_limit_of_what_expands_can_be_raised(monkeypatch):
    monkeypatch.delenv("PTSNE_MAX_MB", raising=False)
    assert files.expanded_limit(10) == 256e6
    assert files.expanded_limit(10_000_000) == 500e6
    monkeypatch.setenv("PTSNE_MAX_MB", "1000")
    assert files.expanded_limit(10) == 1e9
    monkeypatch.setenv("PTSNE_MAX_MB", "much")
    with pytest.raises(ValueError, match="PTSNE_MAX_MB should be a number of megabytes"):
        files.expanded_limit(10)
