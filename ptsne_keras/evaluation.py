"""Quality of a fitted map in one table: training and test rows, with PCA beside it."""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize

from ptsne_keras import metrics
from ptsne_keras.estimators.parametric_tsne import ParametricTSNE
from ptsne_keras.estimators.scoring import scored_rows
from ptsne_keras.metrics import quality, ranks
from ptsne_keras.plotting.colors import read_labels
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays
from ptsne_keras.utils import pca as projection
from ptsne_keras.utils.stopwatch import Stopwatch
from ptsne_keras.utils.validation import check_integer, check_rows

# Numbers of neighbours that vote on a label.
_VOTES = (1, 5)
# Fewest rows whose distances have an order.
_PAIRED = 3
# Standard deviations of the coordinates among which the scale of a map is sought.
_SIZES = (1e-2, 1e4)
# Trustworthiness of a map that shows nearly all, or most, neighbours right, and Spearman's ρ of one
# whose large distances can be compared.
_SOUND, _FAIR, _ORDERED = 0.95, 0.8, 0.7
# Names of the measures in the table.
_TITLES = {
    "kl_divergence": "KL(P‖Q), nats (lower is better)",
    "trustworthiness": "trustworthiness T({n_neighbors})",
    "continuity": "continuity({n_neighbors})",
    "neighborhood_recall": "recall of {recall_neighbors} neighbours",
    "accuracy_1nn": "1-NN accuracy",
    "accuracy_5nn": "5-NN accuracy",
    "distance_correlation": "Spearman's ρ of distances",
}
# Names of the rows in messages.
_NAMES = {"training": "X", "test": "X_test"}

Measures = dict[str, float | None]
"""A number for each measure; None if there are too few rows for it."""


@dataclass(frozen=True)
class _Part:
    """The training rows or the test rows, and their maps."""

    X: Any
    codes: Any  # [n], class of each row, -1 for rows without one; None without classes
    maps: dict[str, FloatArray]


