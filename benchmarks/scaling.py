"""Cost and quality of a fit as N grows, from 10,000 rows to 10,000,000, memory-mapped.

    python benchmarks/scaling.py [--rows 10000 100000 1000000 10000000] [--keep FOLDER]

Rows of 128 features are made from MNIST: all its pictures are moved by up to two pixels, scaled
by up to a tenth, given noise, and projected by a fixed random matrix, again with another shift
and scale until there are enough. Each N is fitted by default settings in a process of its own, from
a .npy file; above a million rows, `max_train_rows`, the others are placed.

Memory is anonymous memory, without the file cache. Quality is of 10,000 held-out rows, made alike
from MNIST's test pictures: 1-NN accuracy on the map of all N, and the part of the 15 true nearest
reference rows that the search finds (1,000 rows). Kept are benchmarks/results/scaling.json and
scaling.png; --keep keeps the rows for the next run.
"""

import argparse
import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import data
import kept
import numpy as np
import scipy.ndimage
from scipy.spatial import cKDTree
from sklearn.neighbors import NearestNeighbors

RESULTS = Path(__file__).parent / "results"
_BLOCK = 60_000
# Neighbours that a row is placed among, and rows whose true ones are found.
_NEIGHBORS, _LOOKED_UP = 15, 1000
COLUMNS = {
    "rows": "{:,.0f}",
    "learned from": "{:,.0f}",
    "neighbors s": "{:.0f}",
    "finetune s": "{:.0f}",
    "refine s": "{:.0f}",
    "others s": "{:.0f}",
    "fit s": "{:.0f}",
    "others rows/s": "{:,.0f}",
    "fit GB": "{:.1f}",
    "map B/row": "{:.0f}",
    "transform rows/s": "{:,.0f}",
    "1-NN": "{:.3f}",
    "recall(15) of the search": "{:.3f}",
}


def rows(n: int, features: int = 128, seed: int = 0, *, out: Any = None) -> Any:
    """Make n rows of MNIST's training pictures, float32."""
    matrix = _matrix(features)
    images = data.load("mnist")[0][0].reshape(-1, 28, 28)
    X = np.empty((n, features), np.float32) if out is None else out
    rng = np.random.default_rng([seed, 1])
    for start in range(0, n, _BLOCK):
        X[start : start + _BLOCK] = _distorted(images[: n - start], rng) @ matrix
    return X


def held_out(features: int = 128) -> tuple[Any, Any]:
    """Return rows of MNIST's test pictures, a fifth of them under each distortion; and labels."""
    (_, _), (images, labels) = data.load("mnist")
    rng = np.random.default_rng(2)
    parts = [_distorted(part, rng) for part in np.split(images.reshape(-1, 28, 28), 5)]
    return np.concatenate(parts) @ _matrix(features), labels


def _matrix(features: int) -> Any:
    rng = np.random.default_rng(0)
    return rng.normal(size=(784, features)).astype(np.float32) / math.sqrt(features)


def _distorted(images: Any, rng: np.random.Generator) -> Any:
    """Move, scale and blur pictures [n, 28, 28], all alike, to rows [n, 784]."""
    shift, zoom = rng.integers(-2, 3, size=2), rng.uniform(0.9, 1.1, size=2)
    offset = [0, *(13.5 * (1 - zoom) - shift)]
    moved = scipy.ndimage.affine_transform(images, np.diag([1.0, *zoom]), offset=offset, order=1)
    noise = rng.standard_normal(moved.shape, np.float32)
    return (moved + np.float32(0.05) * noise * (moved > 0)).reshape(len(images), 784)


def measure(file: str) -> dict[str, float]:
    """Fit the rows of a file in this process, and place those that were held out."""
    from ptsne_keras import ParametricTSNE, datasets

    # So that what is imported and compiled is there.
    ParametricTSNE(epochs=1).fit(datasets.digits()[0][0])
    X = np.load(file, mmap_mode="r")
    n = len(X)
    start = time.perf_counter()
    with kept.Memory() as memory:
        tsne = ParametricTSNE(random_state=0, verbose=1).fit(X)
    seconds, all_seconds = tsne.history_["seconds"], time.perf_counter() - start
    reference = tsne.encoder_.layers[-1].reference()[0]
    others = n - len(reference)
    X_new, labels_new = held_out()
    tsne.transform(X_new)  # builds the index where it is not there
    start = time.perf_counter()
    Y_new = tsne.transform(X_new)
    rate = len(X_new) / (time.perf_counter() - start)
    labels = np.resize(data.load("mnist")[0][1], n)
    near = cKDTree(tsne.embedding_).query(Y_new, workers=-1)[1]
    return {
        "rows": n,
        "learned from": len(reference),
        **{f"{name} s": seconds[name] for name in ("neighbors", "finetune", "refine")},
        **(
            {"others s": seconds["others"], "others rows/s": others / seconds["others"]}
            if others
            else {}
        ),
        "fit s": all_seconds,
        "fit GB": memory.most / 1e9,
        "map B/row": tsne.embedding_.nbytes / n,
        "transform rows/s": rate,
        "1-NN": float(np.mean(labels[near] == labels_new)),
        "recall(15) of the search": recall(tsne, X_new[:_LOOKED_UP], reference),
    }


def recall(tsne: Any, X_new: Any, reference: Any) -> float:
    """Return the part of the true nearest reference rows that a model's search finds."""
    from ptsne_keras import networks
    from ptsne_keras.estimators._placer import index_of

    z = np.asarray(networks.front(tsne.encoder_)(X_new)[0])
    found = index_of(reference).search(z, _NEIGHBORS).indices
    exact = NearestNeighbors(n_neighbors=_NEIGHBORS, algorithm="brute").fit(reference)
    true = exact.kneighbors(z, return_distance=False)
    return (
        float(np.mean([len(np.intersect1d(*pair)) for pair in zip(found, true, strict=True)]))
        / _NEIGHBORS
    )


def draw(results: list[dict[str, float]], path: Path) -> None:
    """Plot seconds and memory against N."""
    import matplotlib.pyplot as plt

    n = [r["rows"] for r in results]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name in ("fit s", "neighbors s", "finetune s", "refine s", "others s"):
        left.loglog(n, [r.get(name, np.nan) for r in results], "o-", label=name.removesuffix(" s"))
    left.set(xlabel="rows", title="seconds")
    left.legend(frameon=False)
    right.loglog(n, [r["fit GB"] for r in results], "o-", label="memory of the fit")
    right.loglog(n, [512e-9 * rows for rows in n], "s--", label="the rows, in their file")
    right.set(xlabel="rows", title="GB")
    right.legend(frameon=False)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def table(results: list[dict[str, float]]) -> str:
    """Return one line for each N."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for found in results:
        cells = [form.format(found[key]) if key in found else "–" for key, form in COLUMNS.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run each N in a process of its own; print, keep and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--keep", type=Path, help="a folder for the rows")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    results = []
    for n in options.rows:
        with contextlib.ExitStack() as stack:
            folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            file = folder / f"rows_{n}.npy"
            if not file.exists():
                shape = (n, 128)
                rows(n, out=np.lib.format.open_memmap(file, "w+", np.float32, shape)).flush()
            command = [sys.executable, __file__, "--one", str(file)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    (RESULTS / "scaling.json").write_text(json.dumps(results, indent=1))
    draw(results, RESULTS / "scaling.png")
    print(table(results))


if __name__ == "__main__":
    main()
