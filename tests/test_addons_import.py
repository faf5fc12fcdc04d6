"""What importing keras_sam.addons does to a process, and what it does not."""

import configparser
import pathlib
import subprocess
import sys

import pytest

from keras_sam import addons

ROOT = pathlib.Path(__file__).parents[1]

IMPORT = """
import os, sys
import keras
registered = keras.saving.get_custom_objects()
environment, modules, names = dict(os.environ), set(sys.modules), set(registered)
policy, backend = keras.config.dtype_policy().name, keras.config.backend()
import keras_sam.addons
assert dict(os.environ) == environment
assert (keras.config.dtype_policy().name, keras.config.backend()) == (policy, backend)
new = set(sys.modules) - modules
assert not [name for name in new if name.startswith(("tensorflow_addons", "tf_keras"))]
assert "keras.src.engine" not in sys.modules
new = {name.split(">")[0] for name in set(registered) - names}
assert new == {"Addons", "keras_sam"}, new
"""


def test_importing_registers_names_and_changes_nothing_else():
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
