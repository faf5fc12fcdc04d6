"""What docs/migrating_from_addons.md says is what the code says."""

import pathlib
import re

import pytest

pytestmark = pytest.mark.tensorflow

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "migrating_from_addons.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.M)


def test_what_to_begin_with_is_what_the_error_says():
    from keras_sam.addons.original import PREPARE

    lines = [line.strip() for line in PREPARE.strip().splitlines()]
    assert any(block.splitlines() == lines for block in BLOCKS)
