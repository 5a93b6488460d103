"""How good a fitted map is, in one table: training and test rows, and PCA beside it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from ptsne_keras import metrics
from ptsne_keras._divergence import Divergence
from ptsne_keras.metrics import quality, ranks
from ptsne_keras.plotting.colors import Labels, numeric, union
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import pca as projection
from ptsne_keras.utils import validation
from ptsne_keras.utils.stopwatch import Stopwatch

# Numbers of neighbours that vote on a label.
_VOTES = (1, 5)
# Rows whose distances have an order.
_PAIRED = 3
# What the table calls the measures, and which way is better.
_TITLES = {
    "kl_divergence": "KL(P‖Q), nats (lower is better)",
    "trustworthiness": "trustworthiness T({k})",
    "continuity": "continuity({k})",
    "neighborhood_recall": "recall of {neighbors} neighbours",
    "accuracy_1nn": "1-NN accuracy",
    "accuracy_5nn": "5-NN accuracy",
    "distance_correlation": "Spearman's ρ of distances",
}

# What messages call the rows.
_NAMES = {"training": "X", "test": "X_test"}

Measures = dict[str, float | None]
"""A number of each measure; None where rows are too few for it."""


@dataclass(frozen=True)
class _Part:
    """The training rows or the test rows, and their places on each of the maps."""

    X: Any
    codes: Any
    """[n], class of each row, -1 where it has none; None without classes."""
    maps: dict[str, FloatArray]


def evaluate(
    estimator: Any,
    X: Any,
    X_test: Any = None,
    *,
    labels: Any = None,
    labels_test: Any = None,
    pca: bool = True,
    k: int = 12,
    neighbors: int = 10,
    sample: int | None = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a fitted map on the rows that it was learned from, and on rows that it was not.

    Parameters
    ----------
    estimator : ParametricTSNE, MapRegressor, or anything fitted with `transform`
    X : array or sparse matrix [N, D]
        Training rows.
    X_test : array or sparse matrix [M, D], optional
        Rows that took no part in the fit.
    labels, labels_test : arrays [N] and [M], optional
        Classes, for k-NN accuracy. Rows whose label is None, NaN or empty text take no part in
        that, and labels that, taken together, are numbers and no classes give none.
    pca : bool
        Whether to measure as many principal components of the training rows, too.
    k : int
        Neighbours of trustworthiness and continuity: below half the training rows.
    neighbors : int
        Neighbours of recall.
    sample : int, optional
        Rows, drawn at random, whose neighbours are sought for trustworthiness, continuity and
        recall: among all rows, exactly. None for all, which takes time ∝ N² D.
    seed : int
        Of the draws.

    Returns
    -------
    dict
        Of numbers, strings and None, so that `json.dumps` writes it: "rows" and "sample" (those
        whose neighbours were sought) by "training" and "test"; "k"; "neighbors"; "measures" by map,
        "training" and "test", and name; "seconds" by step. A measure is None where rows are too
        few for it. `table` prints it.

        "kl_divergence" is that of `ParametricTSNE.score`, with P calibrated among at most 25,000
        rows. A map of any other kind is first scaled to the size at which it is least.

    Raises
    ------
    ValueError
        If rows, their maps or labels are not finite or do not fit each other, or k or neighbors is
        too large for the training rows.

    Warns
    -----
    UserWarning
        If no label of the test rows is one of the training rows: accuracy is then 0.

    Examples
    --------
    >>> results = evaluate(tsne, X_train, X_test, labels=labels_train, labels_test=labels_test)
    >>> sorted(results["measures"]), sorted(results["measures"]["PCA"])
    (['PCA', 'ParametricTSNE'], ['test', 'training'])

    References
    ----------
    van der Maaten (2009), section 4.2, for T(12) and 1-NN; Venna & Kaski (2001).
    """
    watch = Stopwatch()
    parts = _parts(estimator, X, X_test, labels, labels_test, pca=pca, seed=seed, watch=watch)
    _check_counts(parts, k, neighbors, sample)
    divergence = Divergence(estimator)
    steps: dict[str, Callable[[str], dict[str, Measures]]] = {
        "divergence": lambda part: _divergences(divergence, parts[part]),
        "neighbors": lambda part: _neighborhoods(parts, part, k, neighbors, sample, seed),
        "accuracy": lambda part: _accuracies(parts, part),
        "distances": lambda part: _distances(parts[part], seed),
    }
    measures: dict[str, dict[str, Measures]] = {name: {} for name in parts["training"].maps}
    for step, measured in steps.items():
        for part in parts:
            for name, values in measured(part).items():
                measures[name].setdefault(part, {}).update(values)
        watch.lap(step)
    count = {name: parts[name].X.shape[0] if name in parts else 0 for name in ("training", "test")}
    sampled = {name: len(ranks.drawn(n, sample, seed)) for name, n in count.items()}
    return {
        "rows": count,
        "sample": sampled,
        "k": int(k),
        "neighbors": int(neighbors),
        "measures": measures,
        "seconds": watch.seconds,
    }


