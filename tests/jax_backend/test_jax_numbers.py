"""Numbers on JAX against a float64 double loop, and against TensorFlow in another process."""

import os
import subprocess
import sys
from pathlib import Path

import backend_numbers
import jax
import keras
import numpy as np
import pytest
from support import reference

from ptsne_keras import losses


@pytest.fixture(scope="module")
def found():
    return backend_numbers.numbers()


@pytest.fixture(scope="module")
def of_tensorflow(tmp_path_factory):
    file = tmp_path_factory.mktemp("numbers") / "tensorflow.npz"
    command = [sys.executable, backend_numbers.__file__, file]
    paths = {"PYTHONPATH": str(Path(__file__).parents[2])}
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", **paths}
    subprocess.run(command, env=environment, check=True, timeout=300)
    with np.load(file) as numbers:
        return dict(numbers)


@pytest.mark.parametrize("name", backend_numbers.CASES)
def test_losses_agree_with_tensorflow_and_with_a_double_loop(name, found, of_tensorflow):
    for kind in ("loss", "gradient"):
        expected = of_tensorflow[f"{kind}_{name}"]
        atol = 1e-6 * np.abs(expected).max()
        np.testing.assert_allclose(found[f"{kind}_{name}"], expected, rtol=0, atol=atol)
    d, dof, c = backend_numbers.CASES[name]
    expected = reference.tsne(*backend_numbers.inputs(d), dof, c)
    assert found[f"loss_{name}"] == pytest.approx(expected, rel=1e-6)


def test_fits_rbms_and_the_unrolled_network_agree_with_tensorflow(found, of_tensorflow):
    """Fits plain, of blocks, of pairs; `Trainer` with learned dof, metrics and validation."""
    assert set(found) == set(of_tensorflow)
    assert {"fit_pair_blocks", "trainer_dof", "trainer_val_trustworthiness"} < set(found)
    assert {"rbm_below_free_energy", "rbm_top_kernel", "unrolled"} < set(found)
    for name, expected in of_tensorflow.items():
        if name.startswith(("fit", "trainer")):
            np.testing.assert_allclose(found[name], expected, rtol=1e-6, err_msg=name)
        elif name.startswith(("rbm", "unrolled")):  # differences of free energies, up to 7.5
            atol = 1e-6 * max(1.0, np.abs(expected).max())
            np.testing.assert_allclose(found[name], expected, atol=atol, rtol=0, err_msg=name)


@pytest.mark.parametrize("dof", [1.0, 2.5])
def test_the_normaliser_of_many_rows_is_exact_in_float32(dof, rng):
    Y = (10 * rng.normal(size=(6000, 2))).astype("float32")
    P = np.full((6000, 1), 1 / 6000, np.float32)
    expected = reference.tsne_of_equal_pairs(Y, dof)
    step = jax.jit(lambda Y: keras.ops.sum(losses.tsne(P, Y, dof=dof)))
    assert float(step(Y)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dof", [0.5, 1.0, 4.0])
def test_coincident_points_give_finite_gradients(dof):
    P = np.float32(reference.random_P(10))
    for Y in (np.zeros((10, 2), "float32"), np.repeat(np.eye(2, dtype="float32") * 30, 5, axis=0)):
        gradient = jax.grad(lambda Y: keras.ops.sum(losses.tsne(P, Y, dof=dof)))(Y)
        assert np.isfinite(gradient).all()
