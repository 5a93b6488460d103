"""What is lost when processes die, power goes, two write at once, or folders are damaged.

`python benchmarks/robustness.py [--scale 0.1]` prints one table; each count should be 0.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import numpy as np
from forks import child, done, dying, ptsne, status

from ptsne_keras import ParametricTSNE
from ptsne_keras.estimators import is_model, load, sweep

FIT = ["--epochs", "4", "--hidden-units", "8", "--perplexity", "5", "--sampling", "batch"]
FIT += ["--no-placement", "--quiet"]


class Line(NamedTuple):
    """What was tried, how often, and what went wrong."""

    what: str
    times: int
    wrong: dict[str, int]


def digest(path: Path) -> str:
    """Return the digest of a file, or of the files in a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = hashlib.sha256()
    for file in files:
        found.update(str(file.relative_to(path)).encode())
        found.update(file.read_bytes() if file.is_file() else b"")
    return found.hexdigest()


def paired(folder: Path) -> bool:
    """Return whether a map in a folder is the one that its manifest names; afterwards it is there.

    It holds for whoever reads the folder as it is, and for the next call.
    """
    try:
        named = json.loads((folder / "model.json").read_bytes()).get("map")
    except (OSError, ValueError):
        return False
    whole = [digest_of(file) for file in folder.glob("map.csv")]
    sweep(folder)
    if named is None:
        return not whole
    return {named["sha256"]} == {digest_of(folder / "map.csv"), *whole}


def digest_of(file: Path) -> str:
    """Return the digest of a file's contents."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def strays(folder: Path, base: bool = False) -> list[str]:
    """Return what is in a folder beside a model and its map, or beside versions."""
    names = os.listdir(folder)
    if base:
        return [name for name in names if not name.isdecimal()]
    manifest = json.loads((folder / "model.json").read_text())
    own = {"model.json", "map.csv", *(entry["name"] for entry in manifest["files"].values())}
    return sorted({*names} - own)


def kills(place: Path, count: int) -> Iterator[Line]:
    """Kill fits, saves and exports at moments spread over their changes to the disk."""
    fit = ptsne("fit", place / "rows.npy", "--out", place / "fit", "--force", *FIT)
    assert done(fit)
    shutil.copytree(place / "fit", place / "save")
    tsne_path = place / "model"
    shutil.copytree(place / "fit", tsne_path)
    save = saving(tsne_path, place / "save")
    export = ptsne("export", place / "fit", "--out", place / "export", "--no-placement")
    assert done(save)
    assert done(export)
    for name, work in (("fit", fit), ("save", save), ("export", export)):
        folder, base = place / name, name == "export"
        _, changes = dying(work, folder, None)
        wrong = {"broken": 0, "next run fails": 0, "strays": 0}
        for i in range(count):
            versions = {path.name: digest(path) for path in folder.glob("[0-9]*")}
            died, _ = dying(work, folder, i * changes // count)
            assert died
            if base:
                same = all(digest(folder / name) == old for name, old in versions.items())
                new = {path.name for path in folder.glob("[0-9]*")} - {*versions}
                whole = all((folder / name / "saved_model.pb").exists() for name in new)
                wrong["broken"] += not (same and whole)
            else:
                wrong["broken"] += not (paired(folder) and done(lambda f=folder: load(f) and 0))
            wrong["next run fails"] += not done(work)
            wrong["strays"] += bool(strays(folder, base))
        yield Line(f"kill -9 during {name}", count, wrong)


def saving(source: Path, target: Path) -> Callable[[], Any]:
    """Return the call that saves a model of its own."""

    def save() -> None:
        tsne = load(source)
        tsne.embedding_ = tsne.embedding_ + np.float32(os.getpid())
        tsne.save(target)

    return save


def two_writers(place: Path, count: int) -> Iterator[Line]:
    """Let two processes save, fit and export to one place at once."""
    source = place / "model"
    for name in ("save", "fit", "export"):
        wrong = {"broken": 0, "false successes": 0}
        for i in range(count):
            folder = place / f"two-{name}-{i}"
            if name == "save":
                work = saving(source, folder)
            elif name == "fit":
                work = ptsne("fit", place / "rows.npy", "--out", folder, *FIT)
            else:
                work = ptsne("export", source, "--out", folder, "--no-placement")
            codes = [status(process) for process in [child(work), child(work)]]
            succeeded = codes.count(0)
            places = [p for p in (folder, folder.with_name(f"{folder.name}-2")) if p.exists()]
            if name == "export":
                found = len([v for v in folder.glob("[0-9]*") if (v / "saved_model.pb").exists()])
                wrong["broken"] += found < len(list(folder.glob("[0-9]*")))
                wrong["false successes"] += succeeded > found
                stray = bool(strays(folder, base=True))
            else:
                models = [p for p in places if is_model(p)]
                loads = [paired(p) and done(lambda p=p: load(p) and 0) for p in models]
                wrong["broken"] += not all(loads)
                # Each of two saves replaces what was there; each of two fits has its own folder.
                wrong["false successes"] += (succeeded if name == "fit" else 1) > sum(loads)
                stray = any(strays(p) for p in models)
            wrong["broken"] += stray
            for path in places:
                shutil.rmtree(path)
        yield Line(f"two writers: {name}", count, wrong)


class Disk:
    """A folder as a disk may have it when power goes: what was not flushed is lost.

    Calls of a save are traced. Of the names, those survive that were flushed with their folder; of
    the contents, those that were flushed with their file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[str, Any, Any]] = []

    @contextlib.contextmanager
    def traced(self) -> Any:
        """Note what is flushed, renamed and removed."""
        real = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "unlink")}

        def fsync(descriptor: int) -> None:
            real["fsync"](descriptor)
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if path.is_dir():
                self.calls.append(("names", path, None))
            else:
                self.calls.append(("contents", os.fstat(descriptor).st_ino, path.read_bytes()))

        def noting(name: str) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                inode = os.lstat(arguments[0]).st_ino if "dir_fd" not in options else None
                result = real[name](*arguments, **options)
                self.calls.append((name, arguments, inode))
                return result

            return call

        os.fsync = fsync
        for name in ("replace", "rename", "unlink"):
            setattr(os, name, noting(name))
        try:
            yield
        finally:
            for name, function in real.items():
                setattr(os, name, function)

    def after(self, before: dict[str, bytes], moment: int, target: Path) -> None:
        """Write the folder as it may be after so many calls, its names flushed or not."""
        contents: dict[int, bytes] = {}
        names: dict[str, Any] = dict(before)
        flushed = dict(before)
        for kind, first, second in self.calls[:moment]:
            if kind == "contents":
                contents[first] = second
            elif kind in ("replace", "rename"):
                source, goal = map(Path, first[:2])
                moved = names.pop(source.name, None)
                if goal.parent == self.folder:  # bytes were on the disk before
                    names[goal.name] = moved if isinstance(moved, bytes) else second
            elif kind == "unlink":
                if Path(first[0]).parent == self.folder:
                    names.pop(Path(first[0]).name, None)
            elif first == self.folder:
                flushed = dict(names)
        # Names may be on the disk earlier than their folder is flushed; contents may not be.
        chosen = names if random.random() < 0.5 else flushed
        for name, found in chosen.items():
            data = found if isinstance(found, bytes) else contents.get(found, b"")
            (target / name).write_bytes(data)