def table(results: dict[str, Any]) -> str:
    """Lay out what `evaluate` returned.

    Examples
    --------
    >>> print(table(evaluate(tsne, X_train, X_test)))
    """
    count, sampled = results["rows"], results["sample"]
    names = list(results["measures"])
    parts = [part for part in ("training", "test") if count[part]]
    shown = {name: _TITLES[name].format(**results) for name in _TITLES}
    present = [name for name in shown if name in results["measures"][names[0]]["training"]]
    width = max(len(title) for title in shown.values())
    column = max(8, *(len(name) for name in names)) + 2
    lines = [
        " " * width + "".join(f"  {count[p]:,} {p} rows".rjust(column * len(names)) for p in parts),
        " " * width + "".join(name.rjust(column) for _ in parts for name in names),
    ]
    for measure in present:
        cells = [results["measures"][name][part].get(measure) for part in parts for name in names]
        line = "".join(("–" if v is None else f"{v:.3f}").rjust(column) for v in cells)
        lines.append(shown[measure].ljust(width) + line)
    drawn = [f"{sampled[p]:,} {p} rows" for p in parts if sampled[p] < count[p]]
    if drawn:
        lines += ["", f"Neighbours of {' and '.join(drawn)}, drawn at random, among all rows."]
    seconds = ", ".join(f"{name} {s:.1f}" for name, s in results["seconds"].items())
    return "\n".join([*lines, "", f"seconds: {seconds}"])


def _parts(
    estimator: Any,
    X: Any,
    X_test: Any,
    labels: Any,
    labels_test: Any,
    *,
    pca: bool,
    seed: int,
    watch: Stopwatch,
) -> dict[str, _Part]:
    """Place the rows on the maps, and number their classes."""
    given = {"training": X} | ({} if X_test is None else {"test": X_test})
    own = type(estimator).__name__
    plain = {part: _plain(X, part) for part, X in given.items()}
    maps = {part: {own: _map(estimator, X, part)} for part, X in given.items()}
    given = plain
    watch.lap("transform")
    X = given["training"]
    if pca:
        d = min(maps["training"][own].shape[1], *X.shape)
        reduced = projection.principal_components(X, d, seed=seed)
        for part, part_X in given.items():
            maps[part]["PCA"] = reduced.apply(part_X)
        watch.lap("PCA")
    codes = _codes({"training": labels, "test": labels_test}, given)
    return {part: _Part(given[part], codes.get(part), maps[part]) for part in given}


def _plain(X: Any, part: str) -> Any:
    return X.tocsr() if scipy.sparse.issparse(X) else validation.check_rows(X, name=_NAMES[part])


def _map(estimator: Any, X: Any, part: str) -> FloatArray:
    name = f"{type(estimator).__name__}.transform({_NAMES[part]})"
    return validation.check_rows(estimator.transform(X), name=name)