def evaluate(
    estimator: Any,
    X: Any,
    X_test: Any = None,
    *,
    labels: Any = None,
    labels_test: Any = None,
    pca: bool = True,
    n_neighbors: int = 12,
    recall_neighbors: int = 10,
    sample_size: int | None = 10_000,
    random_state: int = 0,
) -> dict[str, Any]:
    """Measure a fitted map on its training rows and on test rows.

    Parameters
    ----------
    estimator : ParametricTSNE, MapRegressor, or any fitted estimator with `transform`
        The map.
    X : array-like or sparse matrix of shape (n_samples, n_features)
        Training rows.
    X_test : array-like or sparse matrix of shape (n_test, n_features), default=None
        Rows that were not used in the fit.
    labels, labels_test : array-like of shape (n_samples,), (n_test,), default=None
        Classes, for k-NN accuracy, which leaves out rows with a missing label. It is not measured
        if labels are numbers rather than classes, as `plotting.scatter` decides.
    pca : bool, default=True
        Whether to measure as many principal components of the training rows as well.
    n_neighbors : int, default=12
        Neighbours for trustworthiness and continuity, fewer than half the training rows.
    recall_neighbors : int, default=10
        Neighbours for recall.
    sample_size : int or None, default=10000
        Number of rows, drawn at random, whose neighbours among all rows are found exactly for
        trustworthiness, continuity and recall. None for all rows, which takes time ∝ N² D.
    random_state : int, default=0
        Seed of the samples.

    Returns
    -------
    dict
        Numbers, strings and None only, so that `json.dumps` accepts it:

        - "rows" and "sample_size": number of rows and of those sampled, by "training" and "test";
        - "n_neighbors" and "recall_neighbors": as given;
        - "measures": by map, by "training" and "test", and by measure; None for too few rows;
        - "seconds": time taken by each step.

        "kl_divergence" is in nats and equals minus `ParametricTSNE.score`, with P calibrated on at
        most 25,000 rows. Any other map is first scaled to the size at which it is smallest.

    Raises
    ------
    ValueError
        If rows, maps or labels are not finite or do not match, or there are too many neighbours.

    Warns
    -----
    UserWarning
        If no label of the test rows is a label of the training rows, so that accuracy is 0.

    Examples
    --------
    >>> results = evaluate(tsne, X_train, X_test, labels=labels_train, labels_test=labels_test)
    >>> sorted(results["measures"]), sorted(results["measures"]["PCA"])
    (['PCA', 'ParametricTSNE'], ['test', 'training'])

    References
    ----------
    van der Maaten (2009), section 4.2; Venna & Kaski (2001) for trustworthiness and continuity.
    """
    watch = Stopwatch()
    given = {"training": X} | ({} if X_test is None else {"test": X_test})
    parts = _parts(estimator, given, {"training": labels, "test": labels_test})
    watch.lap("transform")
    n = {name: part.X.shape[0] for name, part in parts.items()}
    _check_counts(n["training"], n_neighbors, recall_neighbors)
    drawn = {name: ranks.drawn(n[name], sample_size, random_state) for name in n}
    if pca:
        _add_pca(parts, random_state)
        watch.lap("PCA")
    scales = {type(estimator).__name__: 1.0} if isinstance(estimator, ParametricTSNE) else {}
    steps: dict[str, Callable[[str], dict[str, Measures]]] = {
        "divergence": lambda part: _divergences(estimator, parts[part], scales),
        "neighbors": lambda part: _neighborhoods(parts, part, drawn, n_neighbors, recall_neighbors),
        "accuracy": lambda part: _accuracies(parts["training"], parts[part]),
        "distances": lambda part: _distances(parts[part], random_state),
    }
    measures: dict[str, dict[str, Measures]] = {name: {} for name in parts["training"].maps}
    for step, measured in steps.items():
        for part in parts:
            for name, values in measured(part).items():
                measures[name].setdefault(part, {}).update(values)
        watch.lap(step)
    return {
        "rows": {name: n.get(name, 0) for name in _NAMES},
        "sample_size": {name: len(drawn.get(name, ())) for name in _NAMES},
        "n_neighbors": int(n_neighbors),
        "recall_neighbors": int(recall_neighbors),
        "measures": measures,
        "seconds": watch.seconds,
    }


def table(results: dict[str, Any]) -> str:
    """Return the results of `evaluate` as a table of text.

    It has a line for each measure, and a column for each map and each set of rows.

    Examples
    --------
    >>> print(table(evaluate(tsne, X_train, X_test)))
    """
    count, sampled = results["rows"], results["sample_size"]
    names = list(results["measures"])
    parts = [part for part in ("training", "test") if count[part]]
    present = results["measures"][names[0]]["training"]
    shown = {name: _TITLES[name].format(**results) for name in _TITLES}
    width = max(len(title) for title in shown.values())
    column = max(8, *(len(name) for name in names)) + 2
    lines = [
        " " * width + "".join(f"  {count[p]:,} {p} rows".rjust(column * len(names)) for p in parts),
        " " * width + "".join(name.rjust(column) for _ in parts for name in names),
    ]
    for measure in (name for name in shown if name in present):
        cells = [results["measures"][name][part].get(measure) for part in parts for name in names]
        line = "".join(("–" if v is None else f"{v:.3f}").rjust(column) for v in cells)
        lines.append(shown[measure].ljust(width) + line)
    drawn = [f"{sampled[p]:,} {p} rows" for p in parts if sampled[p] < count[p]]
    if drawn:
        lines += ["", f"Neighbours of {' and '.join(drawn)}, drawn at random, among all rows."]
    seconds = ", ".join(f"{name} {s:.1f}" for name, s in results["seconds"].items())
    return "\n".join([*lines, "", f"seconds: {seconds}"])


