"""Memory and speed of each source of rows, as N grows: batches of (X, P) and nothing else.

    python benchmarks/sources.py [--rows 10000 100000 1000000] [--features 128] [--batches 50]

Each cell is a separate process that makes batches of 1,000 rows. Memory is the peak of anonymous
memory above that before the rows were read, sampled every 10 ms; pages of a mapped file, which the
system may drop at any time, are not counted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import kept
import numpy as np
import scipy.sparse

KINDS = ("array", "memmap", "sparse", "dataset", "tfrecord", "parquet")
BATCH = 1000


def write(kind: str, folder: Path, n: int, features: int) -> None:
    """Write n rows in blocks, so that memory holds few of them."""
    rng = np.random.default_rng(0)
    sizes = np.diff(np.linspace(0, n, n // 10_000 + 1).astype(int))
    blocks = (rng.standard_normal((size, features), dtype=np.float32) for size in sizes)
    if kind in ("array", "memmap", "dataset"):
        file = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (n, features))
        for start, block in zip(np.cumsum(sizes) - sizes, blocks, strict=True):
            file[start : start + len(block)] = block
    elif kind == "sparse":
        parts = [scipy.sparse.csr_matrix(block * (block > 1.3)) for block in blocks]
        scipy.sparse.save_npz(folder / "X.npz", scipy.sparse.vstack(parts), compressed=False)
    elif kind == "tfrecord":
        import tensorflow as tf

        for i, block in enumerate(blocks):
            with tf.io.TFRecordWriter(str(folder / f"{i:03d}.tfrecord")) as writer:
                for x in block:
                    values = tf.train.Feature(float_list=tf.train.FloatList(value=x))
                    parts = tf.train.Features(feature={"features": values})
                    writer.write(tf.train.Example(features=parts).SerializeToString())
    else:
        import pyarrow
        import pyarrow.parquet

        names = [str(c) for c in range(features)]
        schema = pyarrow.schema([(name, pyarrow.float32()) for name in names])
        with pyarrow.parquet.ParquetWriter(folder / "X.parquet", schema) as writer:
            for block in blocks:
                writer.write_table(pyarrow.table(dict(zip(names, block.T, strict=True))))


def batches_of(kind: str, folder: Path, n: int, features: int) -> Any:
    """Build the pipeline."""
    import tensorflow as tf

    from ptsne_keras.data import batches, streams

    if kind == "array":
        return batches.from_array(np.load(folder / "X.npy"), 30, BATCH, seed=0)
    if kind == "memmap":
        return batches.from_array(np.load(folder / "X.npy", mmap_mode="r"), 30, BATCH, seed=0)
    if kind == "sparse":
        return batches.from_array(scipy.sparse.load_npz(folder / "X.npz"), 30, BATCH, seed=0)
    if kind == "dataset":  # of fixed-length records, behind the header of the file
        header = np.load(folder / "X.npy", mmap_mode="r").offset
        records = tf.data.FixedLengthRecordDataset(
            str(folder / "X.npy"), 4 * features, header_bytes=header
        )
        rows = records.map(lambda r: tf.ensure_shape(tf.io.decode_raw(r, tf.float32), [features]))
        return streams.from_dataset(rows, 30, BATCH, count=n, seed=0)
    if kind == "tfrecord":
        files = str(folder / "*.tfrecord")
        return streams.from_tfrecord(files, features, 30, BATCH, count=n, seed=0)
    return streams.from_parquet(folder / "X.parquet", None, 30, BATCH, seed=0)


def one(kind: str, folder: Path, n: int, features: int, count: int) -> dict[str, float]:
    """Make `count` batches, and measure memory and time."""
    from ptsne_keras.data import batches

    warm = np.random.default_rng(0).normal(size=(BATCH, features)).astype("float32")
    list(batches.from_array(warm, 30, BATCH, seed=0))  # what TensorFlow takes by itself
    with kept.Memory() as memory:
        start = time.perf_counter()
        data = batches_of(kind, folder, n, features)
        iterator = iter(data)
        next(iterator)
        first = time.perf_counter()
        rows = sum(len(next(iterator)[0]) for _ in range(min(count, int(data.cardinality())) - 1))
        end = time.perf_counter()
    return {
        "MB": memory.most / 1e6,
        "s to the first batch": first - start,
        "rows a second": rows / (end - first),
    }


def main() -> None:
    """Measure all cells and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        (kind,), (n,) = options.kinds, options.rows
        figures = one(kind, Path(options.one), n, options.features, options.batches)
        print(json.dumps(figures))
        return
    print("| source | rows | MB | s to the first batch | rows a second |\n|---|---|---|---|---|")
    for kind in options.kinds:
        for n in options.rows:
            with tempfile.TemporaryDirectory() as folder:
                write(kind, Path(folder), n, options.features)
                command = [sys.executable, __file__, "--one", folder, "--kinds", kind]
                command += ["--rows", str(n), "--features", str(options.features)]
                command += ["--batches", str(options.batches)]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            cell = json.loads(out.splitlines()[-1])
            print(
                f"| {kind} | {n:,} | {cell['MB']:.0f} | {cell['s to the first batch']:.1f} "
                f"| {cell['rows a second']:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
