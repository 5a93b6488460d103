"""What README and guides show works as it stands, in the order it is read."""

import os
import re
import shlex
from pathlib import Path

import anndata
import numpy as np
import pandas
import pytest
from sklearn.manifold import TSNE

from ptsne_keras import MapRegressor, ParametricTSNE, cli
from ptsne_keras.estimators import _fit_decoder
from ptsne_keras.serving import server_config

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
# A fence stands at the margin, so that the site and this test see the same blocks.
FENCE = re.compile(r"^```(python|sh)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks(page):
    return FENCE.findall(page.read_text(encoding="utf-8"))


GUIDES = [page for page in sorted((ROOT / "docs").glob("*.md")) if blocks(page)]
BLOCKS = blocks(README)


def write_rows(folder, digits):
    """The files that commands in README and guides take as given."""
    for name, (X, labels) in zip(("train", "test"), digits, strict=True):
        frame = pandas.DataFrame(X, columns=[f"pixel{j}" for j in range(X.shape[1])])
        frame.insert(0, "sample", [f"{name}{i}" for i in range(len(X))])
        frame["digit"] = labels
        frame.to_csv(folder / f"{name}.csv", index=False)


def write_cells(folder):
    """A stand-in for scanpy's pbmc68k_reduced, which this test does not fetch."""
    rng = np.random.default_rng(0)
    types = rng.integers(5, size=300)
    X = rng.normal(size=(300, 40)) + 4 * rng.normal(size=(5, 40))[types]
    obs = pandas.DataFrame({"bulk_labels": pandas.Categorical(types.astype(str))})
    obs.index = [f"cell{i}" for i in range(300)]
    anndata.AnnData(X.astype("float32"), obs).write_h5ad(folder / "cells.h5ad")


def test_the_blocks_of_the_readme_run_one_after_another(digits, tmp_path, monkeypatch):
    write_rows(tmp_path, digits)
    monkeypatch.chdir(tmp_path)  # "map" and "saved_models" land there, for the blocks after
    # What the README shows is how to call it.
    _be_quick(monkeypatch)
    for block in BLOCKS:
        _run(*block, {}, README)


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_guides_run_from_top_to_bottom(page, digits, tmp_path, monkeypatch):
    write_rows(tmp_path, digits)
    write_cells(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    _be_quick(monkeypatch)
    names = {}
    for language, text in blocks(page):
        _run(language, text, names, page)


def _run(language, text, names, page):
    if language == "python":
        exec(compile(text, str(page), "exec"), names)
        return
    commands = [line for line in text.splitlines() if line.startswith("ptsne ")]
    assert commands, text
    for command in commands:
        words = shlex.split(command, comments=True)
        assert cli.main([*words[1:], "--quiet"]) == 0, command
        written = [words[words.index(name) + 1] for name in ("--out", "--html") if name in words]
        assert all(Path(path).exists() for path in written), command


def _be_quick(monkeypatch):
    quick = {"hidden_units": (50, 50), "epochs": 3, "pretraining_epochs": 1}
    changed = ((ParametricTSNE, quick), (MapRegressor, {"epochs": 5}), (TSNE, {"max_iter": 250}))
    for estimator, changes in changed:
        defaults = {**estimator.__init__.__kwdefaults__, **changes}
        monkeypatch.setattr(estimator.__init__, "__kwdefaults__", defaults)
    monkeypatch.setattr(_fit_decoder, "_PASSES", (5, 5))
    monkeypatch.setattr(server_config, "_SECONDS", 0.0)  # a few runs of each measurement


@pytest.mark.parametrize("page", [README, *sorted((ROOT / "docs").glob("*.md"))], ids=str)
def test_no_block_escapes_and_every_link_leads_somewhere(page):
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^ *```(?:python|sh)$", text, flags=re.MULTILINE)) == len(blocks(page))
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in link:
            assert os.path.exists(page.parent / link), link


def test_the_readme_has_its_recipes():
    assert len(BLOCKS) >= 6
