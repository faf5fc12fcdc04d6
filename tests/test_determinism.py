"""The same seed gives the same weights, and deterministic operations the same training."""

import subprocess
import sys

import deterministic
import pytest

pytestmark = pytest.mark.tensorflow


def test_the_same_seed_gives_the_same_weights():
    """All layers, in another process, which trains them twice, deterministically."""
    command = [sys.executable, deterministic.__file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = dict(line.split() for line in done.stdout.splitlines())
    assert printed["initial"] == deterministic.checksum(deterministic.made()[0])
    assert printed["trained"] != printed["initial"]
