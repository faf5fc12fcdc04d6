"""Every layer, score and normalizer as LiteRT runs it, without Flex operations."""

import keras
import numpy as np
import pytest
import runtimes
from common import assert_rounded_alike, numpy, randomize

import keras_sam
from keras_sam import SelectiveAttention, SelfAttention

pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("group", runtimes.GROUPS)
def test_table(group):
    found, reasons = runtimes.verdicts(runtimes.LiteRt, group)
    table = runtimes.committed()
    assert found == {row: table[row][runtimes.LiteRt.title] for row in found}, reasons


@pytest.mark.parametrize("unknown", [False, True], ids=["fixed", "open"])
def test_an_embedding_with_a_mask(unknown, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((None if unknown else 7,), dtype="int32"),
            keras.layers.Embedding(11, 8, mask_zero=True),
            SelfAttention(2),
            SelectiveAttention(),
        ]
    )
    words = np.random.default_rng(0).integers(0, 11, (3, 7)).astype("int32")
    words[:, 0] = 1
    path = tmp_path / "model.tflite"
    shape = model.inputs[0].shape
    signature = [keras.InputSpec(shape=shape, dtype="int32", name="x0")]
    keras_sam.export_litert(randomize(model), path, signature)
    assert_rounded_alike(runtimes.LiteRt(path)([words])[0], numpy(model(words)))


REFUSED = {
    "no model": (keras.layers.Dense(3), "model.tflite", "`model` must be a built"),
    "not built": (keras.Sequential(), "model.tflite", "`model` must be a built"),
    "another name": (None, "model.onnx", "`filepath` must end in .tflite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    model, file, message = REFUSED[name]
    if model is None:
        model = keras.Sequential([keras.Input((5, 8)), SelfAttention(2)])
    with pytest.raises(ValueError, match=message):
        keras_sam.export_litert(model, tmp_path / file)
    assert not list(tmp_path.iterdir())
