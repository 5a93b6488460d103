"""The demonstration: digits by default and in three stages; a table, a picture, a SavedModel."""

import os
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from sklearn.decomposition import PCA

from ptsne_keras import datasets, metrics, plotting, serving
from ptsne_keras.estimators.parametric_tsne import ParametricTSNE
from ptsne_keras.typing import FloatArray

# Both ways to a map: the defaults, and the three stages of 2009.
_METHODS: dict[str, dict[str, Any]] = {
    "ParametricTSNE": {},
    "three stages": {"pretraining": "cd1", "sampling": "batch"},
}


def run(
    picture: str | os.PathLike[str] = "map.png",
    export: str | os.PathLike[str] = "saved_models/digits",
    *,
    seed: int = 0,
    **parameters: Any,
) -> dict[str, Any]:
    """Fit digits with the default settings, and by the three stages; measure, draw and export."""
    Path(picture).parent.mkdir(parents=True, exist_ok=True)  # not after all the training
    train, test = datasets.digits(seed=seed)
    fits = {}
    for name, settings in _METHODS.items():
        options = {"verbose": 1, **settings, **parameters}
        if options["verbose"]:
            print(f"\n{name}", flush=True)
        fits[name] = ParametricTSNE(random_state=seed, **options).fit(train[0])
    tsne = fits["ParametricTSNE"]
    maps = {name: (fit.embedding_, fit.transform(test[0])) for name, fit in fits.items()}
    pca = PCA(tsne.n_components, random_state=seed).fit(train[0])
    maps["PCA"] = (pca.transform(train[0]), pca.transform(test[0]))
    figure, ax = plt.subplots(figsize=(8, 7), layout="constrained")
    plotting.overlay(tsne.embedding_, train[1], tsne.transform(test[0]), test[1], ax=ax)
    figure.savefig(picture, dpi=100)
    plt.close(figure)
    return {
        "rows": (len(train[0]), len(test[0])),
        "seconds": {name: fit.history_["seconds"] for name, fit in fits.items()},
        "kl": {name: (fit.kl_divergence_, -fit.score(test[0])) for name, fit in fits.items()},
        "quality": {name: _quality(*pair, train, test) for name, pair in maps.items()},
        "picture": str(picture),
        "saved_model": str(serving.export_saved_model(tsne.encoder_, export, dof=tsne.dof_)),
    }


def table(results: dict[str, Any]) -> str:
    """Lay out what :func:`run` returned."""
    n_train, n_test = results["rows"]
    lines = [f"digits, {n_train:,} training rows, {n_test:,} test rows", ""]
    for name, stages in results["seconds"].items():
        parts = ", ".join(f"{stage} {s:.1f} s" for stage, s in stages.items())
        kl_train, kl_test = results["kl"][name]
        lines.append(f"  {name:<16}{parts}; KL(P||Q) train {kl_train:.3f}, test {kl_test:.3f} nats")
    quality = results["quality"]
    lines += ["", f"  {'test set':<20}" + "".join(f"{name:>18}" for name in quality)]
    for measure in next(iter(quality.values())):
        values = "".join(f"{row[measure]:>18.3f}" for row in quality.values())
        lines.append(f"  {measure:<20}{values}")
    lines += [
        "",
        f"  map          {results['picture']}",
        f"  SavedModel   {results['saved_model']}",
    ]
    return "\n".join(lines)


def _quality(Y_train: FloatArray, Y_test: FloatArray, train: Any, test: Any) -> dict[str, float]:
    """Measure a map on the test rows."""
    (X_train, labels_train), (X_test, labels_test) = train, test
    return {
        "1-NN accuracy": metrics.knn_accuracy(Y_train, labels_train, Y_test, labels_test, 1),
        "5-NN accuracy": metrics.knn_accuracy(Y_train, labels_train, Y_test, labels_test, 5),
        "trustworthiness T(12)": metrics.trustworthiness(X_test, Y_test, 12),
        "recall of 10 nearest": metrics.neighborhood_recall(X_train, Y_train, X_test, Y_test, 10),
    }
