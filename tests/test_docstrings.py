"""Every public docstring has an example, and every example runs and prints what it says."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.loopback import Loopback

import ptsne_keras
from ptsne_keras import networks, serving
from ptsne_keras.data import batches
from ptsne_keras.estimators import _fit_decoder
from ptsne_keras.estimators.parametric_tsne import ParametricTSNE

MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(ptsne_keras.__path__, "ptsne_keras.")
]
FOUND = [
    test for module in MODULES for test in doctest.DocTestFinder().find(module) if test.examples
]
# They take seconds, and everyday tests of their modules do the same.
SLOW = {
    "affinities.neighbors.Neighbors", "data.batches.from_graph", "data.streams.from_dataset",
    "estimators._base.MapEstimator.extend",
    "estimators._base.MapEstimator.novelty", "estimators.parametric_tsne.ParametricTSNE",
    "estimators.parametric_tsne.ParametricTSNE.inverse_transform", "evaluation.evaluate",
    "evaluation.summary", "evaluation.table", "losses.tsne.TSNE",
    "metrics.batch.NeighborRecall", "metrics.batch.Trustworthiness", "networks.rbm.RBM",
    "serving.bulk.Embedder", "serving.checks.check", "serving.export.export_saved_model",
    "serving.runtimes.export_litert", "serving.server_config.configure",
    "training.conjugate_gradient.ConjugateGradientTrainer", "training.stages.finetune",
    "training.stages.pretrain", "training.trainer.Trainer",
}  # fmt: skip
EXAMPLES = [
    pytest.param(test, marks=[pytest.mark.slow] * (test.name.split(".", 1)[1] in SLOW))
    for test in FOUND
]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Checker(doctest.OutputChecker):
    """An example that shows no output promises none in particular."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


@pytest.fixture(scope="module")
def names(digits, tmp_path_factory):
    """What the examples take as given: digits, a fitted map, the package's modules."""
    (X_train, labels_train), (X_test, labels_test) = digits
    X_train, labels_train = X_train[:400], labels_train[:400]
    X, labels = X_train[:200], labels_train[:200]
    tsne = ParametricTSNE(hidden_units=(20,), epochs=2).fit(X_train)
    base = tmp_path_factory.mktemp("served") / "digits"
    path = serving.export_saved_model(tsne.encoder_, base, reference=X)
    server = Loopback(base, "digits")
    client = serving.Client(server.urls["http"], "digits")
    modules = {module.__name__.split(".")[-1]: module for module in MODULES}
    modules |= {"ptsne_keras": ptsne_keras, "keras": keras, "np": np, "tf": tf}
    yield modules | {
        "X": X, "labels": labels, "Y": tsne.transform(X), "X_new": X_test,
        "X_train": X_train, "labels_train": labels_train, "Y_train": tsne.embedding_,
        "X_test": X_test, "labels_test": labels_test, "Y_test": tsne.transform(X_test),
        "ParametricTSNE": ParametricTSNE, "tsne": tsne, "encoder": tsne.encoder_,
        "Placement": networks.Placement, "path": path, "url": server.urls["http"], "client": client,
        "dataset": batches.from_array(X, 30, 100, seed=0),
    }  # fmt: skip
    client.close()
    server.close()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples_run_and_print_what_they_say(example, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "serving" in example.name and "export_saved_model" not in example.name:
        Path("saved_models").mkdir()
        Path("saved_models/digits").symlink_to(names["path"].parent)
    quick = {"hidden_units": (20,), "epochs": 2, "pretraining_epochs": 1}
    defaults = {**ParametricTSNE.__init__.__kwdefaults__, **quick}
    monkeypatch.setattr(ParametricTSNE.__init__, "__kwdefaults__", defaults)
    monkeypatch.setattr(_fit_decoder, "_PASSES", (5, 5))
    # One of its own: Keras keeps the metrics of an earlier `compile` where a later one has none.
    fresh = {**names, "folder": tmp_path, "model": keras.Sequential([keras.layers.Dense(2)])}
    example.globs.update({k: v for k, v in fresh.items() if k not in example.globs})
    output: list[str] = []
    runner = doctest.DocTestRunner(Checker(), optionflags=OPTIONS)
    assert not runner.run(example, out=output.append).failed, "".join(output)


PUBLIC = {
    getattr(ptsne_keras, name)
    for name in ptsne_keras.__all__
    if inspect.ismodule(getattr(ptsne_keras, name))
}


def public_functions():
    for module in sorted(PUBLIC, key=lambda module: module.__name__):
        for name, thing in vars(module).items():
            home = getattr(thing, "__module__", "")
            own = home == module.__name__ or home.startswith(f"{module.__name__}.")
            kind = inspect.isfunction(thing) or inspect.isclass(thing)
            if own and kind and not name.startswith("_"):
                yield pytest.param(thing, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize("thing", [ParametricTSNE, *public_functions()])
def test_public_names_are_documented_with_an_example(thing):
    lines = inspect.getdoc(thing).splitlines()
    assert lines[0].endswith(".")
    assert ">>>" in "\n".join(lines)
