"""examples/darknet_sam.py runs, in a small setting."""

import pathlib
import runpy

import pytest

pytestmark = pytest.mark.tensorflow


def test_darknet_sam(tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    pytest.importorskip("tensorboard")
    path = pathlib.Path(__file__).parents[1] / "examples" / "darknet_sam.py"
    example = runpy.run_path(str(path))
    results = example["main"](["--quick", "--seeds=2", f"--output={tmp_path}"])
    assert "give the same outputs: True" in capsys.readouterr().out
    assert len(results["mean IoU"]) == 2
    assert results["mean IoU"][0] != results["mean IoU"][1]
    assert {file.name for file in tmp_path.iterdir()} == {
        *("attention", "attention.png", "model.cfg", "model.weights")
    }
