"""What importing keras_sam.addons does to a process, and what it does not."""

import configparser
import pathlib
import subprocess
import sys

import pytest

from keras_sam import addons

ROOT = pathlib.Path(__file__).parents[1]

IMPORT = """
import os, sys, warnings
import keras
registered = keras.saving.get_custom_objects()

@keras.saving.register_keras_serializable("Addons")
class Maxout(keras.layers.Layer):
    pass

def state():
    config = keras.config
    return (
        dict(os.environ),
        {name for name in sys.modules if "addons" in name or "tf_keras" in name},
        "keras.src.engine" in sys.modules,
        config.dtype_policy().name, config.backend(), config.floatx(), config.epsilon(),
        config.image_data_format(), config.is_traceback_filtering_enabled(),
        config.is_interactive_logging_enabled(), config.is_flash_attention_enabled(),
        list(warnings.filters), list(sys.path), list(sys.meta_path),
    )

before, names = state(), dict(registered)
import keras_sam
new = {name.split(">")[0] for name in set(registered) - set(names)}
assert new == {"keras_sam"}, new
assert state() == before
import keras_sam.addons
new = {name.split(">")[0] for name in set(registered) - set(names)}
assert new == {"keras_sam", "Addons"}, new
assert all(registered[name] is thing for name, thing in names.items())
environment, modules, *rest = state()
assert (environment, *rest) == (before[0], *before[2:])
assert all(name.startswith("keras_sam.addons") for name in modules - before[1]), modules
"""


def test_importing_registers_names_and_changes_nothing_else():
    """And takes no name from a class that one has written oneself."""
    subprocess.run([sys.executable, "-c", IMPORT], check=True, cwd=ROOT)


def test_only_the_extra_installs_tensorflow_addons():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = dict(config["options.extras_require"])
    assert "tensorflow-addons" in extras.pop("addons")
    for requirements in (config["options"]["install_requires"], *extras.values()):
        assert "addons" not in requirements
        assert "tf-keras" not in requirements


@pytest.fixture
def python311(monkeypatch):
    """Pretends to be Python 3.11, where nothing has imported the real package."""
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    monkeypatch.delitem(sys.modules, "tensorflow_addons", raising=False)


def test_the_real_package_cannot_be_installed(python311, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    message = r"cannot be installed on Python 3\.12.*do not need it"
    with pytest.raises(ImportError, match=message):
        addons.import_tfa()


def test_the_real_package_is_not_installed(python311, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"is not installed.*keras-sam\[addons\]"):
        addons.import_tfa()


def test_the_process_is_one_of_keras_3(python311, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    message = r'(?s)begin the program with.*os.environ\["TF_USE_LEGACY_KERAS"\] = "1"'
    with pytest.raises(ImportError, match=message):
        addons.import_tfa()
