"""Training on several devices and in several processes equals training on one."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
from importlib.util import find_spec

import keras
import pytest
from common import refused

import keras_sam

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "train_distributed.py"
needs_jax = pytest.mark.skipif(find_spec("jax") is None, reason="needs JAX")
pytestmark = pytest.mark.tensorflow  # once; the subprocesses choose their backend


@contextlib.contextmanager
def started(backend, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLE), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def result(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    losses = [float(line[5:]) for line in output.splitlines() if line.startswith("loss ")]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    return losses, output


def run(backend, *arguments):
    with started(backend, *arguments) as process:
        return result(process)


def runs(folder):
    """Returns the runs that a folder has, each of which has one file."""
    files = list(pathlib.Path(folder).rglob("events.out.tfevents.*"))
    found = {file.parent for file in files}
    assert len(found) == len(files), files
    return found


@pytest.fixture(scope="module")
def one_device():
    return run("jax", "--how", "single")[0]


@needs_jax
def test_batches_over_devices(one_device, tmp_path):
    losses, _ = run("jax", "--how", "data", "--devices", 8, "--logs", tmp_path)
    assert losses == pytest.approx(one_device, abs=2e-5)
    assert runs(tmp_path)


@needs_jax
def test_heads_over_devices(one_device, tmp_path):
    losses, output = run("jax", "--how", "model", "--devices", 8, "--logs", tmp_path)
    assert losses == pytest.approx(one_device, abs=2e-5)
    assert "kernel (16, 4, 4), on each device (16, 1, 4)" in output
    assert runs(tmp_path)


@needs_jax
def test_two_processes(one_device, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    common = ("--how", "data", "--of", 2, "--address", address, "--logs")
    folders = tmp_path / "first", tmp_path / "second"
    with (
        started("jax", *common, folders[0], "--process", 0) as first,
        started("jax", *common, folders[1], "--process", 1) as second,
    ):
        both = result(first)[0], result(second)[0]
    assert both[0] == pytest.approx(one_device, abs=2e-5)
    assert both[1] == pytest.approx(one_device, abs=2e-5)
    assert runs(folders[0])
    assert not runs(folders[1])


def test_mirrored_strategy(tmp_path):
    expected, _ = run("tensorflow", "--how", "single")
    arguments = ("--how", "mirrored", "--devices", 2, "--logs", tmp_path)
    losses, _ = run("tensorflow", *arguments)
    assert losses == pytest.approx(expected, abs=2e-5)
    assert runs(tmp_path)


def test_an_axis_that_the_mesh_does_not_have():
    mesh = keras.distribution.DeviceMesh((1,), ("batch",), ["cpu:0"])
    with refused("`axis` must be one of the axes of `device_mesh`", "axis='model'"):
        keras_sam.distribution.layout_map(mesh)
