"""What all tests share: quiet and equal surroundings on every backend."""

import collections
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


def selection(config):
    """Returns which tests run: "short", "long" or "all"."""
    if config.getoption("long_only"):
        return "long"
    named = any("::" in argument for argument in config.args)
    return "all" if config.getoption("long") or named else "short"


def pytest_configure(config):
    """Compiles the programs of short tests quickly, and those of long tests as users do."""
    if selection(config) == "short":
        # For LLVM alone. XLA's own passes stay as they are.
        flags = (
            "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        )
        os.environ.setdefault("XLA_FLAGS", flags)


def pytest_report_header(config):
    if selection(config) == "short":
        return "long tests: left out; `--long` runs them, too"


def leave_out_by_length(config, items):
    """Leaves out the long tests, or all others."""
    wanted = selection(config)
    if wanted == "all":
        return
    patterns = collections.defaultdict(dict)  # of each file, by their lines
    for line in LONG_TESTS.read_text().splitlines():
        if line and not line.startswith("#"):
            file, _, test = line.partition("::")
            patterns[file][line] = re.compile(re.escape(test).replace(r"\*", ".*"))
    kept, left_out, matched = [], [], set()
    for item in items:
        test = item.nodeid.partition("::")[2]
        lines = patterns[item.path.name].items()
        matching = {line for line, pattern in lines if pattern.fullmatch(test)}
        matched |= matching
        is_long = bool(matching)
        (kept if is_long == (wanted == "long") else left_out).append(item)
    files = {item.path.name for item in items}
    stale = [
        line
        for file, lines in patterns.items()
        if file in files or not LONG_TESTS.with_name(file).exists()
        for line in lines
        if line not in matched
    ]
    # Other backends have shorter tables, and `--lf` has left out tests before.
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if stale and on_tensorflow and not config.getoption("lf", False):
        raise pytest.UsageError(
            f"{LONG_TESTS.name} names tests that are not there: {stale}"
        )
    items[:] = kept
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
    """Freezes the objects that exist, so that the garbage collector skips them.

    TensorFlow and Keras are a million objects, and quantizing a layer runs the collector.
    Collections are rarer, too: tests make many objects that live long.
    """
    gc.set_threshold(20_000, 20, 20)
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    """Seeds all generators, and keeps the kernels that TensorFlow has made.

    TensorFlow throws them away with each seed. Making them again took a quarter of the
    time of all short tests. Random operations of TensorFlow with a state of their own would
    go on where they were. Keras has them in the datasets of `fit` alone, which begin anew.
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
