"""What is checked before Keras is imported, which takes seconds."""

import importlib.util
import json
import os
import pathlib
import sys


def runs(module):
    """Returns whether Python is about to run `python -m module`.

    `python -m keras_sam.darknet` imports `keras_sam` first, to find the module in it.
    While it does, `sys.argv[0]` is `"-m"`.
    """
    if sys.argv[:1] != ["-m"]:
        return False
    return not {module, f"-m{module}"}.isdisjoint(sys.orig_argv)


def check_backend():
    """Raises an `ImportError` if Keras's backend is TensorFlow and it is not installed."""
    if importlib.util.find_spec("tensorflow") or _backend() != "tensorflow":
        return
    raise ImportError(
        "Keras's backend is TensorFlow, which is not installed. Install it with "
        '`pip install "keras-sam[tensorflow]"`, or choose another backend that is '
        "installed with the environment variable KERAS_BACKEND, jax or torch."
    )


def _backend():
    """Returns the backend that Keras is going to choose, as it does."""
    if "KERAS_BACKEND" in os.environ:
        return os.environ["KERAS_BACKEND"]
    home = os.environ.get("KERAS_HOME", os.path.expanduser("~/.keras"))
    try:
        return json.loads(pathlib.Path(home, "keras.json").read_text())["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow"
