"""`python -m keras_sam.darknet`."""

import os
import pathlib
import re
import runpy
import sys

import keras
import numpy as np
import pytest

from keras_sam.darknet.__main__ import main

pytestmark = pytest.mark.tensorflow

FOLDER = pathlib.Path(__file__).parent / "data" / "darknet" / "sam_minimal"
CFG, WEIGHTS = str(FOLDER / "model.cfg"), str(FOLDER / "model.weights")


def test_summary(capsys):
    assert main(["summary", CFG]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "layer              reads       output  weights",
        "input                     16 x 16 x 3",
        "000_convolutional  input  16 x 16 x 8      248",
        "001_convolutional  0      16 x 16 x 8       72",
        "002_sam            1, 0   16 x 16 x 8",
        "3 layers, 320 weights",
        "outputs: 002_sam",
    ]


def test_convert(tmp_path, capsys):
    tf = pytest.importorskip("tensorflow")
    output = tmp_path / "model.keras"
    assert main(["convert", CFG, WEIGHTS, str(output), "--saved-model"]) == 0
    printed = capsys.readouterr().out
    assert "3/3" in printed
    assert "320 of 320 weights read" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"model.keras", "model"}
    with np.load(FOLDER / "vectors.npz") as arrays:
        x = arrays["input"].transpose(1, 2, 0)[None]
        expected = arrays["layer_002"].transpose(1, 2, 0)[None]
    model = keras.saving.load_model(output)
    np.testing.assert_allclose(model(x), expected, atol=2e-5)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_allclose(loaded.serve(x), expected, atol=2e-5)
    # A SavedModel is replaced by the next one, and needs no .keras file beside it.
    assert main(["convert", CFG, WEIGHTS, str(tmp_path / "model"), "--saved-model"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["summary", "missing.cfg"], "no such file"),
        (["convert", CFG, "missing.weights", "a.keras"], "no such weight file"),
        (["convert", CFG, CFG, "a.keras"], "no weight file of Darknet's"),
        (["convert", CFG, WEIGHTS, "a.h5"], r"must end in \.keras"),
        (["convert", CFG, WEIGHTS, "no/where/a.keras"], "no directory .*no/where to"),
        (["convert", CFG, WEIGHTS, "."], r"must end in \.keras"),
        (["convert", CFG, WEIGHTS, "taken/.keras"], "is a directory"),
        (["convert", CFG, WEIGHTS, "taken", "--saved-model"], "no SavedModel"),
    ],
)
def test_mistakes(arguments, message, tmp_path, monkeypatch, capsys):
    """One line, exit status 2, and nothing written."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("taken", ".keras").mkdir(parents=True)
    pathlib.Path("taken", "thesis.tex").write_text("precious")
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    assert re.search(message, printed.err)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_failure_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    output = tmp_path / "model.keras"
    output.write_text("old")

    def fail(self, path, **kwargs):
        pathlib.Path(path).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(keras.Model, "save", fail)
    assert main(["convert", CFG, WEIGHTS, str(output)]) == 2
    assert output.read_text() == "old"
    assert [*tmp_path.iterdir()] == [output]


def test_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["darknet", "summary", os.devnull])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(sys.modules[main.__module__].__file__, run_name="__main__")
    assert capsys.readouterr().err.startswith("error: ")
