"""Processes on 127.0.0.1 as hosts, compared with one process that has as many devices."""

import ast
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import keras
import numpy as np
import pytest
from support import reference

from ptsne_keras import losses, networks
from ptsne_keras.data import batches

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/keras.md"
STAGES = Path(__file__).with_name("on_several_hosts.py")


def documented():
    pattern = r"^```python several_hosts\.py\n(.*?)^```"
    (script,) = re.findall(pattern, GUIDE.read_text(), flags=re.DOTALL | re.MULTILINE)
    return script


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def with_devices(count):
    flags = f"--xla_force_host_platform_device_count={count}"
    return {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}


def run(script, folder, hosts, devices):
    """Run a script on several hosts: the losses that each printed, and the weights."""
    folder.mkdir()
    (folder / "script.py").write_text(script)
    address = free_address()
    environment, processes = with_devices(devices), []
    for host in range(hosts):
        place = folder / str(host)
        place.mkdir()
        with open(place / "out", "w") as out, open(place / "err", "w") as err:
            command = [sys.executable, "../script.py", address, str(hosts), str(host)]
            processes.append(
                subprocess.Popen(command, cwd=place, env=environment, stdout=out, stderr=err)
            )
    try:
        codes = [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0] * hosts, (folder / "0" / "err").read_text()[-3000:]
    printed = [(folder / str(host) / "out").read_text() for host in range(hosts)]
    curves = [ast.literal_eval(re.findall(r"^\[[-\d.e, ]+\]$", p, re.M)[-1]) for p in printed]
    assert [(folder / str(host) / "encoder.keras").exists() for host in range(hosts)] == [
        host == 0 for host in range(hosts)
    ]
    encoder = keras.saving.load_model(folder / "0" / "encoder.keras", compile=False)
    return curves, encoder.get_weights()


@pytest.fixture(scope="module")
def of_the_guide(tmp_path_factory):
    return run(documented(), tmp_path_factory.mktemp("guide") / "two", hosts=2, devices=1)


@pytest.mark.parametrize("script", ["guide", "stages"])
def test_two_processes_are_one_process_of_two_devices(script, of_the_guide, tmp_path):
    text = documented() if script == "guide" else STAGES.read_text()
    two = of_the_guide if script == "guide" else run(text, tmp_path / "two", hosts=2, devices=1)
    (first, second), weights = two
    (alone,), expected = run(text, tmp_path / "one", hosts=1, devices=2)
    assert len(alone) == 3
    assert first == second  # what is reported is the mean over all
    np.testing.assert_allclose(first, alone, rtol=1e-6)
    for found, wanted in zip(weights, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_two_processes_are_one_device_that_takes_the_blocks_in_turn(of_the_guide, digits):
    (curve, _), weights = of_the_guide
    (X, _), _ = digits
    encoder = networks.encoder(64, 2, hidden_units=(100, 100), activation="relu", seed=0)
    encoder.compile("adam", loss=losses.TSNE(blocks=2))
    data = batches.from_array(X, perplexity=30, batch_size=300, seed=0, replicas=2)
    alone = encoder.fit(data, epochs=3, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(curve, alone, rtol=1e-6)
    # But for the last bias, which moves the map as a whole: its gradient is rounding, and Adam
    # makes steps of that.
    for found, wanted in zip(weights[:-1], encoder.get_weights()[:-1], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


SHARDED = """
import jax, keras, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ptsne_keras import losses

mesh = jax.sharding.Mesh(jax.devices(), ("batch",))
rows = NamedSharding(mesh, PartitionSpec("batch"))
shapes = [jax.ShapeDtypeStruct((60, columns), np.float32, sharding=rows) for columns in (30, 2)]
pairs = [jax.ShapeDtypeStruct((60, columns), np.float32, sharding=rows) for columns in (1, 2)]
for P, Y in (shapes, pairs):
    step = jax.jit(jax.value_and_grad(lambda Y, P: losses.TSNE(blocks=2)(P, Y)))
    program = step.lower(Y, P).compile().as_text()
    assert "all-reduce" in program  # of the loss
    for exchange in ("all-gather", "all-to-all", "collective-permute"):
        assert exchange not in program, exchange
whole = jax.jit(jax.value_and_grad(lambda Y, P: losses.TSNE()(P, Y)))
assert "all-gather" in whole.lower(pairs[1], pairs[0]).compile().as_text()  # what blocks save
"""


def test_devices_exchange_no_rows():
    subprocess.run([sys.executable, "-c", SHARDED], env=with_devices(2), check=True, timeout=300)


def test_a_stack_taken_for_one_batch_is_named(rng):
    P = np.concatenate([reference.random_P(10)] * 2)
    with pytest.raises(ValueError, match="2 batches stacked, blocks should say so"):
        jax.jit(losses.TSNE())(P, rng.normal(size=(20, 2)))
