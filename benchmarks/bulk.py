"""Rows a second through `serving.embed_parquet`, by one, two and four workers of a local Ray.

    python benchmarks/bulk.py [--rows 400000] [--workers 1 2 4]

The rows are those of scaling.py in Parquet files of 20,000. The model is the default fit of the
first 60,000 of them, exported with all of these as its reference, and tells places and novelty. The
second of two runs counts, with workers that have to start anew.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import scaling

_FILE = 20_000


def write(X: np.ndarray, folder: Path) -> None:
    """Write rows as a list column beside their numbers."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir()
    for start in range(0, len(X), _FILE):
        part = X[start : start + _FILE]
        lists = pyarrow.FixedSizeListArray.from_arrays(part.ravel(), part.shape[1])
        table = pyarrow.table({"id": np.arange(start, start + len(part)), "features": lists})
        pyarrow.parquet.write_table(table, folder / f"{start:09}.parquet")


def main() -> None:
    """Time each number of workers and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    from ptsne_keras import ParametricTSNE, serving

    X = scaling.rows(options.rows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(X, folder / "rows")
        tsne = ParametricTSNE(random_state=0).fit(X[:60_000])
        path = serving.export_saved_model(tsne.encoder_, folder / "model")
        signature = {"signature": "embed_with_novelty"}
        embed = serving.Embedder(path, ["features"], keep=["id"], **signature)
        ray.init(num_cpus=max(options.workers), include_dashboard=False, log_to_driver=False)
        print("| workers | seconds | rows/s |\n|---|---|---|")
        for workers in options.workers:
            for number in range(2):
                start = time.perf_counter()
                out = folder / f"{workers}_{number}"
                serving.embed_parquet(folder / "rows", out, embed, workers=workers)
                seconds = time.perf_counter() - start
            print(f"| {workers} | {seconds:.0f} | {options.rows / seconds:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
