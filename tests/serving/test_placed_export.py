"""Exports of models that place rows: signatures, a bounded reference, other runtimes."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from support import c_loader, runtimes

from ptsne_keras import networks, serving
from ptsne_keras.networks import Placement, placement
from ptsne_keras.serving import checks
from ptsne_keras.utils import pca

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(500, 10)).astype("float32")


@pytest.fixture(scope="module")
def new():
    return np.random.default_rng(1).normal(size=(60, 10)).astype("float32")


@pytest.fixture(scope="module")
def encoder(X):
    return build(X)


def build(X):
    reduced = pca.principal_components(X, 6, seed=0)
    Z, Y = reduced.apply(X), (10 * X[:, :2]).astype("float32")
    layer = Placement.from_reference(Z, Y, reduced.outside2(X, Z))
    layer.set_usual(np.linspace(0.5, 2.0, 400))
    network = networks.encoder(10, 2, hidden_units=(8,), activation="relu", seed=0)
    scaling, components = reduced[:2], reduced.components
    return networks.placed(layer, 10, scaling=scaling, components=components, network=network)


@pytest.fixture(scope="module")
def path(encoder, tmp_path_factory):
    return serving.export_saved_model(encoder, tmp_path_factory.mktemp("s") / "map", dof=1.0)


@functools.lru_cache
def loaded(path):
    return tf.saved_model.load(str(path))


def answers(path, rows, name="serving_default"):
    signature = loaded(path).signatures[name]
    return {key: value.numpy() for key, value in signature(features=tf.constant(rows)).items()}


def test_it_answers_by_placement_by_the_network_and_with_novelty(path, encoder, new):
    assert set(loaded(path).signatures) == {
        *("serving_default", "embed_examples", "embed_fast", "embed_with_novelty")
    }
    places = encoder.predict(new, verbose=0)
    np.testing.assert_allclose(answers(path, new)["embedding"], places, **CLOSE)
    fast = answers(path, new, "embed_fast")["embedding"]
    np.testing.assert_allclose(fast, networks.network(encoder)(new), **CLOSE)
    both = answers(path, new, "embed_with_novelty")
    np.testing.assert_allclose(both["embedding"], places, **CLOSE)
    layer, (z, outside2) = encoder.layers[-1], networks.front(encoder)(new)
    expected = layer.novelty(*layer.nearest(z), outside2)
    np.testing.assert_allclose(both["novelty"], expected, atol=1e-4)


@pytest.fixture(params=["placed", "network"])
def exported(request, path, new, served):
    """The folder of a model with placement or without, its signatures, and rows for it."""
    path, rows = (path, new) if request.param == "placed" else (served.path, served.rows[:60])
    return path, set(loaded(path).signatures) - {"embed_examples"}, rows


@pytest.mark.parametrize("value", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)])
def test_a_row_that_is_not_finite_spoils_no_other(value, exported):
    path, names, rows = exported
    spoiled = rows[:3].copy()
    spoiled[1, 4] = value  # ReLU would give it a place
    for name in names:
        found, expected = answers(path, spoiled, name), answers(path, rows[:3], name)
        assert np.isnan(found["embedding"][1]).all()
        np.testing.assert_allclose(found["embedding"][::2], expected["embedding"][::2], **CLOSE)
        assert name != "embed_with_novelty" or found["novelty"][1] == 1


def test_a_row_whose_components_overflow_has_no_place_in_any_signature(path, encoder, new):
    rows = np.stack([np.full_like(new[0], 3e38), new[0]])
    assert not np.isfinite(networks.front(encoder)(rows)[0]).all()
    for name in ("serving_default", "embed_with_novelty"):
        lost = np.isnan(answers(path, rows, name)["embedding"]).all(axis=1)
        assert lost.tolist() == [True, False]


def test_the_c_api_reads_it_without_this_package(path, encoder, new, tmp_path):
    found = c_loader.run(path, {f"serving_default/features@{n}": new[:n] for n in (0, 7)}, tmp_path)
    assert found["serving_default/embedding@0"].shape == (0, 2)
    expected = encoder.predict(new[:7], verbose=0)
    np.testing.assert_allclose(found["serving_default/embedding@7"], expected, **CLOSE)


def test_every_signature_compiles_under_xla_but_that_of_strings(exported):
    path, names, rows = exported
    model, rows = loaded(path), tf.constant(rows[:7])
    for name in names:
        signature = model.signatures[name]
        compiled = tf.function(lambda x, f=signature: f(features=x), jit_compile=True)
        for key, value in signature(features=rows).items():
            np.testing.assert_allclose(compiled(rows)[key], value, rtol=1e-3, atol=1e-4)


def test_the_reference_is_bounded_and_told(path, encoder, X, new, tmp_path):
    assert checks.facts(path) == {"dof": 1.0, "reference_rows": 500}
    part = serving.export_saved_model(encoder, tmp_path, reference=X, reference_size=200)
    expected = networks.smaller(encoder, 200)
    assert checks.facts(part)["reference_rows"] == expected.layers[-1].n_references <= 200
    places = expected.predict(new, verbose=0)
    np.testing.assert_allclose(answers(part, new)["embedding"], places, **CLOSE)
    novelty = answers(part, new, "embed_with_novelty")["novelty"]  # new rows of the same kind
    assert np.median(novelty) == pytest.approx(0.5, abs=0.15)


@pytest.mark.slow
def test_half_precision_leaves_the_reference_alone(encoder, X, tmp_path):
    half = serving.export_saved_model(encoder, tmp_path, reference=X, precision="bfloat16")
    error = checks.facts(half)["map_error"]  # of rows that the reference lacks
    assert 0 < error["rms"] < error["max"] < 0.1  # the network is only the start
    alone = encoder.layers[-1].reference()
    assert alone[0].dtype == np.float32


@pytest.mark.parametrize("size", [1, 2.5, "all"])
def test_reference_sizes_that_cannot_work_are_named(size, encoder, tmp_path):
    with pytest.raises(ValueError, match=r"reference_size should be .* Received: "):
        serving.export_saved_model(encoder, tmp_path, reference_size=size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("search", [pytest.param("whole", marks=pytest.mark.slow), "by blocks"])
@pytest.mark.parametrize(
    ("export", "name", "load"),
    [
        (serving.export_onnx, "map.onnx", runtimes.load),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                (serving.export_onnx, "map.onnx", runtimes.load_in_openvino),
                (serving.export_saved_model, "map", runtimes.load_in_openvino),
                (serving.export_litert, "map.tflite", runtimes.load),
            )
        ),
    ],
)
def test_other_runtimes_place_rows_too(
    export, name, load, search, encoder, X, new, tmp_path, monkeypatch
):
    if search == "by blocks":
        monkeypatch.setattr(placement, "_BLOCK", 4)
        encoder = build(X)
        assert encoder.layers[-1]._block == 4
    found = load(export(encoder, tmp_path / name))(new)
    np.testing.assert_allclose(found, encoder.predict(new, verbose=0), rtol=1e-3, atol=1e-3)