def power_cuts(place: Path, count: int) -> Line:
    """Replay the traced calls of a fit over an old model, cut at moments."""
    folder, results = place / "cut", place / "cuts"
    shutil.copytree(place / "model", folder)
    results.mkdir()

    def cut() -> None:
        random.seed(0)
        sweep(folder)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        disk = Disk(folder)
        words = ("fit", place / "rows.npy", "--out", folder, "--force", *FIT, "--seed", "1")
        with disk.traced():
            assert ptsne(*words)() == 0
        for i in range(count):
            target = results / str(i)
            target.mkdir()
            moment = len(disk.calls) if i == count - 1 else i * len(disk.calls) // count
            disk.after(before, moment, target)

    assert done(cut)
    wrong = {"broken": 0, "lost after success": 0}
    for i in range(count):
        target = results / str(i)
        wrong["broken"] += not (paired(target) and done(lambda t=target: load(t) and 0))
    last = json.loads((results / str(count - 1) / "model.json").read_text())["sha256"]
    wrong["lost after success"] += last != json.loads((folder / "model.json").read_text())["sha256"]
    return Line("power cut (traced calls replayed)", count, wrong)


def device_cuts(place: Path, count: int) -> Line | None:
    """Copy an ext4 disk at moments of saving; return None without root and loop devices."""
    image, disk, folder = place / "disk.img", place / "disk", place / "disk" / "model"
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    disk.mkdir()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    mount = ["mount", "-o", "loop"]
    steps = (["mkfs.ext4", "-q", image], [*mount, image, disk])
    try:
        if any(subprocess.run(command, **quiet).returncode for command in steps):
            return None
    except FileNotFoundError:
        return None
    try:
        assert done(lambda: save_often(place / "model", folder, 1))
        writer = child(lambda: save_often(place / "model", folder, 10_000))
        for i in range(count):
            time.sleep(random.uniform(0.05, 0.3))
            os.kill(writer, signal.SIGSTOP)  # the copy takes a while, and shall be of one moment
            shutil.copyfile(image, place / f"cut-{i}.img")
            os.kill(writer, signal.SIGCONT)
        os.kill(writer, signal.SIGKILL)
        status(writer)
        assert done(lambda: save_often(place / "model", folder, 1))
        shutil.copyfile(image, place / f"cut-{count}.img")
        last = (folder / "model.json").read_bytes()
    finally:
        subprocess.run(["umount", disk], check=True)
    wrong = {"broken": 0, "lost after success": 0}
    for i in range(count + 1):
        cut = place / f"cut-{i}.img"
        subprocess.run([*mount, cut, disk], check=True)
        try:
            whole = paired(folder) and done(lambda: load(folder) and 0)
            wrong["broken"] += not whole
            kept = whole and (folder / "model.json").read_bytes() == last
            wrong["lost after success"] += i == count and not kept
        finally:
            subprocess.run(["umount", disk], check=True)
        cut.unlink()
    return Line("power cut (ext4 image)", count, wrong)


