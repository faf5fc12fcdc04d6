"""Runs `real_addons.py`, whose tests need the real TensorFlow Addons.

It runs on Keras 2, which is chosen for a whole process, so the tests get one of their own.
"""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent

RUN = """
import sys
import make_addons_data, pytest
make_addons_data.prepare()
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.tensorflow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_addons") is None,
    reason='tensorflow-addons is not installed (Python 3.11: pip install -e ".[addons]")',
)
def test_with_the_real_package():
    tests = str(HERE / "real_addons.py")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short"]
    # TensorFlow Addons has imported typeguard, which is a plugin of pytest as well.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *options, tests],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
