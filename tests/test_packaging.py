"""What is installed: the wheel, its metadata, what it says where TensorFlow is missing."""

import ast
import configparser
import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import ptsne_keras

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = {
    *("cpu", "gpu", "serving", "plots", "docs", "dev"),
    *("tensorboard", "parquet", "anndata", "onnx", "bulk", "jax", "test"),
}


@pytest.fixture(scope="module")
def wheel():
    """The wheel that `make test-wheel` has built and installed."""
    if "PTSNE_INSTALLED" not in os.environ:
        pytest.skip("make test-wheel looks at the wheel")
    (file,) = (ROOT / "dist").iterdir()
    with zipfile.ZipFile(file) as opened:
        yield opened


def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


@pytest.mark.usefixtures("wheel")
def test_the_wheel_is_what_is_tested():
    """Here, and in the processes that tests start."""
    code = "import ptsne_keras; print(ptsne_keras.__file__)"
    there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for file in (ptsne_keras.__file__, there.stdout.strip()):
        assert "site-packages" in file
        assert ROOT / "ptsne_keras" not in Path(file).parents
    assert importlib.metadata.version("ptsne_keras") == ptsne_keras.__version__


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    source = (ROOT / "ptsne_keras").rglob("*")
    kept = {str(p.relative_to(ROOT)) for p in source if p.is_file() and p.suffix != ".pyc"}
    assert names == kept
    assert "ptsne_keras/py.typed" in names
    (license_,) = (name for name in wheel.namelist() if name.endswith("/LICENSE"))
    assert wheel.read(license_) == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_says_which_pythons_it_runs_on(wheel):
    found = metadata(wheel)
    assert found["Version"] == ptsne_keras.__version__
    allowed = SpecifierSet(found["Requires-Python"])
    assert [v for v in ("3.10", *PYTHONS, "3.14") if v in allowed] == list(PYTHONS)
    classifiers = found.get_all("Classifier")
    assert {f"Programming Language :: Python :: {version}" for version in PYTHONS} <= {*classifiers}
    assert "Typing :: Typed" in classifiers


def test_the_wheel_has_every_extra(wheel):
    found = metadata(wheel)
    assert set(found.get_all("Provides-Extra")) == EXTRAS
    needs = [Requirement(line) for line in found.get_all("Requires-Dist")]
    always = {need.name for need in needs if "extra" not in str(need.marker)}
    # Which TensorFlow is a choice, so that none of them comes by itself.
    assert "keras" in always
    assert not [name for name in always if name.startswith("tensorflow")]
    linux = {"platform_system": "Linux", "platform_machine": "x86_64"}
    marked = [need for need in needs if need.marker]
    brought = {
        extra: {n.name for n in marked if n.marker.evaluate({"extra": extra, **linux})} - always
        for extra in EXTRAS
    }
    assert all(brought[extra] for extra in EXTRAS)
    assert brought["cpu"] == {"tensorflow-cpu"}
    assert brought["gpu"] == {"tensorflow"}
    # What is optional for users is there for the tests, so that none of them is passed over.
    optional = EXTRAS - {"cpu", "gpu", "docs", "dev", "jax", "test"}
    assert set().union(*(brought[extra] for extra in optional)) <= brought["test"]


def test_extras_that_errors_name_exist():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert set(setup["options.extras_require"]) == EXTRAS
    places = [*(ROOT / "ptsne_keras").rglob("*.py"), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    named = re.findall(r"ptsne_keras\[([\w,]+)\]", "".join(p.read_text() for p in places))
    named = {extra for several in named for extra in several.split(",")}
    assert {"cpu", "gpu", "serving", "onnx", "parquet"} <= named <= EXTRAS


def test_the_changelog_speaks_of_this_version_or_of_what_comes():
    heads = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert heads[0] == "Unreleased" or heads[0].split()[0] == ptsne_keras.__version__


def test_the_citation_is_of_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == ptsne_keras.__version__
    assert citation["title"] == "ptsne_keras"
    assert citation["license"] == "BSD-3-Clause"
    (paper,) = citation["references"]
    assert (paper["authors"][0]["family-names"], paper["year"]) == ("Maaten", 2009)
    assert paper["title"] == "Learning a parametric embedding by preserving local structure"
    assert (paper["volume"], paper["start"], paper["end"]) == (5, 384, 391)


def test_contributors_are_told_the_command_that_ci_runs():
    (last,) = (ROOT / ".ci" / "run").read_text().splitlines()[-1:]
    assert last == "make check"
    assert "    make check" in (ROOT / "CONTRIBUTING.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    (recipe,) = re.findall(r"^check: .+\n((?:\t.+\n)+)", makefile, flags=re.MULTILINE)
    assert all(target in recipe for target in ("test-jax", "lint-and-docs", "test-wheel"))
    assert re.search(r"^lint-and-docs: .+\n\t\$\(MAKE\) -j1 lint docs\n", makefile, re.MULTILINE)


# Without TensorFlow

NEEDED = (
    "ModuleNotFoundError: ptsne_keras needs TensorFlow: pip install 'ptsne_keras[cpu]', or "
    "'ptsne_keras[gpu]' for an NVIDIA GPU."
)
NO_TENSORFLOW = "import sys; sys.modules['tensorflow'] = None\n"


def run(code):
    command = [sys.executable, "-c", NO_TENSORFLOW + code]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("import ptsne_keras; ptsne_keras.ParametricTSNE", NEEDED),
        ("from ptsne_keras import MapRegressor", NEEDED),
        ("from ptsne_keras import serving", NEEDED),
        ("from ptsne_keras import evaluate", NEEDED),
        ("import ptsne_keras.losses", "tensorflow"),
        ("sys.modules['keras'] = None; import ptsne_keras.estimators", "import of keras halted"),
    ],
)
def test_without_a_package_the_last_line_of_the_error_names_it(use, message):
    failed = run(use)
    assert failed.returncode == 1
    assert message in failed.stderr.strip().splitlines()[-1]
    if message == NEEDED:  # one error, not an error during another
        assert failed.stderr.count("Error") == failed.stderr.count("ModuleNotFoundError")


def test_what_needs_no_tensorflow_works_without_and_does_not_import_it():
    """It takes seconds to import, so it waits until something needs it."""
    done = run(
        "del sys.modules['tensorflow']\n"
        "import ptsne_keras, ptsne_keras.cli, ptsne_keras.plotting; print(dir(ptsne_keras))\n"
        "try: ptsne_keras.cli.main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    assert done.returncode == 0, done.stderr
    assert "usage: ptsne" in done.stdout


def test_the_source_is_of_the_oldest_python_that_is_promised():
    for file in (ROOT / "ptsne_keras").rglob("*.py"):
        ast.parse(file.read_text(), str(file), feature_version=(3, 11))