def save_often(source: Path, target: Path, times: int) -> None:
    """Save a model and a map again and again."""
    tsne = load(source)
    for i in range(times):
        tsne.embedding_ = tsne.embedding_ + np.float32(1)
        tsne._save(target, write_map=lambda file, i=i: file.write_text(f"{i}" * 1000))


def damages(place: Path, count: int) -> Line:
    """Flip, cut, drop and swap parts of folders; each should be refused in one line."""

    def refuse() -> int:
        wrong, source = 0, place / "model"
        folder = place / "damaged"
        for i in range(count):
            draw = random.Random(i)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source, folder)
            file = draw.choice([p for p in sorted(folder.iterdir()) if p.suffix != ".csv"])
            damage(file, draw)
            try:
                ParametricTSNE.load(folder)
                wrong += 1
            except (ValueError, FileNotFoundError) as error:
                wrong += "\n" in str(error)
        return min(wrong, 100)

    return Line("damaged folders", count, {"not refused": status(child(refuse))})


def damage(file: Path, draw: random.Random) -> None:
    """Damage a file of a model in one of several ways."""
    data = bytearray(file.read_bytes())
    kind = draw.randrange(6)
    if kind == 0:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        if file.name == "model.json" and json_of(data) == json_of(file.read_bytes()):
            data = data[:-1]  # blanks alone had changed
    elif kind == 1:
        data = data[: draw.randrange(len(data))]
    elif kind == 2:
        data = bytearray(draw.randbytes(len(data)))
    elif kind == 3:
        data += b"more"
    file.unlink()
    if kind < 4:
        file.write_bytes(bytes(data))
    elif kind == 4:
        file.symlink_to("/dev/zero")
    else:
        os.mkfifo(file)


def json_of(data: Any) -> Any:
    """Return what a manifest says of a model, or None if it is no JSON."""
    try:
        found = json.loads(bytes(data))
        return [found["format"], found["kind"], found["state"], found["files"], found["sha256"]]
    except (ValueError, KeyError):
        return None


# Megabytes that each fit leaves, of the package and of a Keras model like its network.
GROWTH = """
import gc, sys
import keras
import numpy as np
from ptsne_keras import ParametricTSNE

def used():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

def ours(X):
    ParametricTSNE(epochs=4, random_state=0).fit(X).transform(X)

def plain(X):
    layers = [keras.layers.Dense(256, "gelu") for _ in range(3)]
    model = keras.Sequential([keras.Input(X.shape[1:]), *layers, keras.layers.Dense(2)])
    model.compile("adam", "mse")
    model.fit(X, X[:, :2], epochs=4, verbose=0)
    model.predict(X, verbose=0)

rng, count, after = np.random.default_rng(0), int(sys.argv[2]), []
for _ in range(count + 2):
    globals()[sys.argv[1]](rng.normal(size=(200, 10)).astype("float32"))
    after.append(used())
print((after[-1] - after[1]) / count)
"""


def growth(count: int) -> Line:
    """Fit again and again; more memory a fit than Keras itself takes is wrong."""
    grown = {}
    for kind in ("plain", "ours"):
        words = [sys.executable, "-c", GROWTH, kind, str(count)]
        found = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        grown[kind] = float(found.split()[-1])
    what = f"fits: {grown['ours']:.1f} MB each, Keras {grown['plain']:.1f}"
    return Line(what, count, {"more than Keras": int(grown["ours"] > grown["plain"])})


def run(scale: float) -> Iterator[Line]:
    """Try everything so many hundred times."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        np.save(place / "rows.npy", np.random.default_rng(0).normal(size=(40, 5)).astype("f"))

        def number(full: int) -> int:
            return max(2, round(full * scale))

        yield from kills(place, number(100))
        yield power_cuts(place, number(20))
        yield from filter(None, [device_cuts(place, number(20))])
        yield from two_writers(place, number(100))
        yield damages(place, number(500))
        if scale > 0.1:  # of few fits it would be noise
            yield growth(number(20))


def shown(line: Line) -> str:
    """Lay out a line of the table."""
    found = ", ".join(f"{count} {kind}" for kind, count in line.wrong.items())
    return f"{line.what:<36}{line.times:>6}  {found}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    start = time.perf_counter()
    print(f"{'':<36}{'times':>6}  of which")
    for line in run(parser.parse_args().scale):
        print(shown(line), flush=True)
    print(f"{time.perf_counter() - start:.0f} s")
