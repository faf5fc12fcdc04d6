"""`python -m keras_sam.darknet`."""

import os
import pathlib
import re
import runpy
import sys

import keras
import numpy as np
import pytest
from fresh_process import run_python

from keras_sam import darknet
from keras_sam.darknet.__main__ import main

pytestmark = pytest.mark.tensorflow

FOLDER = pathlib.Path(__file__).parent / "data" / "darknet" / "sam_minimal"
PARTIAL = FOLDER.parent / "partial"
CFG, WEIGHTS = str(FOLDER / "model.cfg"), str(FOLDER / "model.weights")


V1 = str(FOLDER.parent / "yolov1_connected_local_detection" / "model.cfg")
YOLO = str(FOLDER.parent / "yolo_two_heads" / "model.cfg")
YOLO_WEIGHTS = YOLO.replace("model.cfg", "model.weights")


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


def test_without_keras(tmp_path):
    """Help and summaries come at once: a process that imports Keras takes seconds."""
    script = """
import atexit, runpy, sys
sys.argv = ["-m", *{arguments}]
sys.orig_argv = [sys.executable, "-m", "keras_sam.darknet", *{arguments}]
heavy = {{"keras", "tensorflow", "jax", "torch", "PIL"}}
atexit.register(lambda: print("heavy:", sorted(heavy & {{*sys.modules}})))
runpy.run_module("keras_sam.darknet", run_name="__main__", alter_sys=True)
"""
    for arguments, words in (
        (["--help"], "detect"),
        (["detect", "--help"], "--letterbox"),
        (["summary", CFG], "320 weights"),
    ):
        printed = run_python("-c", script.format(arguments=arguments), cwd=tmp_path)
        assert words in printed
        assert printed.rstrip().endswith("heavy: []")
    assert "320 weights" in run_python(
        "-m", "keras_sam.darknet", "summary", CFG, cwd=tmp_path
    )


@pytest.mark.parametrize(
    ("shape", "words"),
    [("32x48", "32 x 48 x 3"), ("?,?", "? x ? x 3"), ("8x9x3", "8 x 9 x 3")],
)
def test_input_shape(shape, words, capsys):
    assert main(["summary", CFG, "--input-shape", shape]) == 0
    assert words in capsys.readouterr().out


def test_convert_in_part(tmp_path, capsys):
    arguments = [str(PARTIAL / "full.cfg"), str(PARTIAL / "cut.conv.5")]
    output = str(tmp_path / "model.keras")
    assert main(["convert", *arguments, output]) == 2
    assert "`partial=True` (--partial)" in capsys.readouterr().err
    assert main(["convert", *arguments, output, "--partial"]) == 0
    assert "1,258 of 2,518 weights read" in capsys.readouterr().out
    arguments[1] = str(PARTIAL / "full.weights")
    assert main(["convert", *arguments, output, "--cutoff=1", "--input-shape=64x64"]) == 0
    assert "186 of 2,518 weights read" in capsys.readouterr().out
    assert keras.saving.load_model(output).input_shape == (None, 64, 64, 3)


# A head that finds one object in the cell of a bright pixel: no weight is random.
FINDER = """
[net]
height=8
width=8
channels=3
[conv]
filters=7
activation=logistic
[sam]
from=-1
[conv]
filters=7
activation=linear
[yolo]
classes=2
anchors=2,4
"""


def finder_weights():
    """Returns bytes that make classes of red and objects of red or blue."""
    arrays = {
        "biases 0": np.full(7, -4),
        "kernel 0": np.diag([8.0, 8, 8])[:, [0, 1, 2]].repeat([3, 2, 2], axis=0),
        "biases 1": [0, 0, 0, 0, -4, -4, -4],
        "kernel 1": np.zeros((7, 7)),
    }
    arrays["kernel 1"][4:, 0] = 9, -9, 9  # objectness, the classes
    parts = [np.asarray(array, "<f4").tobytes() for array in arrays.values()]
    return darknet.Header().to_bytes() + b"".join(parts)


@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize("anywhere", [False, True])
def test_detect(tmp_path, capsys, monkeypatch, letterbox, anywhere):
    """The object is found, named and drawn, and the gate is bright where it is."""
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    pathlib.Path("finder.cfg").write_text(FINDER)
    pathlib.Path("finder.weights").write_bytes(finder_weights())
    pathlib.Path("pets.names").write_text("cat\ndog\n")
    pixels = np.zeros((8, 16, 3), "uint8")
    pixels[4, 8:10] = pixels[5, 8:10] = 255
    image.fromarray(pixels.repeat(10, axis=0).repeat(10, axis=1)).save("picture.png")
    arguments = ["detect", "finder.cfg", "finder.weights", "picture.png"]
    arguments += ["--names", "pets.names", "--threshold", "0.3"]
    arguments += ["--letterbox"] * letterbox + ["--input-shape=?x?"] * anywhere
    assert main(arguments) == 0
    *found, count, wrote = capsys.readouterr().out.splitlines()
    assert wrote == "wrote picture.detected.png"
    assert count == f"{len(found)} objects"
    assert found
    for line in found:
        assert line.startswith("dog: 0.")
        left, top, right, bottom = map(float, line.rpartition(": ")[2].split(","))
        assert 75 <= (left + right) / 2 <= 105
        assert 35 <= (top + bottom) / 2 <= 65
    with image.open("picture.detected.png") as file:
        drawn = np.asarray(file)
    assert drawn.shape[0] >= 240
    picture, gate = drawn[16:, :480], drawn[16:, 488:]
    assert picture.shape == gate.shape == (240, 480, 3)
    bright = np.argwhere(gate[..., 0] == 255)
    assert 120 <= bright[:, 0].mean() <= 180
    assert 230 <= bright[:, 1].mean() <= 300
    colored = (picture.max(axis=-1).astype(int) - picture.min(axis=-1)) > 50
    assert colored.any()
    assert {path.name for path in tmp_path.iterdir()} == {
        *("finder.cfg", "finder.weights", "pets.names", "picture.png"),
        "picture.detected.png",
    }