def summary(results: dict[str, Any]) -> str:
    """Return two sentences on what the results of `evaluate` mean for the first map.

    They are about test rows if there are any, else about the training rows.

    Examples
    --------
    >>> print(summary(evaluate(tsne, X_train, X_test)))
    """
    part = "test" if results["rows"]["test"] else "training"
    measures = next(iter(results["measures"].values()))[part]
    trust, recall, distances = (
        measures[name]
        for name in ("trustworthiness", "neighborhood_recall", "distance_correlation")
    )
    K = results["recall_neighbors"]
    near = "There are too few rows to tell whether neighbours on the map are neighbours in the data"
    if trust is not None:
        word = "Nearly all" if trust >= _SOUND else "Most" if trust >= _FAIR else "Too few"
        near = f"{word} neighbours of {part} rows on the map are neighbours in the data"
    if recall is not None:
        near += f", and {recall * K:.1f} of {K} neighbours in the data are so on the map"
    far = "Distances between clusters mean "
    far += "little here: read who is near, and neither gaps nor sizes"
    if distances is not None and distances >= _ORDERED:
        far = "Distances between clusters are roughly in the order of those in the data"
    return f"{near}.\n{far}."


def _check_counts(n: int, k: int, K: int) -> None:
    """Raise a ValueError unless n training rows are enough for k neighbours, and K of recall."""
    if check_integer(k, "n_neighbors") >= n / 2:
        raise ValueError(
            f"n_neighbors should be below half the training rows, {n / 2:g}. Received: {k}."
        )
    if check_integer(K, "recall_neighbors") >= n:
        raise ValueError(f"recall_neighbors should be from 1 to N - 1 = {n - 1}. Received: {K}.")


def _parts(estimator: Any, given: dict[str, Any], labels: dict[str, Any]) -> dict[str, _Part]:
    """Check and map the rows of each part, and number their classes."""
    own = type(estimator).__name__
    metric = getattr(getattr(estimator, "_settings", None), "metric", "euclidean")
    rows = {
        part: arrays.unit_rows(check_rows(X, name=_NAMES[part], sparse=True), metric)
        for part, X in given.items()
    }
    maps = {
        part: check_rows(estimator.transform(X), name=f"{own}.transform({_NAMES[part]})")
        for part, X in given.items()  # as given, with the names of the columns
    }
    codes = _codes(labels, {part: X.shape[0] for part, X in rows.items()})
    return {part: _Part(rows[part], codes.get(part), {own: maps[part]}) for part in given}


def _add_pca(parts: dict[str, _Part], random_state: int) -> None:
    """Add the principal components of the training rows to the maps of each part."""
    X, maps = parts["training"].X, parts["training"].maps
    d = min(*(Y.shape[1] for Y in maps.values()), *X.shape)
    reduced = projection.principal_components(X, d, seed=random_state)
    for part in parts.values():
        part.maps["PCA"] = reduced.apply(part.X)


def _codes(labels: dict[str, Any], rows: dict[str, int]) -> dict[str, Any]:
    """Return the class numbers of the rows of each part, if labels are classes."""
    given = {part: (labels[part], n) for part, n in rows.items() if labels[part] is not None}
    read = dict(zip(given, read_labels(*given.values()), strict=True))
    if any(part.values is not None for part in read.values()):
        return {}
    found = {part: set(its.codes[its.codes >= 0]) for part, its in read.items()}
    if len(found) == 2 and all(found.values()) and found["training"].isdisjoint(found["test"]):
        shown = {
            part: [read[part].classes[i] for i in sorted(codes)[:3]]
            for part, codes in found.items()
        }
        warnings.warn(
            f"labels_test should have classes of labels: none of {shown['test']} is among "
            f"{shown['training']}, so k-NN accuracy is 0.",
            stacklevel=4,
        )
    return {part: its.codes for part, its in read.items()}


