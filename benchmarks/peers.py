"""Map quality, speed and memory beside the peers: one run, one machine, one after another.

    python benchmarks/peers.py [--datasets mnist fashion …] [--methods ours pca …] [--seeds 3]

Each method has a virtual environment of its own under benchmarks/venvs, made on first use, and
each fit a process of its own, on both cores. Every finished cell is
kept in benchmarks/results/peers as JSON (with its map, versions, date, commit and the load that the
machine had before), so that a run that was stopped goes on where it was; --fresh starts again. From
the cells table.md and a picture of each data set are made, beside them. A method that fails, or has
not finished within --limit seconds, is kept as that.

Quality is of the **test** rows against the training rows' map: 1-NN and 5-NN accuracy,
trustworthiness and continuity of the first 5,000 test rows, share of the 10 nearest training rows
that are so on the map; and 5-NN accuracy on the training rows, each left out of its own neighbours.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import data
import kept
import numpy as np
import scipy.sparse
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from ptsne_keras import metrics

HERE = Path(__file__).parent
RESULTS = HERE / "results/peers"
# Pip installs, one after another; methods not named run in the environment of this script.
REQUIREMENTS = {
    "parametric_umap": [["umap-learn==0.5.12", "tensorflow-cpu==2.21.0"]],
    "opentsne": [["openTSNE==1.0.4"]],
    "parampacmap": [
        ["pacmap==0.9.1", "numba", "scikit-learn", "torch==2.13.0", "annoy"],
        ["--no-deps", "parampacmap==0.1.0"],
    ],
}
TITLES = {
    "ours": "ParametricTSNE",
    "network": "`placement=False`, the network alone",
    "parametric_umap": "Parametric UMAP",
    "opentsne": "openTSNE (`transform` optimises)",
    "parampacmap": "ParamPaCMAP",
    "pca": "PCA",
}
_TRUSTWORTHINESS_ROWS = 5000


def run(dataset: str, method: str, seed: int, limit: float) -> dict[str, Any]:
    """Fit one cell in a process of its own, measure it, keep it."""
    cell = RESULTS / f"{dataset}-{method}-{seed}.json"
    if cell.exists():
        return json.loads(cell.read_text())
    steps = REQUIREMENTS.get(method)
    interpreter = kept.python(method, steps) if steps else sys.executable
    train, test = data.load(dataset)
    result: dict[str, Any] = {
        "date": datetime.now().isoformat(timespec="minutes"),
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True
        ).stdout.strip(),
        "load before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, (X, _) in (("train", train), ("test", test)):
            if scipy.sparse.issparse(X):
                scipy.sparse.save_npz(folder / f"{part}.npz", X)
            else:
                np.save(folder / f"{part}.npy", X)
        command = [interpreter, str(HERE / "peer.py"), method, name, str(seed)]
        with open(cell.with_suffix(".log"), "w") as log:
            try:
                subprocess.run(command, check=True, stdout=log, stderr=log, timeout=limit)
            except subprocess.TimeoutExpired:
                result["failed"] = f"not finished in {limit:.0f} s"
            except subprocess.CalledProcessError:
                result["failed"] = f"failed: see {cell.stem}.log"
        if "failed" not in result:
            result |= json.loads((folder / "out.json").read_text())
            with np.load(folder / "out.npz") as maps:
                Y, Y_test = maps["train"], maps["test"]
            result |= quality(dataset, Y, Y_test)
            np.savez_compressed(cell.with_suffix(".npz"), train=Y, test=Y_test)
    kept.write(cell, json.dumps(result, indent=1).encode())
    return result


def quality(dataset: str, Y: Any, Y_test: Any) -> dict[str, float]:
    """Measure the maps of the training and the test rows."""
    (X, labels), (X_test, labels_test) = data.load(dataset)
    first = slice(_TRUSTWORTHINESS_ROWS)
    part = X_test[first].toarray() if scipy.sparse.issparse(X_test) else X_test[first]
    own = NearestNeighbors(n_neighbors=5).fit(Y).kneighbors(return_distance=False)
    votes = KNeighborsClassifier(5).fit(Y, labels).classes_
    counts = (labels[own][:, :, None] == votes).sum(axis=1)
    return {
        "1-NN": metrics.knn_accuracy(Y, labels, Y_test, labels_test, 1),
        "5-NN": metrics.knn_accuracy(Y, labels, Y_test, labels_test, 5),
        "T(5)": metrics.trustworthiness(part, Y_test[first], 5),
        "T(12)": metrics.trustworthiness(part, Y_test[first], 12),
        "continuity(12)": metrics.continuity(part, Y_test[first], 12),
        "recall(10)": metrics.neighborhood_recall(X, Y, X_test, Y_test, 10),
        "5-NN, training": float((votes[counts.argmax(axis=1)] == labels).mean()),
    }


COLUMNS = {
    "1-NN": 3,
    "5-NN": 3,
    "T(5)": 3,
    "T(12)": 3,
    "continuity(12)": 3,
    "recall(10)": 3,
    "5-NN, training": 3,
    "import s": 1,
    "fit s": 1,
    "transform s": 2,
    "peak GB": 1,
}


def table(dataset: str, results: dict[str, list[dict[str, Any]]]) -> str:
    """Lay out one data set: a line a method, medians, and the range where there are seeds."""
    lines = [f"| {dataset} | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for method, cells in results.items():
        failed = [cell["failed"] for cell in cells if "failed" in cell]
        if failed:
            lines.append(f"| {TITLES[method]} | {failed[0]} |" + " |" * (len(COLUMNS) - 1))
            continue
        entries = []
        for column, digits in COLUMNS.items():
            values = [cell[column] for cell in cells]
            entry = f"{statistics.median(values):.{digits}f}"
            least, most = (f"{bound(values):.{digits}f}" for bound in (min, max))
            entries.append(entry if least == most else f"{entry} ({least}-{most})")
        lines.append(f"| {TITLES[method]} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def versions(results: dict[str, list[dict[str, Any]]]) -> str:
    """Name the versions that ran, and when."""
    first = [cells[0] for cells in results.values() if "versions" in cells[0]]
    named = [" ".join(f"{name} {v}" for name, v in cell["versions"].items()) for cell in first]
    dates = sorted(cell["date"] for cells in results.values() for cell in cells)
    return f"{'; '.join(named)}. From {dates[0]} to {dates[-1]}."


def keep_tables() -> str:
    """Lay out all cells that are kept, of this run and of others."""
    parts = []
    for dataset in data.NAMES:
        results = {}
        for method in TITLES:
            files = sorted(RESULTS.glob(f"{dataset}-{method}-*.json"))
            if files:
                results[method] = [json.loads(file.read_text()) for file in files]
        if results:
            parts += [table(dataset, results), versions(results)]
            done = [method for method, cells in results.items() if "failed" not in cells[0]]
            picture(dataset, done, RESULTS / f"{dataset}.png")
    text = "\n\n".join(parts) + "\n"
    kept.write(RESULTS / "table.md", text.encode())
    return text


def picture(dataset: str, methods: list[str], path: Path) -> None:
    """Draw the test rows on each method's map, side by side."""
    import matplotlib.pyplot as plt

    from ptsne_keras import plotting

    _, (_, labels) = data.load(dataset)
    width = 4 * len(methods)
    figure, axes = plt.subplots(1, len(methods), figsize=(width, 4.2), layout="constrained")
    for ax, method in zip(np.atleast_1d(axes), methods, strict=True):
        with np.load(RESULTS / f"{dataset}-{method}-0.npz") as maps:
            plotting.scatter(maps["test"], labels, ax=ax)
        ax.set_title(TITLES[method].split(" (")[0])
        if ax.get_legend():
            ax.get_legend().remove()
    figure.savefig(path, dpi=60)
    plt.close(figure)


def main() -> None:
    """Run the cells that are missing; print and draw all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=list(data.NAMES), choices=data.NAMES)
    parser.add_argument("--methods", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--seeds", type=int, default=3, help="of our own method; peers run once")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for a cell")
    parser.add_argument("--fresh", action="store_true", help="make these cells again")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for dataset in options.datasets:
        data.load(dataset)  # what cannot be had should be known before hours have gone by
        for method in options.methods if options.fresh else ():
            for cell in RESULTS.glob(f"{dataset}-{method}-*"):
                cell.unlink()
    for dataset in options.datasets:
        for method in options.methods:
            for seed in range(options.seeds if method == "ours" else 1):
                cell = run(dataset, method, seed, options.limit)
                print(dataset, method, seed, json.dumps(cell), flush=True)
    print("\n" + keep_tables())


if __name__ == "__main__":
    main()
