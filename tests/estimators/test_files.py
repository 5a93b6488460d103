"""A fitted `ParametricTSNE` in a folder."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
import warnings
import zipfile

import keras
import numpy as np
import pytest
import sklearn
from support.fits import BOTH, SMALL

from ptsne_keras import MapRegressor, ParametricTSNE
from ptsne_keras.estimators import _persistence, is_model, load
from ptsne_keras.utils import files


@BOTH
def test_save_load_transform_is_equal_to_the_bit(options, X, new, tmp_path):
    fitted = ParametricTSNE(**{**options, "epochs": 2}).fit(X)
    fitted.save(tmp_path / "map")
    again = ParametricTSNE.load(tmp_path / "map")
    np.testing.assert_array_equal(again.transform(new), fitted.transform(new))
    np.testing.assert_array_equal(again.embedding_, fitted.embedding_)
    assert again.get_params() == fitted.get_params()
    assert again.history_ == fitted.history_
    assert again.kl_divergence_ == fitted.kl_divergence_
    assert again.n_features_in_ == 64
    assert again.score(new) == fitted.score(new)
    np.testing.assert_array_equal(again.fit(X).embedding_, fitted.embedding_)


@pytest.mark.slow
def test_another_process_gets_the_same_map(fitted, new, tmp_path):
    """And from the encoder alone even without this package."""
    fitted.save(tmp_path)
    (file,) = tmp_path.glob("encoder*.keras")
    np.save(tmp_path / "new.npy", new)
    code = (
        "import sys, keras, numpy as np; file, f = sys.argv[1:]\n"
        "new = np.load(f + '/new.npy')\n"
        "np.save(f + '/alone.npy', keras.models.load_model(file)(new))\n"
        "assert not any(m.startswith('ptsne_keras') for m in sys.modules)\n"
        "import ptsne_keras\n"
        "np.save(f + '/whole.npy', ptsne_keras.ParametricTSNE.load(f).transform(new))"
    )
    command = [sys.executable, "-c", code, str(file), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    for name in ("alone", "whole"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), fitted.transform(new))


def test_load_finds_the_class_in_the_folder(fitted, X, new, tmp_path):
    regressor = MapRegressor(random_state=0).fit(X, X[:, :2])
    for name, estimator in {"map": fitted, "placed": regressor}.items():
        assert not is_model(tmp_path / name)
        estimator.save(tmp_path / name)
        assert is_model(tmp_path / name)
        loaded = load(tmp_path / name)
        assert type(loaded) is type(estimator)
        np.testing.assert_array_equal(loaded.transform(new), estimator.transform(new))


def test_a_loaded_map_saves_again_over_itself_and_leaves_other_files(fitted, new, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    fitted.save(tmp_path)
    ParametricTSNE.load(tmp_path).save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4  # the replaced files are gone
    assert (tmp_path / "notes.txt").read_text() == "mine"
    again = ParametricTSNE.load(tmp_path)
    np.testing.assert_array_equal(again.transform(new), fitted.transform(new))


def test_a_model_of_an_earlier_version_loads(fitted, new, tmp_path):
    """It names files by their digests, and does not state their sizes."""
    fitted.save(tmp_path)

    def earlier(named):
        for role, entry in named.items():
            name = f"{role}-{entry['sha256'][:16]}.{entry['name'].rpartition('.')[2]}"
            (tmp_path / entry["name"]).rename(tmp_path / name)
            named[role] = {"name": name, "sha256": entry["sha256"]}

    change_files(tmp_path, earlier)
    again = ParametricTSNE.load(tmp_path)
    np.testing.assert_array_equal(again.transform(new), fitted.transform(new))
    again.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def change_files(folder, change):
    """Change what the manifest says of the files, its digest right."""
    manifest = json.loads((folder / "model.json").read_text())
    change(manifest["files"])
    manifest["sha256"] = _persistence.manifest_digest(manifest["state"], manifest["files"])
    (folder / "model.json").write_text(json.dumps(manifest))


def hostile(folder, kind):
    """Make the manifest name another kind of thing as the encoder, its digest right."""
    outside = folder.parent / "outside.keras"

    def change(named):
        entry = named["encoder"]
        file = folder / entry["name"]
        file.replace(outside)
        match kind:
            case "outside":
                entry["name"] = "../outside.keras"
            case "absolute":
                entry["name"] = str(outside)
            case "link":
                file.symlink_to(outside)
            case "device":
                file.symlink_to("/dev/zero")
            case "pipe":
                os.mkfifo(file)
            case "folder":
                file.mkdir()
            case "larger":
                file.write_bytes(outside.read_bytes() + b"more")
            case "size":
                entry["bytes"] = "1"
            case "digest":
                entry["sha256"] = None
            case "number":
                named["encoder"] = 3
            case "role":
                del named["encoder"]

    change_files(folder, change)


KINDS = ["outside", "absolute", "link", "device", "pipe", "folder", "larger", "size", "digest"]


@pytest.mark.parametrize("kind", [*KINDS, "number", "role"])
def test_a_manifest_names_regular_files_of_its_folder_and_their_sizes(kind, fitted, tmp_path):
    folder = tmp_path / "map"
    fitted.save(folder)
    hostile(folder, kind)
    start = time.process_time()
    with pytest.raises(ValueError, match=r"should (name files of its folder|be a file)") as caught:
        ParametricTSNE.load(folder)
    assert time.process_time() - start < 1
    assert "\n" not in str(caught.value)


STATES = [
    {},
    {"parameters": 3},
    {"parameters": {"nonsense": 1}},
    {"parameters": {"perplexity": "many"}},
    {"n_features_in": "many"},
    {"n_features_in": 3},
    {"feature_names": ["a"]},
    {"feature_names": 3},
    {"history": None},
    {"dof": "many"},
    {"kl_divergence": []},
    {"unfinished": {"epochs": 1}},
]


@pytest.mark.parametrize("state", STATES, ids=str)
def test_a_state_of_the_wrong_shape_is_refused(state, fitted, tmp_path):
    fitted.save(tmp_path)
    manifest = json.loads((tmp_path / "model.json").read_text())
    manifest["state"] = manifest["state"] | state if state else {}
    manifest["sha256"] = _persistence.manifest_digest(manifest["state"], manifest["files"])
    (tmp_path / "model.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="should be a whole model") as caught:
        ParametricTSNE.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("role", ["encoder", "arrays"])
def test_a_file_that_expands_beyond_the_limit_is_refused(role, fitted, tmp_path, monkeypatch):
    fitted.save(tmp_path)
    (file,) = tmp_path.glob(f"{role}*")
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("more.npy", bytes(300_000_000))
    rewrite(tmp_path, role, file.name)
    with pytest.raises(ValueError, match=r"expands to 300,.* set PTSNE_MAX_MB"):
        ParametricTSNE.load(tmp_path)
    monkeypatch.setenv("PTSNE_MAX_MB", "400")
    _persistence._check_expanded(file.read_bytes())


def test_a_model_that_is_not_finite_is_neither_saved_nor_loaded(fitted, tmp_path, monkeypatch):
    tsne = pickle.loads(pickle.dumps(fitted))
    tsne.embedding_[3] = np.inf
    with pytest.raises(ValueError, match=r"The embedding should be a finite model.*Received: NaN"):
        tsne.save(tmp_path / "map")
    assert not (tmp_path / "map").exists()
    fitted.save(tmp_path / "map")
    weights = tsne.encoder_.get_weights()
    weights[-1][0] = np.nan
    tsne.encoder_.set_weights(weights)
    tsne.embedding_[3] = 0
    with pytest.raises(ValueError, match="The encoder should be a finite model"):
        tsne.save(tmp_path / "map")
    np.testing.assert_array_equal(
        ParametricTSNE.load(tmp_path / "map").embedding_, fitted.embedding_
    )
    with monkeypatch.context() as patch:
        patch.setattr(_persistence, "_check_finite", lambda *_: None)
        tsne.save(tmp_path / "map")
    with pytest.raises(ValueError, match="The encoder should be finite"):
        ParametricTSNE.load(tmp_path / "map")


def test_a_reader_takes_the_new_model_if_one_replaces_the_old_meanwhile(
    fitted, new, tmp_path, monkeypatch
):
    fitted.save(tmp_path)
    real, saved = files.read, []

    def read(file, most):
        if file.name != "model.json" and not saved:
            saved.append(True)
            fitted.save(tmp_path)
        return real(file, most)

    monkeypatch.setattr(files, "read", read)
    again = ParametricTSNE.load(tmp_path)
    assert saved
    np.testing.assert_array_equal(again.transform(new), fitted.transform(new))


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def write_map(text):
    return lambda file: file.write_text(text)


class Death(BaseException):
    """The end of the process."""


def test_the_map_changes_with_the_model_whenever_the_process_dies(fitted, tmp_path, monkeypatch):
    fitted._save(tmp_path, write_map=write_map("old"))
    old, moment = contents(tmp_path), 0
    assert old["map.csv"] == b"old"
    states = set()
    for moment in range(100):
        with monkeypatch.context() as patch:
            left = iter(range(moment))
            real = files.Path.replace

            def replace(self, target, left=left, real=real):
                if next(left, None) is None:
                    raise Death
                return real(self, target)

            patch.setattr(files.Path, "replace", replace)
            # Nothing is tidied up after a death.
            patch.setattr(_persistence, "_remove_strays", lambda *_: None)
            try:
                fitted._save(tmp_path, write_map=write_map("new"))
            except Death:
                pass
            else:
                break
        is_old = (tmp_path / "model.json").read_bytes() == old["model.json"]
        for _ in range(2):  # as it is for others, and once the folder was opened
            found = {file.read_text() for file in tmp_path.glob("map.csv")}
            assert found <= {"old" if is_old else "new"}
            ParametricTSNE.load(tmp_path)
        assert found
        states.add(is_old)
        _persistence.sweep(tmp_path)
        assert len(contents(tmp_path)) == 4
        fitted._save(tmp_path, write_map=write_map("old"))
        old = contents(tmp_path)
    assert states == {True, False}
    assert moment == 6  # three files, the old map from its place, the manifest, the map to it
    assert (tmp_path / "map.csv").read_text() == "new"


def test_a_model_without_a_map_does_not_keep_the_map_of_another(fitted, tmp_path):
    for edited in (False, True):
        fitted._save(tmp_path, write_map=write_map("old"))
        if edited:  # it is somebody's file then
            (tmp_path / "map.csv").write_text("mine")
        fitted.save(tmp_path)
        assert (tmp_path / "map.csv").exists() == edited


def test_a_model_that_is_there_stays_if_that_is_asked_for(fitted, tmp_path):
    fitted._save(tmp_path, overwrite=False)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="path should be a folder without a model"):
        fitted._save(tmp_path, overwrite=False)
    assert contents(tmp_path) == before


def test_loading_runs_no_code_from_the_files(fitted, tmp_path):
    """Arrays are read without pickle, and the encoder's file may hold no Python code."""

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a file ran code",))

    fitted.save(tmp_path)
    arrays = np.array([Bomb()], dtype=object)
    np.savez(tmp_path / "bomb.npz", embedding=arrays, allow_pickle=True)
    rewrite(tmp_path, "arrays", "bomb.npz")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        ParametricTSNE.load(tmp_path)

    fitted.save(tmp_path)
    inputs = keras.Input((64,))
    evil = keras.Model(inputs, keras.layers.Lambda(lambda x: x[:, :2])(inputs))
    evil.save(tmp_path / "evil.keras")
    rewrite(tmp_path, "encoder", "evil.keras")
    with pytest.raises(ValueError, match=r"[Ll]ambda"):
        ParametricTSNE.load(tmp_path)


