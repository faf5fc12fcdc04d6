"""What all tests share: quiet and equal surroundings on every backend."""

import gc
import os
import pathlib
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import hypothesis
import keras
import pytest

# Each run tries the same few examples; `--hypothesis-profile=long` tries many new ones.
hypothesis.settings.register_profile(
    "few", max_examples=12, deadline=None, derandomize=True, database=None
)
hypothesis.settings.register_profile(
    "long",
    max_examples=300,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("few")


LONG_TESTS = pathlib.Path(__file__).with_name("long_tests.txt")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also run the long tests")
    parser.addoption("--long-only", action="store_true", help="run the long tests alone")


def pytest_configure(config):
    """Compiles programs that run once quickly, and those of the long tests as users do."""
    if not (config.getoption("long") or config.getoption("long_only")):
        # XLA's own passes stay as they are.
        flags = (
            "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        )
        os.environ.setdefault("XLA_FLAGS", flags)


def leave_out_by_length(config, items):
    """Leaves out the long tests or, with `--long-only`, all others."""
    # The tests of a file that somebody asks for by name are all wanted.
    if config.getoption("long") or any("::" in argument for argument in config.args):
        return
    lines = LONG_TESTS.read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    ways = [re.compile(re.escape(line).replace(r"\*", ".*")) for line in patterns]
    wanted, left_out, found, files = [], [], set(), set()
    for item in items:
        name = f"{item.path.name}::{item.nodeid.partition('::')[2]}"
        files.add(item.path.name)
        of_item = {way.pattern for way in ways if way.fullmatch(name)}
        found |= of_item
        (wanted if bool(of_item) == config.getoption("long_only") else left_out).append(
            item
        )
    stale = [
        line
        for line, way in zip(patterns, ways, strict=True)
        if way.pattern not in found and line.partition("::")[0] in files
    ]
    if stale:
        raise pytest.UsageError(
            f"{LONG_TESTS.name} names tests that are not there: {stale}"
        )
    items[:] = wanted
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_modifyitems(config, items):
    leave_out_by_length(config, items)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return
    if backend == "jax":  # it has no float64, and the tests know
        truncates = "ignore:Explicitly requested dtype:UserWarning"
        for item in items:
            item.add_marker(pytest.mark.filterwarnings(truncates))
    skip = pytest.mark.skip(reason=f"needs the TensorFlow backend, this is {backend}")
    for item in items:
        if item.get_closest_marker("tensorflow"):
            item.add_marker(skip)


@pytest.fixture(scope="module", autouse=True)
def spared_by_the_collector():
    """Keeps what is there from being searched for cycles again and again.

    TensorFlow and Keras are a million objects. Quantizing a layer searches all of them.
    """
    gc.set_threshold(20_000, 20, 20)
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    """Seeds all generators, and keeps the kernels that TensorFlow has made.

    TensorFlow throws them away with each seed. To make them again took a quarter of the
    time of all short tests.
    """
    with monkeypatch.context() as patch:
        if keras.backend.backend() == "tensorflow":
            from tensorflow.python import pywrap_tfe

            patch.setattr(pywrap_tfe, "TFE_ContextClearCaches", lambda context: None)
        keras.utils.set_random_seed(0)


@pytest.fixture
def reload(tmp_path):
    """Saves a model and returns the one that loads."""

    def save_and_load(model, name="model.keras"):
        model.save(tmp_path / name)
        return keras.saving.load_model(tmp_path / name)

    return save_and_load


@pytest.fixture
def uncompiled():
    """Runs the kernels operation by operation: a whole table takes seconds then."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
