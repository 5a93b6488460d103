"""The demonstration on handwritten digits: a table, a picture, a SavedModel."""

import os
from typing import Any

import matplotlib.pyplot as plt

from ptsne_keras import datasets, evaluation, plotting, serving
from ptsne_keras.estimators import ParametricTSNE
from ptsne_keras.utils import files


def run(
    picture: str | os.PathLike[str] = "map.png",
    export: str | os.PathLike[str] = "saved_models/digits",
    *,
    seed: int = 0,
    **parameters: Any,
) -> dict[str, Any]:
    """Fit digits with the default settings; measure, draw and export the map."""
    (X, labels), (X_test, labels_test) = datasets.digits(seed=seed)
    tsne = ParametricTSNE(random_state=seed, **{"verbose": 1, **parameters}).fit(X)
    figure, ax = plt.subplots(figsize=(8, 7), layout="constrained")
    plotting.overlay(tsne.embedding_, labels, tsne.transform(X_test), labels_test, ax=ax)
    with files.replacing(picture, make_parents=True) as beside:
        figure.savefig(beside, dpi=100)
    plt.close(figure)
    return {
        "fit_seconds": tsne.history_["seconds"],
        **evaluation.evaluate(tsne, X, X_test, labels=labels, labels_test=labels_test),
        "picture": str(picture),
        "saved_model": str(serving.export_saved_model(tsne.encoder_, export, dof=tsne.dof_)),
    }


def table(results: dict[str, Any]) -> str:
    """Lay out what :func:`run` returned."""
    stages = ", ".join(f"{stage} {s:.1f} s" for stage, s in results["fit_seconds"].items())
    return "\n".join(
        [
            f"fit: {stages}",
            evaluation.table(results),
            f"map          {results['picture']}",
            f"SavedModel   {results['saved_model']}",
        ]
    )
