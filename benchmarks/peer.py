"""Fit one method in the environment this runs in; `peers.py` calls it, once a cell.

    python benchmarks/peer.py METHOD FOLDER SEED

Reads FOLDER/train.npy or train.npz (sparse) and test likewise; writes FOLDER/out.npz with the maps
of both and FOLDER/out.json with seconds, peak memory and versions. Imports nothing of ptsne_keras
but in its own methods, so that each peer has an environment of its own.
"""

import contextlib
import importlib
import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

import kept
import numpy as np


def ours(X: Any, seed: int) -> tuple[Any, Any]:
    """`ParametricTSNE` with its defaults."""
    from ptsne_keras import ParametricTSNE

    tsne = ParametricTSNE(random_state=seed).fit(X)
    return tsne.embedding_, tsne.transform


def network(X: Any, seed: int) -> tuple[Any, Any]:
    """`ParametricTSNE` with a network alone."""
    from ptsne_keras import ParametricTSNE

    tsne = ParametricTSNE(placement=False, random_state=seed).fit(X)
    return tsne.embedding_, tsne.transform


def parametric_umap(X: Any, seed: int) -> tuple[Any, Any]:
    """Parametric UMAP with umap-learn's defaults (which take no seed for the network)."""
    from umap.parametric_umap import ParametricUMAP

    umap = ParametricUMAP(verbose=False)
    return umap.fit_transform(_dense(X)), umap.transform


def opentsne(X: Any, seed: int) -> tuple[Any, Any]:
    """Fit openTSNE, and place new rows by its `transform`, which optimises their positions."""
    from openTSNE import TSNE

    embedding = TSNE(random_state=seed, n_jobs=-1).fit(_dense(X))
    return np.asarray(embedding), embedding.transform


def parampacmap(X: Any, seed: int) -> tuple[Any, Any]:
    """ParamPaCMAP with its defaults."""
    from parampacmap import ParamPaCMAP

    reducer = ParamPaCMAP(seed=seed)
    return reducer.fit_transform(_dense(X)), reducer.transform


def pca(X: Any, seed: int) -> tuple[Any, Any]:
    """Two principal components."""
    from sklearn.decomposition import PCA

    reducer = PCA(2, random_state=seed).fit(_dense(X))
    return reducer.transform(_dense(X)), reducer.transform


METHODS = {f.__name__: f for f in (ours, network, parametric_umap, opentsne, parampacmap, pca)}
# What a method is imported from; the seconds of that are told apart.
MODULES = {
    "ours": "ptsne_keras.estimators",
    "network": "ptsne_keras.estimators",
    "parametric_umap": "umap.parametric_umap",
    "opentsne": "openTSNE",
    "parampacmap": "parampacmap",
    "pca": "sklearn.decomposition",
}
# Distributions whose versions are told, where they are installed.
_OURS = ("ptsne_keras", "tensorflow-cpu", "tensorflow", "keras", "faiss-cpu", "openTSNE")
PACKAGES = {
    "ours": _OURS,
    "network": _OURS,
    "parametric_umap": ("umap-learn", "tensorflow-cpu", "keras", "pynndescent"),
    "opentsne": ("openTSNE",),
    "parampacmap": ("parampacmap", "pacmap", "torch"),
    "pca": ("scikit-learn",),
}


def main() -> None:
    """Fit, transform, write."""
    name, folder, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    train, test = _read(folder, "train"), _read(folder, "test")
    if name not in ("ours", "network"):
        test = _dense(test)
    before = time.perf_counter()
    importlib.import_module(MODULES[name])
    start = time.perf_counter()
    Y_train, transform = METHODS[name](train, seed)
    fitted = time.perf_counter()
    Y_test = np.asarray(transform(test))
    first = time.perf_counter()
    transform(test)
    result = {
        "import s": start - before,
        "fit s": fitted - start,
        # The first call compiles in some methods; a user with one batch of new rows pays for that.
        "transform s": first - fitted,
        "second transform s": time.perf_counter() - first,
        "peak GB": kept.peak_gigabytes(),
        "versions": versions(name),
    }
    np.savez(folder / "out.npz", train=np.asarray(Y_train, np.float32), test=Y_test)
    (folder / "out.json").write_text(json.dumps(result))


def versions(name: str) -> dict[str, str]:
    """Tell the versions of what a method runs on."""
    found = {}
    for package in PACKAGES[name]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _read(folder: Path, name: str) -> Any:
    if (folder / f"{name}.npy").exists():
        return np.load(folder / f"{name}.npy")
    import scipy.sparse

    return scipy.sparse.load_npz(folder / f"{name}.npz")


def _dense(X: Any) -> Any:
    return X if isinstance(X, np.ndarray) else X.toarray()


if __name__ == "__main__":
    main()