def _codes(labels: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Give training and test rows the numbers of their classes, where labels are classes."""
    there = {part: labels[part] for part in given if labels[part] is not None}
    numbers, classes = numeric(*there.values()), union(*there.values())
    read = {
        part: Labels.of(values, given[part].shape[0], classes=classes, continuous=numbers)
        for part, values in there.items()
    }
    if numbers:
        return {}
    found = {part: set(its.codes[its.codes >= 0]) for part, its in read.items()}
    if len(found) == 2 and all(found.values()) and found["training"].isdisjoint(found["test"]):
        shown = {part: [classes[i] for i in sorted(found[part])[:3]] for part in found}
        warnings.warn(
            f"labels_test should have classes of labels; none of {shown['test']} is among "
            f"{shown['training']}, and k-NN accuracy is 0.",
            stacklevel=4,
        )
    return {part: its.codes for part, its in read.items()}


def _check_counts(parts: dict[str, _Part], k: int, neighbors: int, sample: int | None) -> None:
    if sample is not None and sample < 1:
        raise ValueError(f"sample should be at least 1, or None for all rows. Received: {sample}.")
    n = parts["training"].X.shape[0]
    if validation.check_integer(k, "k") >= n / 2:
        raise ValueError(f"k should be below half the training rows, {n / 2:g}. Received: {k!r}.")
    if validation.check_integer(neighbors, "neighbors") >= n:
        raise ValueError(f"neighbors should be from 1 to N - 1 = {n - 1}. Received: {neighbors!r}.")


def _divergences(divergence: Divergence, part: _Part) -> dict[str, Measures]:
    found = divergence.of(part.X, part.maps)
    return {name: {"kl_divergence": value} for name, value in found.items()}


def _neighborhoods(
    parts: dict[str, _Part], part: str, k: int, neighbors: int, sample: int | None, seed: int
) -> dict[str, Measures]:
    """Trustworthiness, continuity and recall, by one pass over the rows for all the maps."""
    training, X, maps = parts["training"], parts[part].X, parts[part].maps
    n = X.shape[0]
    chosen = ranks.drawn(n, sample, seed)
    results: dict[str, Measures] = {
        name: {"trustworthiness": None, "continuity": None} for name in maps
    }
    if 2 * k < n:  # always so of training rows
        wide = max(k, neighbors) if part == "training" else k
        near = {name: ranks.nearest(Y, wide, of=chosen) for name, Y in maps.items()}
        candidates = np.concatenate([found[:, :k] for found in near.values()], axis=1)
        true, found = ranks.nearest_and_ranks(X, chosen, wide, candidates)
        for (name, Y), rank in zip(maps.items(), np.split(found, len(near), axis=1), strict=True):
            results[name]["trustworthiness"] = quality.trust(rank, n)
            results[name]["continuity"] = quality.trust(ranks.ranks(Y, chosen, true[:, :k]), n)
    if part == "test":  # their nearest training rows
        true = ranks.nearest(training.X, neighbors, X_new=X[chosen])
        near = {
            name: ranks.nearest(training.maps[name], neighbors, X_new=Y[chosen])
            for name, Y in maps.items()
        }
    for name in maps:
        kept = ranks.recall(true[:, :neighbors], near[name][:, :neighbors])
        results[name]["neighborhood_recall"] = float(kept.mean())
    return results


def _accuracies(parts: dict[str, _Part], part: str) -> dict[str, Measures]:
    """k-NN accuracy among training rows: of each by the others, or of the test rows."""
    training, codes = parts["training"], parts[part].codes
    if training.codes is None or codes is None:
        return {}
    known, judged = training.codes >= 0, codes >= 0
    results: dict[str, Measures] = {}
    for name, Y in parts[part].maps.items():
        near, theirs = training.maps[name][known], training.codes[known]
        asked, truth = (None, None) if part == "training" else (Y[judged], codes[judged])
        results[name] = {}
        for k in _VOTES:
            enough = judged.any() and known.sum() > k
            found = metrics.knn_accuracy(near, theirs, asked, truth, k) if enough else None
            results[name][f"accuracy_{k}nn"] = found
    return results


def _distances(part: _Part, seed: int) -> dict[str, Measures]:
    if part.X.shape[0] < _PAIRED:
        return {name: {"distance_correlation": None} for name in part.maps}
    return {
        name: {"distance_correlation": metrics.distance_correlation(part.X, Y, random_state=seed)}
        for name, Y in part.maps.items()
    }
