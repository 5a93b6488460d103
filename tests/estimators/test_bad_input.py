"""What is wrong with rows and files is said in one line, and nothing is left half done.

The cases are the rows of the table in docs/bad_input.md, which says the words of each error.
"""

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from ptsne_keras import MapRegressor, ParametricTSNE
from ptsne_keras.estimators import _persistence
from ptsne_keras.utils import files

PAGE = Path(__file__).parents[2] / "docs" / "bad_input.md"
CLASSES = {"ParametricTSNE": ParametricTSNE, "MapRegressor": MapRegressor}
SMALL = {
    "ParametricTSNE": {"hidden_units": (8,), "epochs": 1, "random_state": 0},
    "MapRegressor": {"random_state": 0},
}
# Fitted so, one in place of the other shows.
OTHERWISE = {"ParametricTSNE": {"random_state": 1}, "MapRegressor": {"n_neighbors": 7}}


def table():
    """Rows of the page: {(what, where): (the error's name, its words as a pattern), or None}."""
    found = {}
    for line in PAGE.read_text().splitlines():
        if not line.startswith("| ") or line.startswith("| what you give"):
            continue
        what, where, error, _ = (cell.strip() for cell in line.strip().strip("|").split("|"))
        words = None
        if error != "works":
            name, text = error.strip("`").split(": ", 1)
            words = name, re.escape(text).replace("…", ".+")
        for place in where.split(", "):
            assert (what, place) not in found
            found[what, place] = words
    return found


TABLE = table()


def rows():
    return np.random.default_rng(0).normal(size=(40, 5)).astype("float32")


def places():
    return rows()[:, :2]


def with_value(value, dtype="float32"):
    X = rows().astype(dtype)
    X[7, 2] = value
    return X


def on_disk(folder, X):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


def wordy(word="blue"):
    frame = pd.DataFrame(rows(), columns=[*"abcde"])
    frame["c"] = word
    return frame


# What is given as X, by the rows of the table.
ROWS = {
    "NaN in a row": lambda folder: with_value(np.nan),
    "infinity in a row": lambda folder: with_value(np.inf),
    "a number above 3.4e38": lambda folder: with_value(1e300, "float64"),
    "NaN in sparse rows": lambda folder: scipy.sparse.csr_array(with_value(np.nan)),
    "NaN in rows on disk (`np.memmap`)": lambda folder: on_disk(folder, with_value(np.nan)),
    "masked cells (`np.ma`)": lambda folder: np.ma.masked_greater(rows(), 1),
    "strings": lambda folder: rows().astype(str),
    "words in a column": lambda folder: wordy(),
    "words made of digits, such as zip codes": lambda folder: wordy("00007"),
    "dates": lambda folder: np.full((40, 5), "2009-04-16", "datetime64[D]"),
    "complex numbers": lambda folder: rows().astype(complex),
    "lists of different lengths": lambda folder: [[1.0, 2.0], [3.0]] * 20,
    "one-dimensional rows": lambda folder: rows()[:, 0],
    "images [N, height, width]": lambda folder: rows().reshape(20, 5, 2),
    "None": lambda folder: None,
    "no rows": lambda folder: rows()[:0],
    "one row": lambda folder: rows()[:1],
    "no columns": lambda folder: rows()[:, :0],
    "rows that are all the same": lambda folder: np.full((40, 5), 3.0),
    "constant columns among others": lambda folder: np.c_[rows(), np.ones((40, 2))],
    "duplicated rows": lambda folder: np.r_[rows()[:20], rows()[:20]],
    "more columns than rows": lambda folder: rows().reshape(10, 20),
    "integers, or truth values": lambda folder: rows() > 0,
    "a row too far away to be placed": lambda folder: np.full((1, 5), 3e38, "float32"),
    "more or fewer columns than at fit": lambda folder: rows()[:, :4],
}
# Parameters that are given.
PARAMETERS = {
    "a perplexity of N - 1 or more": {"perplexity": 39.0},
    "a perplexity of 1 or less": {"perplexity": 1.0},
    "a perplexity of `n_neighbors` or more": {"perplexity": 15.0},
}
# The map that is given.
MAPS = {
    "a map of more or fewer rows than X": lambda: places()[:-1],
    "a map with NaN": lambda: np.where(np.arange(40)[:, None] == 7, np.nan, places()),
    "a map with masked cells": lambda: np.ma.masked_greater(places(), 0.5),
    "a map of words": lambda: places().astype(str),
    "no map": lambda: None,
}


@pytest.fixture(scope="module")
def fitted():
    return {name: fit(make(name), rows()) for name in CLASSES}


