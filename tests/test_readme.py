"""Every Python block of README.md runs as it stands, in a folder of its own."""

import pathlib
import re

import pytest
from fresh_process import run_python

pytestmark = pytest.mark.tensorflow

README = pathlib.Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = BLOCK.findall(README.read_text("utf-8"))


RUN = """
import pathlib, runpy, tempfile, os
for path in sorted(pathlib.Path().glob("block_*.py")):
    script = path.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        runpy.run_path(str(script), run_name="__main__")
        os.chdir(script.parent)
    print("ran", path.name)
"""


def test_readme_has_python_blocks():
    assert BLOCKS


def test_readme_blocks(tmp_path):
    """One after the other, each with nothing but the names that it defines itself."""
    names = [f"block_{number:02}.py" for number in range(len(BLOCKS))]
    for name, block in zip(names, BLOCKS, strict=True):
        (tmp_path / name).write_text(block, "utf-8")
    printed = run_python("-c", RUN, cwd=tmp_path)
    for name in names:
        assert f"ran {name}\n" in printed
