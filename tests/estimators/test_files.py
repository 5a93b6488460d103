"""A fitted `ParametricTSNE` in a folder."""

import json
import pickle
import shutil
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import sklearn
from support.fits import BOTH, SMALL

from ptsne_keras import MapRegressor, ParametricTSNE
from ptsne_keras.estimators import _persistence, is_model, load


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


def test_save_load_fit_works_and_repeats_the_fit(fitted, X, tmp_path):
    fitted.save(tmp_path)
    again = ParametricTSNE.load(tmp_path).fit(X)
    np.testing.assert_array_equal(again.embedding_, fitted.embedding_)


def test_another_process_gets_the_same_map(fitted, new, tmp_path):
    fitted.save(tmp_path / "map")
    np.save(tmp_path / "new.npy", new)
    code = (
        "import sys, numpy as np, ptsne_keras; f = sys.argv[1]\n"
        "tsne = ptsne_keras.ParametricTSNE.load(f + '/map')\n"
        "np.save(f + '/out.npy', tsne.transform(np.load(f + '/new.npy')))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), fitted.transform(new))


def test_load_finds_the_class_in_the_folder(fitted, X, new, tmp_path):
    regressor = MapRegressor(epochs=1, random_state=0).fit(X, X[:, :2])
    for name, estimator in {"map": fitted, "placed": regressor}.items():
        assert not is_model(tmp_path / name)
        estimator.save(tmp_path / name)
        assert is_model(tmp_path / name)
        loaded = load(tmp_path / name)
        assert type(loaded) is type(estimator)
        np.testing.assert_array_equal(loaded.transform(new), estimator.transform(new))


def test_a_loaded_map_saves_again_over_itself(fitted, new, tmp_path):
    fitted.save(tmp_path)
    ParametricTSNE.load(tmp_path).save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3  # the replaced files are gone
    np.testing.assert_array_equal(
        ParametricTSNE.load(tmp_path).transform(new), fitted.transform(new)
    )


def test_other_files_in_the_folder_stay(fitted, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    fitted.save(tmp_path)
    fitted.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("call", range(4))
def test_a_failing_save_leaves_the_old_model_whole(call, fitted, X, new, tmp_path, monkeypatch):
    """The disk fills up at the nth file: nothing is lost and nothing half-written is left."""
    fitted.save(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    other = ParametricTSNE(**{**SMALL, "epochs": 1}).fit(X)
    writes = []
    real = _persistence.os.fsync

    def full(descriptor):
        writes.append(descriptor)
        if len(writes) > call:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(_persistence.os, "fsync", full)
    if call == 3:  # three files: this save succeeds, so the test is of something
        other.save(tmp_path)
        assert not np.array_equal(ParametricTSNE.load(tmp_path).embedding_, fitted.embedding_)
        return
    with pytest.raises(OSError, match="the disk is full"):
        other.save(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("part", ["model.json", "encoder", "arrays"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damage_is_named(part, damage, fitted, tmp_path):
    fitted.save(tmp_path)
    (file,) = tmp_path.glob(f"{part}*")
    contents = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(contents[: len(contents) // 2])
    else:
        file.write_bytes(b"[]" if part == "model.json" else contents[:-1] + b"?")
    words = "should be a folder|truncated or altered|is missing|not a model's manifest"
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        ParametricTSNE.load(tmp_path)


def test_what_is_no_model_of_this_version_and_class_is_named(fitted, tmp_path):
    with pytest.raises(FileNotFoundError, match="should be a folder that `save` wrote"):
        ParametricTSNE.load(tmp_path / "nothing")
    fitted.save(tmp_path / "map")
    manifest = json.loads((tmp_path / "map/model.json").read_text())
    for change, message in (
        ({"format": 99}, "Upgrade ptsne_keras"),
        ({"kind": "MapRegressor"}, "should hold a ParametricTSNE. Received: a MapRegressor"),
    ):
        shutil.copytree(tmp_path / "map", tmp_path / "copy", dirs_exist_ok=True)
        (tmp_path / "copy/model.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(ValueError, match=message):
            ParametricTSNE.load(tmp_path / "copy")
    with pytest.raises(NotADirectoryError, match="should be a folder"):
        fitted.save(tmp_path / "map/model.json")


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
    import hashlib

    manifest = json.loads((folder / "model.json").read_text())
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    manifest["files"][role] = {"name": name, "sha256": digest}
    manifest["sha256"] = _persistence.manifest_digest(manifest["state"], manifest["files"])
    (folder / "model.json").write_text(json.dumps(manifest))


def test_the_encoder_loads_without_this_package(fitted, new, tmp_path):
    fitted.save(tmp_path)
    (file,) = tmp_path.glob("encoder*.keras")
    np.save(tmp_path / "new.npy", new)
    code = (
        "import sys, keras, numpy as np\n"
        "Y = keras.models.load_model(sys.argv[1])(np.load(sys.argv[2] + '/new.npy'))\n"
        "assert not any(m.startswith('ptsne_keras') for m in sys.modules)\n"
        "np.save(sys.argv[2] + '/out.npy', np.asarray(Y))"
    )
    command = [sys.executable, "-c", code, str(file), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), fitted.transform(new))


def test_a_random_state_generator_does_not_block_saving(X, tmp_path):
    options = {**SMALL, "epochs": 1, "random_state": np.random.RandomState(0)}
    ParametricTSNE(**options).fit(X).save(tmp_path)
    assert ParametricTSNE.load(tmp_path).random_state is None


def test_it_pickles_and_clones(fitted, new):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(new), fitted.transform(new))
    assert not hasattr(sklearn.clone(fitted), "encoder_")


def test_no_warning_reaches_the_user(X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="__array__ implementation doesn't accept a copy")
        ParametricTSNE(**{**SMALL, "epochs": 2}).fit(X).transform(X[:5])