@pytest.fixture(scope="module")
def others():
    return {name: fit(make(name, **OTHERWISE[name]), rows()) for name in CLASSES}


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for name, estimator in fitted.items():
        estimator.save(folder / name)
    return folder


def make(name, **parameters):
    return CLASSES[name](**SMALL[name] | parameters)


def fit(estimator, X, Y=...):
    """Fit, a MapRegressor to places of its own unless others are given."""
    n = X.shape[0] if getattr(X, "shape", ()) else 40
    Y = np.resize(places(), (n, 2)) if Y is ... else Y
    return estimator.fit(X, Y) if isinstance(estimator, MapRegressor) else estimator.fit(X)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check(error, words):
    """The error is the one that the page promises, and one line."""
    name, pattern = words
    assert name in [kind.__name__ for kind in type(error).__mro__]
    assert "\n" not in str(error)
    assert re.match(pattern, str(error)), str(error)


FITS = [(what, where) for what, where in TABLE if where.endswith("fit")]
EACH_FIT = [
    pytest.param(what, where, name, id=f"{what}, {name}.fit")
    for what, where in FITS
    for name in CLASSES
    if where in ("fit", f"{name}.fit")
]


@pytest.mark.parametrize(("what", "where", "name"), EACH_FIT)
@pytest.mark.filterwarnings("ignore:.*new rows will be smeared:UserWarning")
def test_fit(what, where, name, fitted, tmp_path):
    words = TABLE[what, where]
    X = ROWS[what](tmp_path) if what in ROWS else rows()
    estimator = make(name, **PARAMETERS.get(what, {}))
    if words is None:
        Y = fit(estimator, X).transform(X)
        assert Y.shape == (len(X), 2)
        assert np.isfinite(Y).all()
        return
    # One that was fitted before stays fitted, with what it has.
    estimator.__dict__.update(vars(fitted[name]) | estimator.get_params())
    before, placed = dict(vars(estimator)), estimator.transform(rows())
    with pytest.raises(Exception) as caught:  # noqa: PT011  (the page says which)
        fit(estimator, X, MAPS[what]() if what in MAPS else ...)
    check(caught.value, words)
    assert vars(estimator) == before
    np.testing.assert_array_equal(estimator.transform(rows()), placed)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("what", [what for what, where in TABLE if where == "transform"])
def test_transform(what, name, fitted, tmp_path):
    words = TABLE[what, "transform"]
    estimator = make(name) if what == "rows before a fit" else fitted[name]
    X = ROWS[what](tmp_path) if what in ROWS else rows()
    if words is None:
        assert estimator.transform(X).shape == (len(X), 2)
        return
    before = dict(vars(estimator))
    with pytest.raises(Exception) as caught:  # noqa: PT011
        estimator.transform(X)
    check(caught.value, words)
    assert vars(estimator) == before


def test_the_network_alone_gives_finite_places_too(fitted):
    with pytest.raises(ValueError, match="X should have rows like those of fit"):
        fitted["ParametricTSNE"].transform(np.full((1, 5), 3e38, "float32"), placement=False)


# ---------------------------------------------------------------- a model's folder


