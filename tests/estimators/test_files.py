"""A fitted `ParametricTSNE` in a folder."""

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
    regressor = MapRegressor(random_state=0).fit(X, X[:, :2])
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
