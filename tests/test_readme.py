"""What README and guides show works as it stands, in the order it is read."""

import re
import textwrap
from pathlib import Path

import pytest

from ptsne_keras import MapRegressor, ParametricTSNE

README = Path(__file__).parent.parent / "README.md"
GUIDES = [
    README.parent / "docs" / "evaluation.md",
    README.parent / "docs" / "keras.md",
    README.parent / "docs" / "maps.md",
    README.parent / "docs" / "pictures.md",
    README.parent / "docs" / "serving.md",
    # A cluster of processes of its own.
    pytest.param(README.parent / "docs" / "bulk.md", marks=pytest.mark.slow),
]


def blocks(page):
    pattern = r"^( *)```python\n(.*?)^\1```"  # indented in a list
    found = re.findall(pattern, page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


BLOCKS = blocks(README)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block {i}" for i in range(1, len(BLOCKS) + 1)])
def test_code_blocks_run(block, folder, monkeypatch):
    monkeypatch.chdir(folder)  # "map" and "saved_models" land there, for the blocks after
    # The default fit takes a minute; what the README shows is how to call it.
    _be_quick(monkeypatch)
    exec(compile(block, str(README), "exec"), {})


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_guides_run_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    _be_quick(monkeypatch)
    names = {}
    assert blocks(page)
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


def _be_quick(monkeypatch):
    quick = {"hidden_units": (50, 50), "epochs": 5, "pretraining_epochs": 1}
    for estimator, changes in ((ParametricTSNE, quick), (MapRegressor, {"epochs": 5})):
        defaults = {**estimator.__init__.__kwdefaults__, **changes}
        monkeypatch.setattr(estimator.__init__, "__kwdefaults__", defaults)


def test_there_are_blocks_and_the_pictures_they_name_exist():
    assert len(BLOCKS) >= 4
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README.read_text()):
        assert (README.parent / picture).is_file()
