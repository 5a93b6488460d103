"""Small problems of every kind: the map should be sound, or the user told.

    python benchmarks/robust_maps.py [--problems 200] [--seed 0] [--table]

Each problem draws 4 to 300 rows of 1 to 600 columns from clusters, a line or noise, with copies,
constant columns and offsets up to 1e9, a perplexity in its allowed range or "auto", and 1 to 5 map
dimensions. A map is sound if it is finite, its span is from 0.1 to 10,000, and T(k) of its rows,
k = 5 or the most that the rows allow, is at most 0.05 below that of scikit-learn's `TSNE` at the
same perplexity. Told are the problems that are neither sound nor have an error or a warning of the
package. `--table` prints span and T of blobs by number of rows and perplexity.
"""

import argparse
import warnings
from typing import Any

import numpy as np
from sklearn.manifold import TSNE, trustworthiness

from ptsne_keras import ParametricTSNE

SPANS, SHORT = (1e-1, 1e4), 0.05


def problem(rng: np.random.Generator) -> dict[str, Any]:
    """Draw rows, a perplexity and a number of map dimensions."""
    n, features = int(rng.integers(4, 301)), int(np.exp(rng.uniform(0, np.log(600))))
    kind = str(rng.choice(["clusters", "line", "noise"]))
    if kind == "clusters":
        centers = rng.normal(size=(int(rng.integers(2, 9)), features)) * 5
        X = centers[rng.integers(len(centers), size=n)] + rng.normal(size=(n, features))
    elif kind == "line":
        X = np.linspace(0, 10, n)[:, None] * rng.normal(size=features)
        X += 0.05 * rng.normal(size=(n, features))
    else:
        X = rng.normal(size=(n, features))
    extras = rng.random(3)
    if extras[0] < 0.25:
        X[rng.integers(n, size=n // 4)] = X[rng.integers(n, size=n // 4)]
    if extras[1] < 0.25 and features > 1:
        X[:, rng.integers(features)] = 7.0
    offset = float(10 ** rng.uniform(0, 9)) if extras[2] < 0.25 else 0.0
    perplexity = "auto" if rng.random() < 0.5 else float(np.exp(rng.uniform(0.1, np.log(n - 1.1))))
    name = f"{kind} N {n} D {features} offset {offset:.0e} perplexity {perplexity}"
    return {"name": name, "X": X + offset, "perplexity": perplexity, "d": int(rng.integers(1, 6))}


def judged(X: Any, perplexity: Any, d: int) -> dict[str, Any]:
    """Fit, and return what the map is like and what was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        try:
            tsne = ParametricTSNE(d, perplexity=perplexity, random_state=0).fit(X)
        except ValueError as error:
            return {"told": str(error), "span": np.nan, "T": np.nan, "peer": np.nan}
    Y, k = tsne.embedding_, max(1, min(5, (len(X) - 1) // 2))
    settled = tsne._settings.perplexity
    method = "exact" if d > 3 or len(X) < 100 else "barnes_hut"
    peer = TSNE(d, perplexity=settled, random_state=0, method=method, init="random")
    centred = X - X.mean(axis=0)
    T = [trustworthiness(centred, A, n_neighbors=k) for A in (Y, peer.fit_transform(centred))]
    told = "; ".join(str(w.message) for w in said if issubclass(w.category, UserWarning))
    return {"told": told, "span": float(np.ptp(Y, axis=0).max()), "T": T[0], "peer": T[1]}


def main() -> None:
    """Print the problems that end badly without a word, or the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    if options.table:
        print("| N | perplexity | span | T(5) | scikit-learn |\n|---|---|---|---|---|")
        for n in (4, 5, 6, 8, 10, 15, 20, 30, 50, 100):
            X = 3 * rng.normal(size=(5, 10))[rng.integers(5, size=n)] + rng.normal(size=(n, 10))
            for perplexity in ("auto", 1.5, (n - 1) / 3, (n - 1) / 2, 0.8 * (n - 1), n - 1.1):
                if perplexity == "auto" or perplexity > 1:
                    r = judged(X, perplexity, 2)
                    shown = perplexity if perplexity == "auto" else f"{perplexity:.1f}"
                    row = f"{r['span']:.3g} | {r['T']:.2f} | {r['peer']:.2f}"
                    print(f"| {n} | {shown} | {row} | {r['told'][:60]}", flush=True)
        return
    sound = told = 0
    print("| | span | T | scikit-learn |\n|---|---|---|---|")
    for _ in range(options.problems):
        given = problem(rng)
        r = judged(given["X"], given["perplexity"], given["d"])
        fine = SPANS[0] <= r["span"] <= SPANS[1] and r["T"] >= r["peer"] - SHORT
        sound, told = sound + fine, told + (not fine and bool(r["told"]))
        if not fine and not r["told"]:
            line = f"{given['name']} d {given['d']} | {r['span']:.3g} | {r['T']:.3f}"
            print(f"| {line} | {r['peer']:.3f} |", flush=True)
    print(f"{options.problems} problems: {sound} sound, {told} told, "
          f"{options.problems - sound - told} neither")  # fmt: skip


if __name__ == "__main__":
    main()