@contextlib.contextmanager
def forbidden(folder, mode):
    """Take permissions away; root, who has all of them, becomes nobody for a while."""
    folder.chmod(mode)
    root = os.geteuid() == 0
    try:
        if root:
            try:
                os.seteuid(65534)
            except OSError as error:  # in some containers
                pytest.skip(f"root cannot become nobody here: {error}")
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def open_folder():
    """A folder that nobody can reach; pytest's own is its user's alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def alter(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def rewrite(folder, **changes):
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def shift(folder):
    """Change a number in the manifest, which is JSON as before."""
    state = json.loads((folder / "model.json").read_text())["state"]
    rewrite(folder, state=state | {"n_features_in": 6})


def link(file):
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def reshape(folder):
    """Leave out what the manifest says of the model, its digest right."""
    named = json.loads((folder / "model.json").read_text())["files"]
    rewrite(folder, state={}, sha256=_persistence.manifest_digest({}, named))


PARTS = ("encoder-*", "arrays-*")
# What happens to the folder, once for each pattern of files.
DAMAGES = {
    "a path where nothing is": ([""], lambda folder, _: shutil.rmtree(folder)),
    "a folder without a model": ([""], lambda folder, _: (folder / "model.json").unlink()),
    "a truncated manifest": (["model.json"], lambda _, file: truncate(file)),
    "an altered manifest": ([""], lambda folder, _: shift(folder)),
    "a truncated file of the model": (PARTS, lambda _, file: truncate(file)),
    "an altered file of the model": (PARTS, lambda _, file: alter(file)),
    "a link in place of a file of the model": (PARTS, lambda _, file: link(file)),
    "a manifest of another shape": ([""], lambda folder, _: reshape(folder)),
    "a missing file of the model": (PARTS, lambda _, file: file.unlink()),
    "a model of a newer version": ([""], lambda folder, _: rewrite(folder, format=99)),
    "a model of another class": ([""], lambda folder, _: rewrite(folder, kind="Other")),
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("what", [what for what, where in TABLE if where == "load"])
def test_load(what, name, saved, open_folder):
    folder = open_folder / "map"
    shutil.copytree(saved / name, folder)
    around, path = contextlib.nullcontext(), folder
    patterns, damage = DAMAGES.get(what, ([""], None))
    if what == "a file in place of the folder":
        path = folder / "model.json"
    elif what == "a folder that may not be read":
        around = forbidden(folder, 0)
    for pattern in patterns:
        shutil.copytree(saved / name, folder, dirs_exist_ok=True)
        if damage is not None:
            damage(folder, next(folder.glob(pattern)) if pattern else folder)
        before = contents(open_folder)
        with pytest.raises(Exception) as caught, around:  # noqa: PT011
            CLASSES[name].load(path)
        check(caught.value, TABLE[what, "load"])
        assert contents(open_folder) == before


def full_disk(fit):
    """Return an fsync that fails after this many calls."""
    left = iter(range(fit))

    def fsync(descriptor):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")

    return fsync


def no_temporary_space(path, *, is_folder, made=files._made):
    if is_folder:
        raise OSError(errno.ENOSPC, "No space left on device")
    return made(path, is_folder=is_folder)


SAVES = {
    "a disk that is full",
    "a disk for temporary files that is full",
    "a path that may not be written",
    "a model that may not be replaced",
    "a file as the path",
    "a path through a file",
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("there", [True, False], ids=["over a model", "anew"])
@pytest.mark.parametrize("what", [what for what, where in TABLE if where == "save"])
def test_save(what, there, name, fitted, others, saved, open_folder, monkeypatch):
    folder = path = open_folder / "map"
    if there:
        shutil.copytree(saved / name, folder)
    other = others[name]
    around, tries = contextlib.nullcontext(), 1
    if what == "a disk that is full":
        tries = 5  # the encoder and its folder, the arrays and theirs, the manifest
    elif what == "a disk for temporary files that is full":
        monkeypatch.setattr(files, "_made", no_temporary_space)
    elif what == "a model that may not be replaced":
        folder.mkdir(exist_ok=True)
        around = forbidden(folder, 0o555)
    elif what == "a path that may not be written":
        around, path = forbidden(open_folder, 0o555), open_folder / "new" / "map"
    else:
        (open_folder / "notes.txt").write_text("mine")
        path = open_folder / "notes.txt" / ("" if what == "a file as the path" else "map")
    before, names = contents(open_folder), sorted(open_folder.rglob("*"))
    for number in range(tries):
        if what == "a disk that is full":
            monkeypatch.setattr(files.os, "fsync", full_disk(number))
        with pytest.raises(Exception) as caught, around:  # noqa: PT011
            other.save(path)
        check(caught.value, TABLE[what, "save"])
        assert contents(open_folder) == before
        assert sorted(open_folder.rglob("*")) == names
    monkeypatch.undo()
    if there:
        loaded = CLASSES[name].load(folder)
        np.testing.assert_array_equal(loaded.transform(rows()), fitted[name].transform(rows()))


def test_a_file_that_the_system_cuts_short_leaves_the_old_model(fitted, tmp_path):
    """No stand-in: the system itself refuses to let a file grow."""
    fitted["ParametricTSNE"].save(tmp_path / "map")
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, hard))
    try:
        with pytest.raises(OSError, match="could not be written: File too large") as caught:
            files.write(tmp_path / "map" / "model.json", bytes(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert contents(tmp_path) == before


def test_the_page_and_the_cases_are_the_same_set():
    cases = {*ROWS, *PARAMETERS, *MAPS, *DAMAGES, *SAVES}
    others = {
        "rows before a fit",
        "a file in place of the folder",
        "a folder that may not be read",
    }
    assert {what for what, _ in TABLE} == cases | others
    assert {where for _, where in TABLE} == {
        *("fit", "transform", "load", "save"),
        *("ParametricTSNE.fit", "MapRegressor.fit"),
    }