def test_detect_at_a_size_that_does_not_fit(tmp_path, capsys):
    """A network for any size takes the picture's own, which its stride must divide."""
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (24, 20)).save(tmp_path / "picture.png")
    arguments = [YOLO, YOLO_WEIGHTS, str(tmp_path / "picture.png"), "--input-shape=?x?"]
    assert main(["detect", *arguments]) == 2
    assert "the input is 20 x 24, but this network needs" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


@pytest.mark.parametrize("shape", [(1, 900, 3), (900, 1, 3), (9, 9, 1), (2, 2, 7)])
def test_drawing_what_is_not_finite(shape, tmp_path):
    """Damaged weights make NaN: boxes and gates are drawn as far as they have numbers."""
    image = pytest.importorskip("PIL.Image")
    from keras_sam.darknet import drawing

    found = [drawing.FoundObject("k\u00e4fer \u65e5", 3, 0.5, (np.nan, -1, 2, np.inf))]
    gates = {"a": np.full((3, 3), np.nan), "b": np.diag([1, np.inf]), "c": np.eye(2)}
    path = tmp_path / "drawn.png"
    drawing.draw(path, np.full(shape, 0.5), found, gates, (32, 64), letterbox=True)
    with image.open(path) as drawn:
        pixels = np.asarray(drawn)[drawing._CAPTION :]
    width = (pixels.shape[1] + drawing._GAP) // 4  # of one of four panels and its gap
    nothing, most = pixels[:, width:], pixels[:, 2 * width :]
    assert (nothing[:, : width - drawing._GAP] == 0).all()
    assert most[0, 0].min() >= most[0, width - drawing._GAP - 1].max()


def test_detect_with_the_first_yolo(tmp_path, capsys):
    """Its weights are random: what is printed is what `decode` finds."""
    image = pytest.importorskip("PIL.Image")
    folder = FOLDER.parent / "yolov1_connected_local_detection"
    with np.load(folder / "vectors.npz") as arrays:
        pixels = (arrays["input"].transpose(1, 2, 0) * 255).astype("uint8")
    image.fromarray(pixels).save(tmp_path / "picture.png")
    files = str(folder / "model.cfg"), str(folder / "model.weights")
    output = str(tmp_path / "found.png")
    arguments = [*files, str(tmp_path / "picture.png"), "--output", output]
    assert main(["detect", *arguments, "--threshold=0"]) == 0
    *found, count, _ = capsys.readouterr().out.splitlines()
    model = darknet.load_model(*files)
    outputs = model(darknet.load_image(pixels, model), training=False)
    expected = darknet.decode(outputs, model, 0.0, max_detections=1000)
    scores = [float(line.split()[2]) for line in found]
    assert count == f"{len(found)} objects"
    known = np.asarray(expected.scores[0])
    np.testing.assert_allclose(scores, known[known > 0], atol=1e-3)
    with image.open(output) as drawn:
        assert min(drawn.size) >= 240


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
        (["summary", CFG, "--input-shape", "big"], "`--input-shape` must be"),
        (["detect", CFG, WEIGHTS, "a.png"], "finds no objects"),
        (["detect", YOLO, WEIGHTS, "a.png"], "no such picture"),
        (["detect", V1, WEIGHTS, "a.png", "--letterbox"], "`--letterbox` must not be"),
        (["detect", YOLO, WEIGHTS, "a.png", "--output", "a.jpg"], r"must end in \.png"),
        (["detect", YOLO, WEIGHTS, "a.png", "--nms=2"], "`--nms` must be from 0 to 1"),
        (["detect", YOLO, WEIGHTS, "a.png", "--names=a.names"], "no such file of names"),
        (["detect", YOLO, YOLO_WEIGHTS, "taken/thesis.tex"], "is no picture"),
        (["detect", YOLO, WEIGHTS, "taken/thesis.tex"], "the file is too short"),
        (["detect", YOLO, WEIGHTS, CFG, "--output=no/a.png"], "no directory .*no to write"),
        (
            ["convert", CFG, WEIGHTS, "a.keras", "--cutoff=-1"],
            "`cutoff` must be at least 0",
        ),
        (["summary", CFG, "--input-shape", "0x8"], "`--input-shape` must be"),
        (["detect", YOLO, WEIGHTS, "a.png", "--names=taken/thesis.tex"], "holds 1 names"),
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