def _divergences(estimator: Any, part: _Part, scales: dict[str, float]) -> dict[str, Measures]:
    """Return KL(P‖Q) of each map with the P of `score`, at its scale, which is found once."""
    dof = getattr(estimator, "dof_", 1.0)
    total, count = dict.fromkeys(part.maps, 0.0), 0
    scored = scored_rows(estimator, part.X)
    try:
        scored.check()
    except ValueError:  # too few rows
        return {name: {"kl_divergence": None} for name in total}
    for P, i in scored.joint():
        for name, Y in part.maps.items():
            if name not in scales:
                scales[name] = _best_scale(P, Y[i], dof)
            total[name] += len(i) * metrics.kl_divergence(P, scales[name] * Y[i], dof=dof)
        count += len(i)
    return {name: {"kl_divergence": total[name] / count} for name in total}


def _best_scale(P: Any, Y: FloatArray, dof: float) -> float:
    """Return the factor at which a map has the smallest divergence."""
    deviation = float(np.std(Y, axis=0).max()) or 1.0

    def divergence(log_size: float) -> float:
        return metrics.kl_divergence(P, np.exp(log_size) / deviation * Y, dof=dof)

    bounds = np.log(_SIZES)
    found = scipy.optimize.minimize_scalar(divergence, bounds=bounds, options={"xatol": 0.02})
    return float(np.exp(found.x)) / deviation


def _neighborhoods(
    parts: dict[str, _Part], part: str, drawn: dict[str, ranks.Indices], k: int, K: int
) -> dict[str, Measures]:
    """Return trustworthiness, continuity and recall, by one pass over the rows for all maps."""
    training, X, maps = parts["training"], parts[part].X, parts[part].maps
    n, rows = X.shape[0], drawn[part]
    unknown: Measures = {"trustworthiness": None, "continuity": None}
    results = {name: dict(unknown) for name in maps}
    if 2 * k < n:  # always true of training rows
        wide = max(k, K) if part == "training" else k
        near = {name: ranks.nearest(Y, wide, of=rows) for name, Y in maps.items()}
        candidates = np.concatenate([found[:, :k] for found in near.values()], axis=1)
        true, found = ranks.nearest_and_ranks(X, rows, wide, candidates)
        for (name, Y), rank in zip(maps.items(), np.split(found, len(near), axis=1), strict=True):
            results[name]["trustworthiness"] = quality.trust(rank, n)
            results[name]["continuity"] = quality.trust(ranks.ranks(Y, rows, true[:, :k]), n)
    if part == "test":  # recall of their nearest training rows
        true = ranks.nearest(training.X, K, X_new=X[rows])
        old = training.maps
        near = {name: ranks.nearest(old[name], K, X_new=Y[rows]) for name, Y in maps.items()}
    for name in maps:
        kept = ranks.recall(true[:, :K], near[name][:, :K])
        results[name]["neighborhood_recall"] = float(kept.mean())
    return results


def _accuracies(training: _Part, part: _Part) -> dict[str, Measures]:
    """Return k-NN accuracy: of each training row by the others, or of the test rows."""
    if training.codes is None or part.codes is None:
        return {}
    known, judged = training.codes >= 0, part.codes >= 0
    results: dict[str, Measures] = {}
    for name, Y in part.maps.items():
        near, classes = training.maps[name][known], training.codes[known]
        Y_new, truth = (None, None) if part is training else (Y[judged], part.codes[judged])
        results[name] = {
            f"accuracy_{k}nn": metrics.knn_accuracy(near, classes, Y_new, truth, k)
            if judged.any() and known.sum() > k
            else None
            for k in _VOTES
        }
    return results


def _distances(part: _Part, random_state: int) -> dict[str, Measures]:
    """Return Spearman's ρ of the distances between rows in the data and on each map."""
    if part.X.shape[0] < _PAIRED:
        return {name: {"distance_correlation": None} for name in part.maps}
    measure = functools.partial(metrics.distance_correlation, part.X, random_state=random_state)
    return {name: {"distance_correlation": measure(Y)} for name, Y in part.maps.items()}
