"""The snippets of docs/migrating_from_addons.md run, one after the other."""

import pathlib
import re
import shutil

import pytest
from fresh_process import run_python

pytestmark = pytest.mark.tensorflow

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parent / "docs" / "migrating_from_addons.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.M)

# What a reader has already: a file, tensors, and a mask.
BEFORE = """
import numpy as np
query, key, value = np.ones((2, 3, 8)), np.ones((2, 5, 8)), np.ones((2, 5, 8))
mask = np.ones((2, 3, 5), bool)
"""
CHECKS = """
assert output.shape == (2, 3, 8)
assert weights.shape == (2, 8, 3, 5)
assert model.get_layer("attention").num_heads == 2
"""


def test_what_to_write_after_runs(tmp_path):
    shutil.copy(HERE / "data" / "addons" / "functional.h5", tmp_path / "legacy.h5")
    after = [block for block in BLOCKS if "keras_sam." in block]
    assert len(after) == 2
    run_python("-c", "".join([BEFORE, *after, CHECKS]), cwd=tmp_path)
    assert (tmp_path / "model.keras").exists()


def test_what_to_begin_with_is_what_the_error_says():
    from keras_sam.addons.original import PREPARE

    lines = [line.strip() for line in PREPARE.strip().splitlines()]
    assert any(block.splitlines() == lines for block in BLOCKS)
