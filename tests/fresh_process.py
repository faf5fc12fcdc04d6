"""Running Python in a process of its own, as a user would."""

import os
import pathlib
import subprocess
import sys

import keras_sam

# Where the package under test is, a checkout or an installed one.
_IMPORT_ROOT = pathlib.Path(keras_sam.__file__).parents[1]


def run_python(*arguments, cwd, backend="tensorflow"):
    """Runs Python with the arguments and returns what it printed.

    It must end well and without a warning of Keras or of this library.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(_IMPORT_ROOT),
        "PYTHONIOENCODING": "utf-8",
        "KERAS_BACKEND": backend,
    }
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "UserWarning" not in done.stderr, done.stderr[-3000:]
    return done.stdout
