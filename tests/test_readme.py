"""Every Python block of README.md runs as it stands, in a process of its own."""

import pathlib
import re

import pytest
from fresh_process import run_python

pytestmark = pytest.mark.tensorflow

README = pathlib.Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = BLOCK.findall(README.read_text("utf-8"))


def test_readme_has_python_blocks():
    assert BLOCKS


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_readme_block(block, tmp_path):
    run_python("-c", block, cwd=tmp_path)
