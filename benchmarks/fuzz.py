"""Damaged and odd files, thousands of them, through every reader of rows and maps.

    python benchmarks/fuzz.py [--inputs 10000]

Each file is a good one that is cut, changed, repeated, mixed with another or packed to expand. It
should be read, or refused by an error of one line that names it. Batches run in processes of their
own, with limits of time and memory.
"""

import argparse
import gzip
import io
import json
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import kept
import numpy as np

OUTCOMES = ("read", "refused", "other", "hang", "crash")
# Seconds of a processor that one call may take, and ten times as many of the clock; inputs of a
# process; bytes that a process may reserve.
SECONDS, BATCH, MEMORY = 20, 500, 6 << 30
TOKENS = [b'"', b";", b"\t", b",,", b"\0", b"\xff", b"1e999", b"-", b"=1+1", b"NA", b"\r", b"#"]
TOKENS += [b"x" * 200_000, b"9" * 400, b"1,5", b"1.234,5", b"\n\n", b"()" * 300, b"'" * 9, b"True"]


def good(form: str) -> bytes:
    """Return a file that can be read."""
    rng = np.random.default_rng(0)
    X, stream = rng.normal(size=(60, 5)).astype("float32"), io.BytesIO()
    if form == ".npy":
        np.save(stream, X)
    elif form == ".npz":
        np.savez_compressed(stream, X=X, kind=np.repeat(["a", "b"], 30))
    elif form in (".csv", ".csv.gz"):
        lines = [b"id,a,b,c,d,e,kind"]
        lines += [f"s{i},{','.join(map(str, x))},k".encode() for i, x in enumerate(X)]
        stream.write(b"\n".join(lines))
    elif form == ".txt":
        np.savetxt(stream, X)
    elif form == ".tsv":  # of Germany
        np.savetxt(stream, X, fmt="%.4f", delimiter="\t")
        return stream.getvalue().replace(b".", b",")
    elif form == ".parquet":
        import pandas

        frame = pandas.DataFrame(X, columns=list("abcde"))
        frame.assign(kind="k", e=[x.tolist() for x in X]).to_parquet(stream)
    else:
        import anndata

        data = anndata.AnnData(X, obsm={"X_tsne": X})
        data.obs["kind"] = "k"
        with tempfile.NamedTemporaryFile(suffix=form) as file:
            data.write_h5ad(file.name)
            return file.read()
    whole = stream.getvalue()
    return gzip.compress(whole) if form.endswith(".gz") else whole


FORMS = (".npy", ".npz", ".csv", ".csv.gz", ".tsv", ".txt", ".parquet", ".h5ad")


def expanding(form: str) -> bytes | None:
    """Return a small file that would take gigabytes."""
    stream = io.BytesIO()
    if form == ".csv.gz":
        return 64 * gzip.compress(b"0," * (1 << 25))
    if form == ".npz":
        with (
            zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("X.npy", "w", force_zip64=True) as member,
        ):
            header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 18, 1 << 10)}
            np.lib.format.write_array_header_1_0(member, header)
            for _ in range(1 << 6):
                member.write(bytes(1 << 24))
        return stream.getvalue()
    if form == ".parquet":
        import pyarrow
        from pyarrow import parquet

        column = pyarrow.array(np.zeros(1 << 24, np.int8))
        parquet.write_table(
            pyarrow.table([column] * 50, names=[f"c{j}" for j in range(50)]), stream
        )
        return stream.getvalue()
    if form == ".h5ad":
        import h5py

        with h5py.File(stream, "w") as file:
            file.create_dataset("X", (1 << 17, 1 << 15), "f4", chunks=True)
        return stream.getvalue()
    return None


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """Return a file changed in one to four places."""
    body = bytearray(whole)
    for _ in range(rng.integers(1, 5)):
        at, size = int(rng.integers(0, len(body) + 1)), int(rng.integers(1, 65))
        if rng.random() < 0.4:  # headers are at the ends
            at %= 400
            at = at if rng.random() < 0.5 else max(0, len(body) - at)
        change = rng.integers(0, 8)
        if change == 0:
            del body[at:]
        elif change == 1:
            del body[at : at + size]
        elif change == 2:
            body[at : at + size] = rng.bytes(size)
        elif change == 3:
            body[at:at] = TOKENS[rng.integers(0, len(TOKENS))]
        elif change == 4 and at < len(body):
            body[at] ^= 1 << int(rng.integers(0, 8))
        elif change == 5:
            body[at:at] = body[at : at + 20 * size]
        elif change == 6:
            body[at : at + size] = (b"\0", b"\xff", b"9")[rng.integers(0, 3)] * size
        else:
            body[at : at + 4] = int(rng.integers(0, 2**32)).to_bytes(4, "little")
    return bytes(body)


