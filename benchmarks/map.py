"""New rows on a map that exists: placement, the mean of neighbours, regression, on openTSNE's map.

    python benchmarks/map.py [--datasets mnist fashion] [--methods placement mean …] [--seeds 1]
    python benchmarks/map.py --validation …

The map of the 60,000 training rows is openTSNE's, made by benchmarks/peers.py if it is not there.
"tanh" is the network that was used in practice, as many operations as 268 passes of "squares".
Every finished cell is kept in benchmarks/results/map; each run prints the table of those that are
there, and draws the test rows of each. --validation holds 10,000 training rows out and measures on
those instead: settings were chosen on them.

Columns, all of the 10,000 test rows: accuracy by the nearest training rows on the map; the part of
the 10 nearest training rows that are so on the map; T(12) of the first 5,000; the area under the
ROC curve of `novelty`, by which the test rows of the other data set are told from these; seconds of
`fit` and of placing the test rows.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import data
import kept
import keras
import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsRegressor

from ptsne_keras import MapRegressor, metrics, plotting

HERE = Path(__file__).parent
PEERS = HERE / "results/peers"
TITLES = {
    "tanh": "squares: tanh 1024-1024-1024",
    "squares": "squares: GELU 256-256-256",
    "mean": "mean of 15 neighbours (scikit-learn)",
    "placement": "placement (MapRegressor)",
    "opentsne": "openTSNE's `transform`",
}
COLUMNS = ["1-NN", "5-NN", "recall(10)", "T(12)", "AUC", "fit s", "10,000 rows s"]
# Rows that are like none of the map's.
_STRANGERS = {"mnist": "fashion", "fashion": "mnist"}
# Passes over the rows, and multiplications a row of the two networks.
_EPOCHS = 268
_GELU = 100 * 256 + 2 * 256**2 + 2 * 256
_TANH = 784 * 1024 + 2 * 1024**2 + 2 * 1024
TRUSTWORTHINESS_ROWS = 5000


def make(method: str, seed: int, X: Any) -> Any:
    """Make the estimator."""
    if method == "placement":
        return MapRegressor(random_state=seed)
    if method == "mean":
        return KNeighborsRegressor(15, weights="distance", n_jobs=-1)
    options: dict[str, Any] = {"objective": "squares", "random_state": seed}
    epochs = _EPOCHS
    if method == "tanh":
        options |= {"encoder": practice(X, seed), "learning_rate": 1e-4}
        epochs = round(_EPOCHS * _GELU / _TANH)
    else:
        options["batch_size"] = 1024
    # The best epoch by the held-out rows is kept, and all are run.
    return MapRegressor(epochs=epochs, patience=epochs, **options)


def practice(X: Any, seed: int) -> keras.Model:
    """Return the network that succeeded in practice: three tanh layers, a map in the unit square.

    Its columns are standardised.
    """
    keras.utils.set_random_seed(seed)
    variance = np.where(X.std(axis=0) > 1e-3, X.var(axis=0), X.var(axis=0).mean())
    layers = [
        keras.Input((X.shape[1],)),
        keras.layers.Normalization(mean=X.mean(axis=0), variance=variance),
        *(keras.layers.Dense(1024, "tanh") for _ in range(3)),
        keras.layers.Dense(2, "sigmoid"),
    ]
    return keras.Sequential(layers)


def given_map(dataset: str) -> tuple[Any, Any]:
    """Places that openTSNE gave the training and the test rows."""
    file = PEERS / f"{dataset}-opentsne-0.npz"
    if not file.exists():
        command = [sys.executable, HERE / "peers.py", "--datasets", dataset]
        subprocess.run([*command, "--methods", "opentsne"], check=True)
    with np.load(file) as maps:
        return maps["train"], maps["test"]


def load(dataset: str, validation: bool) -> tuple[Any, ...]:
    """X, labels, their given places; the same of the rows to measure on."""
    (X, labels), (X_test, labels_test) = data.load(dataset)
    Y, Y_test = given_map(dataset)
    if validation:
        order = np.random.default_rng(0).permutation(len(X))
        train, held_out = np.sort(order[:-10_000]), np.sort(order[-10_000:])
        X_test, labels_test, Y_test = X[held_out], labels[held_out], Y[held_out]
        X, labels, Y = X[train], labels[train], Y[train]
    return X, labels, Y, X_test, labels_test, Y_test


def quality(rows: tuple[Any, ...], placed: Any) -> dict[str, float]:
    """Measure where the new rows were placed."""
    X, labels, Y, X_test, labels_test, _ = rows
    first = slice(TRUSTWORTHINESS_ROWS)
    return {
        "1-NN": metrics.knn_accuracy(Y, labels, placed, labels_test, 1),
        "5-NN": metrics.knn_accuracy(Y, labels, placed, labels_test, 5),
        "recall(10)": metrics.neighborhood_recall(X, Y, X_test, placed),
        "T(12)": metrics.trustworthiness(X_test[first], placed[first], 12),
    }


def run(dataset: str, method: str, seed: int, folder: Path, validation: bool) -> dict[str, Any]:
    """Run one cell, or read it."""
    cell = folder / f"{dataset}-{method}-{seed}.json"
    if cell.exists():
        return json.loads(cell.read_text())
    rows = load(dataset, validation)
    X, _, Y, X_test, _, Y_test = rows
    result: dict[str, Any] = {}
    if method == "opentsne":
        placed = Y_test
        times = json.loads((PEERS / f"{dataset}-opentsne-0.json").read_text())
        result["10,000 rows s"] = times["transform s"]
    else:
        estimator = make(method, seed, X)
        start = time.perf_counter()
        estimator.fit(X, Y)
        fitted = time.perf_counter()
        placed = estimator.predict(X_test)
        result["fit s"] = fitted - start
        result["10,000 rows s"] = time.perf_counter() - fitted
        if isinstance(estimator, MapRegressor):
            result["history"] = estimator.history_
            strangers = data.load(_STRANGERS[dataset])[1][0]
            found = [estimator.novelty(rows) for rows in (X_test, strangers)]
            truth = np.repeat([0, 1], [len(part) for part in found])
            result["AUC"] = roc_auc_score(truth, np.concatenate(found))
    result |= quality(rows, placed)
    np.savez_compressed(cell.with_suffix(".npz"), test=placed)
    kept.write(cell, json.dumps(result, indent=1).encode())
    return result


def table(dataset: str, folder: Path) -> str:
    """Lay out the cells of a data set that are there: medians, and ranges where there are seeds."""
    lines = [f"| {dataset} | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for method, title in TITLES.items():
        files = sorted(folder.glob(f"{dataset}-{method}-?.json"))
        cells = [json.loads(file.read_text()) for file in files]
        if not cells:
            continue
        entries = []
        for column in COLUMNS:
            values = [cell[column] for cell in cells if column in cell]
            digits = 1 if column.endswith(" s") else 3
            entry = f"{statistics.median(values):.{digits}f}" if values else "-"
            if len(values) > 1 and min(values) < max(values):
                entry += f" ({min(values):.{digits}f}-{max(values):.{digits}f})"
            entries.append(entry)
        lines.append(f"| {title} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def picture(dataset: str, methods: list[str], rows: tuple[Any, ...], folder: Path) -> None:
    """Draw the map that was given, and the test rows where each method places them."""
    import matplotlib.pyplot as plt

    _, labels, Y, _, labels_test, _ = rows
    methods = [m for m in methods if (folder / f"{dataset}-{m}-0.npz").exists()]
    width = 4 * (len(methods) + 1)
    figure, axes = plt.subplots(1, len(methods) + 1, figsize=(width, 4.2), layout="constrained")
    plotting.scatter(Y[::6], labels[::6], ax=axes[0])
    axes[0].set_title("given: every sixth training row")
    for ax, method in zip(axes[1:], methods, strict=True):
        with np.load(folder / f"{dataset}-{method}-0.npz") as maps:
            plotting.scatter(maps["test"], labels_test, ax=ax)
        ax.set_title(TITLES[method])
    for ax in axes:
        if ax.get_legend():
            ax.get_legend().remove()
    figure.savefig(folder / f"{dataset}.png", dpi=60)
    plt.close(figure)


def main() -> None:
    """Run the cells that are missing; print and draw all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["mnist", "fashion"])
    parser.add_argument("--methods", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--validation", action="store_true")
    options = parser.parse_args()
    folder = HERE / "results" / ("map_validation" if options.validation else "map")
    folder.mkdir(parents=True, exist_ok=True)
    for dataset in options.datasets:
        for method in options.methods:
            for seed in range(options.seeds if method != "opentsne" else 1):
                cell = run(dataset, method, seed, folder, options.validation)
                shown = {name: cell[name] for name in COLUMNS if name in cell}
                print(dataset, method, seed, json.dumps(shown), flush=True)
    for dataset in options.datasets:
        print("\n" + table(dataset, folder))
        picture(dataset, list(TITLES), load(dataset, options.validation), folder)


if __name__ == "__main__":
    main()