def rewrite(folder, role, name):
    """Make the manifest name another file, its digest right."""
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    change_files(folder, lambda named: named.update({role: {"name": name, "sha256": digest}}))


def test_a_random_state_generator_neither_warns_nor_blocks_saving(X, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="__array__ implementation doesn't accept a copy")
        options = {**SMALL, "epochs": 2, "random_state": np.random.RandomState(0)}
        tsne = ParametricTSNE(**options).fit(X)
        assert tsne.transform(X[:5]).shape == (5, 2)
    tsne.save(tmp_path)
    assert ParametricTSNE.load(tmp_path).random_state is None


def test_it_pickles_and_clones(fitted, new):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(new), fitted.transform(new))
    assert not hasattr(sklearn.clone(fitted), "encoder_")


@pytest.mark.parametrize("cls", [ParametricTSNE, MapRegressor])
def test_the_kind_of_tables_that_come_out_is_saved(cls, tmp_path):
    X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    estimator = cls(random_state=0, **({"epochs": 1} if cls is ParametricTSNE else {}))
    estimator.fit(X, X[:, :2]).set_output(transform="pandas").save(tmp_path)
    assert list(cls.load(tmp_path).transform(X)) == list(estimator.transform(X))
    estimator.set_output(transform="default").save(tmp_path)
    assert isinstance(cls.load(tmp_path).transform(X), np.ndarray)