def changed(form: str, whole: bytes, rng: np.random.Generator) -> bytes:
    """Return a damaged file; half of the compressed ones are damaged before compression."""
    if form == ".csv.gz" and rng.random() < 0.5:
        return gzip.compress(damaged(gzip.decompress(whole), rng), 1)
    if form == ".npz" and rng.random() < 0.5:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("X.npy", damaged(good(".npy"), rng))
        return stream.getvalue()
    return damaged(whole, rng)


def calls(file: Path) -> list[Callable[[], Any]]:
    """Return every way in which a file is read."""
    from ptsne_keras.io import maps
    from ptsne_keras.io.rows import Choice, Reader

    other = file.with_name("other.npy")
    beside = [Choice(ids=str(file))] if file.suffix in (".npy", ".txt") else []
    return [
        lambda: Reader(file).read(),
        lambda: Reader(file, Choice(ids="id", labels="kind", drop=["a"])).read(),
        lambda: list(Reader(file, Choice(labels="kind")).blocks()),
        lambda: maps.read(file, columns=["a", "b"]),
        lambda: maps.read(file),
        *(lambda choice=choice: Reader(other, choice).read() for choice in beside),
    ]


def outcome(call: Callable[[], Any], file: Path) -> str:
    """Return whether a file was read, or refused as it should be, or what else happened."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except ValueError as error:
        text = str(error)
        if type(error) is ValueError and text.isprintable() and "Received: " in text:
            return "refused"
        return f"other: {type(error).__name__}: {text[:200]!r}"
    except Exception as error:
        return f"other: {type(error).__name__}: {str(error)[:200]!r}"
    return "read"


def batch(form: str, first: int, count: int) -> None:
    """Read a batch of inputs, and print the outcomes of each as a line of JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    whole = good(form)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"rows{form}"
        np.save(Path(folder) / "other.npy", np.zeros((60, 2), np.float32))
        for number in range(first, first + count):
            rng = np.random.default_rng(number)
            packed = expanding(form) if number == 0 else None
            file.write_bytes(packed or changed(form, whole, rng))
            del packed
            outcomes = []
            for call in calls(file):
                # Signals that end the process, inside any library.
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                signal.alarm(10 * SECONDS)
                outcomes.append(outcome(call, file))
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1000
            peak = max(round(1000 * kept.peak_gigabytes()), children)
            print(json.dumps([number, outcomes, peak]), flush=True)


def run(form: str, first: int, count: int) -> tuple[list[Any], str]:
    """Run a batch in a process; return its lines, and "hang" or "crash" where it died."""
    command = [sys.executable, __file__, "--batch", form, str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    ends = {0: "", -signal.SIGALRM: "hang", -signal.SIGPROF: "hang"}
    end = ends.get(done.returncode, "crash")
    return [json.loads(line) for line in done.stdout.splitlines() if line.endswith("]")], end


def fuzz(scale: float = 1.0, forms: Sequence[str] = FORMS) -> dict[str, dict[str, Any]]:
    """Read 10,000 · scale files; return for each form what happened.

    "other" counts exceptions of another kind, "hang" inputs that took too long, "crash" processes
    that died; "MB" is the most memory of a process.

    Examples
    --------
    >>> fuzz(0.001)[".npy"]["other"]
    0
    """
    results = {}
    for form in forms:
        counts, kinds, peak, number = Counter(), Counter(), 0, 0
        inputs = max(1, round(10_000 * scale / len(FORMS)))
        while number < inputs:
            lines, end = run(form, number, min(BATCH, inputs - number))
            for input_, outcomes, used in lines:
                counts.update(found.split(":")[0] for found in outcomes)
                kinds.update(found for found in outcomes if found.startswith("other"))
                if used > max(peak, 1000):
                    kinds[f"{used} MB at input {input_}"] += 1
                peak = max(peak, used)
            number += len(lines)
            if end:  # the next input is the one that did not come back
                counts[end] += 1
                kinds[f"{end} at input {number}"] += 1
                number += 1
        found = {name: counts[name] for name in OUTCOMES}
        results[form] = {"inputs": inputs, **found, "MB": peak, "kinds": dict(kinds)}
    return results


def main() -> None:
    """Print a table of what happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--batch", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.batch:
        form, first, count = options.batch
        batch(form, int(first), int(count))
        return
    names = ("inputs", *OUTCOMES, "MB")
    print(f"{'':10}" + "".join(f"{name:>10}" for name in names))
    for form in FORMS:
        found = fuzz(options.inputs / 10_000, [form])[form]
        print(f"{form:10}" + "".join(f"{found[name]:10,}" for name in names), flush=True)
        for kind, count in Counter(found["kinds"]).most_common(20):
            print(f"{'':12}{count:6}  {kind}")


if __name__ == "__main__":
    main()
