"""A fitted `ParametricTSNE` in a folder."""

import hashlib
import json
import pickle
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
    manifest = json.loads((folder / "model.json").read_text())
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    manifest["files"][role] = {"name": name, "sha256": digest}
    manifest["sha256"] = _persistence.manifest_digest(manifest["state"], manifest["files"])
    (folder / "model.json").write_text(json.dumps(manifest))


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
