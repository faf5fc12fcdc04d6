"""What all tests share: quiet and equal surroundings on every backend."""

import gc
import os

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


def pytest_collection_modifyitems(items):
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
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded():
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
