"""Every Python block of README.md and of the documentation runs and prints what it says.

The blocks of a page run one after the other, in a folder of their own; those of README.md
each with nothing but the names that it defines itself. That every page is in the menu, all
links lead somewhere and every public name is in the API reference is checked where the site
is built, by `mkdocs build --strict`.
"""

import importlib.util
import json
import pathlib
import re

import pytest
from fresh_process import run_python
from snippets import ROOT, blocks_of

HERE = pathlib.Path(__file__).parent
PAGES = {
    str(path.relative_to(ROOT)): blocks_of(path.read_text("utf-8"))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}

# What the reader of a page has already: a file, tensors, and a mask.
BEFORE = {
    "docs/migrating_from_addons.md": f"""
import shutil
import numpy as np
shutil.copy({str(HERE / "data" / "addons" / "functional.h5")!r}, "legacy.h5")
query, key, value = np.ones((2, 3, 8)), np.ones((2, 5, 8)), np.ones((2, 5, 8))
mask = np.ones((2, 3, 5), bool)
""",
}
# What has to hold after it, where the page prints nothing.
AFTER = {
    "docs/migrating_from_addons.md": """
import os
assert os.path.exists("model.keras")
assert output.shape == (2, 3, 8)
assert weights.shape == (2, 8, 3, 5)
assert model.get_layer("attention").num_heads == 2
""",
}
# What the extra `test` does not bring.
NEEDS = {
    "docs/converting.md": "keras_hub",
    "docs/guides/from_pytorch.md": "torch",
    "docs/guides/images.md": "sklearn",
    "docs/runtimes.md": "tf2onnx",
}
# Pages of tables and texts only, and the reasons why blocks of others are left out.
WITHOUT_CODE = (
    r"docs/(api/.*|guides/index|architecture|performance|robustness"
    r"|benchmarks_.*|.*_records)"
)
LEFT_OUT = {
    "docs/darknet.md": ["the weights are not in the repository"],
    "docs/migrating_from_addons.md": ["needs TensorFlow Addons"] * 3,
    "docs/viewer.md": ["needs BertViz", "needs CircuitsVis"],
}


@pytest.mark.tensorflow
def test_blocks(tmp_path):
    pages = [
        (name, BEFORE.get(name, ""), AFTER.get(name, ""))
        for name, blocks in PAGES.items()
        if blocks and (name not in NEEDS or importlib.util.find_spec(NEEDS[name]))
    ]
    (tmp_path / "pages.json").write_text(json.dumps(pages), "utf-8")
    run_python(HERE / "snippets.py", "pages.json", "problems.json", cwd=tmp_path)
    problems = json.loads((tmp_path / "problems.json").read_text("utf-8"))
    assert list(problems) == [name for name, _, _ in pages]
    assert not any(problems.values()), "\n".join(problems.values())


def test_no_block_is_left_out_or_overlooked():
    """But those that the tables above name."""
    broken = []
    for name, blocks in PAGES.items():
        text = (ROOT / name).read_text("utf-8")
        outputs = [block for block in blocks if block.output is not None]
        reasons = [block.left_out for block in blocks if block.left_out]
        has_code = blocks or re.fullmatch(WITHOUT_CODE, name.removesuffix(".md"))
        if not (
            has_code
            and len(blocks) == len(re.findall(r"^\s*```python", text, re.MULTILINE))
            and len(outputs) == len(re.findall(r"^```text$", text, re.MULTILINE))
            and reasons == LEFT_OUT.get(name, [])
        ):
            broken.append(name)
    assert not broken


def test_wrong_output_and_an_error_are_found(tmp_path):
    """The runner itself: it tells of what is printed otherwise, and of what raises."""
    page = "```python\nprint(1 + 1)\n```\n\n```text\n{}\n```\n"
    cases = {"right": page.format(2), "wrong": page.format(3), "bad": page.format("2 3")}
    cases["raises"] = "```python\n1 / 0\n```\n"
    for name, text in cases.items():
        (tmp_path / f"{name}.md").write_text(text, "utf-8")
    pages = [(str(tmp_path / f"{name}.md"), "", "") for name in cases]
    (tmp_path / "pages.json").write_text(json.dumps(pages), "utf-8")
    run_python(HERE / "snippets.py", "pages.json", "problems.json", cwd=tmp_path)
    right, wrong, bad, raises = json.loads(
        (tmp_path / "problems.json").read_text("utf-8")
    ).values()
    assert right == ""
    assert "wrong.md:1 has to print\n3\nand printed\n2\n" in wrong
    assert "bad.md:1 has to print" in bad
    assert "raises.md" in raises
    assert "ZeroDivisionError" in raises


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs/notebooks").glob("*.ipynb")), ids=lambda p: p.stem
)
def test_notebook_is_its_guide_and_was_run(path):
    """`python docs/notebooks.py` makes it."""
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs/notebooks.py")
    notebooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(notebooks)
    assert path.stem in notebooks.GUIDES
    assert path.stat().st_size < 300_000
    guide = (ROOT / "docs/guides" / f"{path.stem}.md").read_text("utf-8")
    cells = json.loads(path.read_text("utf-8"))["cells"]
    found = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    assert found == notebooks.cells_of(guide)
    printed = [
        "".join(line for output in cell["outputs"] for line in output.get("text", ()))
        for cell in cells
        if cell["cell_type"] == "code"
    ]
    blocks = blocks_of(guide)
    assert len(printed) == len(blocks)
    for block, text in zip(blocks, printed, strict=True):
        assert block.output is None or text.split() == block.output.split()
