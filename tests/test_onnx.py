"""Every layer, score and normalizer as ONNX Runtime and OpenVINO run it."""

import os

import keras
import numpy as np
import pytest
import runtimes
from common import assert_rounded_alike, numpy, random, randomize, refused

import keras_sam
from keras_sam import SelfAttention
from keras_sam.backend.portable import is_portable, target

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")
pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:.*np.object:FutureWarning"),
]


@pytest.mark.parametrize("group", runtimes.GROUPS)
def test_table(group):
    found, reasons = runtimes.verdicts(runtimes.Onnx, group)
    table = runtimes.committed()
    assert found == {row: table[row][runtimes.Onnx.title] for row in found}, reasons


# In a process of its own for each group it would cost minutes; some of its failures do.
@pytest.mark.skipif(
    not (os.environ.get("TEST_OPENVINO") and runtimes.is_there(runtimes.OpenVino)),
    reason="only where it is installed and TEST_OPENVINO asks for it",
)
@pytest.mark.parametrize("group", runtimes.GROUPS)
def test_table_of_openvino(group):
    found, reasons = runtimes.verdicts(runtimes.OpenVino, group)
    table = runtimes.committed()
    assert found == {row: table[row][runtimes.OpenVino.title] for row in found}, reasons


def words_and_model():
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(11, 8, mask_zero=True),
            SelfAttention(2, score="additive", normalizer="entmax"),
            keras_sam.SelectiveAttention(),
        ]
    )
    words = np.random.default_rng(0).integers(0, 11, (3, 7)).astype("int32")
    words[:, 0] = 1
    return words, randomize(model)


@pytest.mark.parametrize("plainly", [False, True], ids=["export_onnx", "model.export"])
def test_an_embedding_with_a_mask(plainly, tmp_path):
    words, model = words_and_model()
    expected, path = numpy(model(words)), tmp_path / "model.onnx"
    if plainly:
        model.export(str(path), format="onnx", verbose=False)
    else:
        keras_sam.export_onnx(model, path)
    assert_rounded_alike(runtimes.Onnx(path)([words])[0], expected)


def test_no_loop_returns_an_input_unchanged(tmp_path):
    """OpenVINO refuses such a loop, and is not installed everywhere."""
    import onnx

    attend = SelfAttention(2, normalizer="sparsemax")
    model = keras.Sequential([keras.Input((5, 8)), attend])
    keras_sam.export_onnx(model, tmp_path / "model.onnx")
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    bodies = [node.attribute[0].g for node in nodes if node.op_type == "Loop"]
    assert bodies
    for body in bodies:
        passed = {given.name for given in body.input} & {made.name for made in body.output}
        assert not passed


@pytest.mark.parametrize("garbage", [np.nan, np.inf])
def test_padding_never_leaks(garbage, tmp_path):
    inputs, mask = keras.Input((None, 8)), keras.Input((None,), dtype="bool")
    model = keras.Model([inputs, mask], SelfAttention(2)(inputs, mask=mask))
    keras_sam.export_onnx(model, tmp_path / "model.onnx")
    run = runtimes.Onnx(tmp_path / "model.onnx")
    array, kept = random(3, 6, 8), np.arange(6) < np.array([[6], [4], [1]])
    filled = np.where(kept[..., None], array, np.float32(garbage))
    np.testing.assert_array_equal(run([filled, kept])[0], run([array, kept])[0])


def test_only_exports_are_portable():
    found = []

    class Asks(keras.layers.Layer):
        def call(self, inputs):
            found.append((is_portable(), target()))
            return inputs

    model = keras.Sequential([keras.Input((3,)), Asks()])
    model.predict(np.ones((2, 3)), verbose=0)
    assert set(found) == {(False, None)}


REFUSED = {
    "no model": (lambda: keras.layers.Dense(3), "model.onnx", "`model` must be a built"),
    "not built": (keras.Sequential, "model.onnx", "`model` must be a built"),
    "another name": (
        lambda: keras.Sequential([keras.Input((3, 8)), SelfAttention(2)]),
        "model.pb",
        "`filepath` must end in .onnx",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    make, file, message = REFUSED[name]
    with refused(message):
        keras_sam.export_onnx(make(), tmp_path / file)
    assert not list(tmp_path.iterdir())
