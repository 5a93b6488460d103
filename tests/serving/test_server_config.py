"""Files for TensorFlow Serving beside the versions, read by the official protos where there are."""

import re
import shutil

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from ptsne_keras import serving
from ptsne_keras.serving import server_config


@pytest.fixture(scope="module")
def version(tmp_path_factory, small_encoder):
    return serving.export_saved_model(small_encoder, tmp_path_factory.mktemp("served"))


@pytest.fixture
def base(tmp_path, version):
    for name in "123":
        shutil.copytree(version, tmp_path / "cells" / name)
    return tmp_path / "cells"


@pytest.fixture
def quick(monkeypatch):
    """Figures that are known, instead of a measurement."""
    seconds = {1: 0.000_25, 8: 0.000_5, 64: 0.001, 512: 0.004, 4096: 0.031}
    speed = server_config.Speed(3, seconds, 512, {1: 100.0, 2: 180.0, 4: 190.0}, 0.031 / 4096)
    monkeypatch.setattr(server_config, "measure", lambda path: speed)


def models(base):
    """Name, base path, versions and labels, as the official proto reads them."""
    text = (base / "models.config").read_text()
    parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (config,) = parsed.model_config_list.config
    versions = list(config.model_version_policy.specific.versions)
    return config.name, config.base_path, versions, dict(config.version_labels)


def parameters(base):
    """The settings of batching.config: scalars, and the sizes as a list."""
    text = re.sub(r"#.*", "", (base / "batching.config").read_text())
    found = {k: int(v) for k, v in re.findall(r"(\w+) \{ value: (\d+) \}", text)}
    sizes = [int(v) for v in re.findall(r"allowed_batch_sizes: (\d+)", text)]
    assert not re.sub(r"\w+ \{ value: \d+ \}|allowed_batch_sizes: \d+", "", text).strip()
    return found, sizes


@pytest.mark.usefixtures("quick")
def test_versions_and_labels_are_those_that_are_asked_for(base):
    serving.configure(base)
    assert models(base) == ("cells", "/models/cells", [3], {"stable": 3})
    (base / "models.config").unlink()
    serving.configure(base, canary=3, name="map")
    assert models(base) == ("map", "/models/map", [2, 3], {"stable": 2, "canary": 3})


@pytest.mark.usefixtures("quick")
def test_a_label_moves_only_to_what_a_running_server_has_loaded(base):
    serving.configure(base, stable=1)
    serving.configure(base)  # a newer version alone moves nothing
    assert models(base)[3] == {"stable": 1}
    with pytest.raises(ValueError, match=r"stable should move to a version that is served: \[1\]"):
        serving.configure(base, stable=2)
    serving.configure(base, canary=2)
    with pytest.raises(ValueError, match=r"canary should move .* drop the canary first"):
        serving.configure(base, canary=3)
    serving.configure(base, stable=2)
    # Until the next call: requests for the old one may be under way.
    assert models(base)[2:] == ([1, 2], {"stable": 2})
    serving.configure(base)
    assert models(base)[2] == [2]


@pytest.mark.usefixtures("quick")
def test_batching_follows_from_what_was_measured(base):
    serving.configure(base)
    assert parameters(base) == (
        {
            "max_batch_size": 4096,  # of a request; 512 rows reach nine tenths of the rate
            "batch_timeout_micros": 250,
            "max_enqueued_batches": round(2 / 0.031),
            "num_batch_threads": 2,
        },
        [],
    )
    text = (base / "batching.config").read_text()
    assert "Batches of more than 512 rows are hardly faster" in text
    assert "64 rows:    1.000 ms,       64,000 rows/s" in text
    # Sizes for XLA end with the largest batch.
    serving.configure(base, request_rows=100, allowed_batch_sizes=(256, 1, 16))
    found, sizes = parameters(base)
    assert found["max_batch_size"] == 256
    assert sizes == [1, 16, 256]


def test_a_real_measurement_gives_usable_values(base):
    serving.configure(base)
    found, _ = parameters(base)
    text = (base / "batching.config").read_text()
    measured = re.findall(r"([\d,]+) rows: +([\d.,]+) ms", text)
    milliseconds = {int(n.replace(",", "")): float(t.replace(",", "")) for n, t in measured}
    assert list(milliseconds) == [1, 8, 64, 512, 4096]
    assert all(time > 0 for time in milliseconds.values())
    assert found["batch_timeout_micros"] == pytest.approx(1e3 * milliseconds[1], abs=1)
    threads = re.search(r"Rows a second by the number of threads.*: (1: .*)\.", text)[1]
    assert found["max_enqueued_batches"] >= 8
    assert found["num_batch_threads"] in [int(pair.split(":")[0]) for pair in threads.split(", ")]


@pytest.mark.usefixtures("quick")
def test_compose_mounts_the_folder_and_names_files_that_are_there(base):
    written = serving.configure(base)
    assert {file.name for file in base.iterdir()} == {"1", "2", "3", *(f.name for f in written)}
    text = (base / "compose.yaml").read_text()
    compose = yaml.safe_load(text)
    assert "ends TLS" in text
    cpu, gpu = compose["services"]["serving"], compose["services"]["serving-gpu"]
    for service in (cpu, gpu):
        assert service["volumes"] == [".:/models/cells:ro"]
        # From this machine alone: whoever reaches the server may ask it.
        assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
        named = {flag.partition("=")[2] for flag in service["command"] if "/models/" in flag}
        configs = {file.name for file in written if file.suffix == ".config"}
        assert named == {f"/models/cells/{name}" for name in configs}
    assert cpu["image"].startswith("tensorflow/serving:")
    assert gpu["image"].endswith("-gpu")
    assert "gpu" in gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"]
    assert "enable: true" in (base / "monitoring.config").read_text()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *[({"name": name}, "name should consist of letters") for name in ('a"b', "$HOME", "", 5)],
        ({"canary": 7}, r"\[1, 2, 3\].* export_saved_model writes them. Received: 7"),
        ({"request_rows": 0}, "request_rows should be an integer of at least 1"),
        ({"allowed_batch_sizes": (1, 16)}, "largest of allowed_batch_sizes should hold"),
        ({"allowed_batch_sizes": (1.5, 4096)}, "of allowed_batch_sizes should be an integer"),
        ({"allowed_batch_sizes": ("8", 4096)}, "of allowed_batch_sizes should be an integer"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(base, arguments, message):
    before = {path: path.stat().st_mtime_ns for path in base.iterdir()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        serving.configure(base, **arguments)
    assert {path: path.stat().st_mtime_ns for path in base.iterdir()} == before


def test_folder_without_versions_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="export_saved_model writes them"):
        serving.configure(tmp_path)
    assert list(tmp_path.iterdir()) == []
