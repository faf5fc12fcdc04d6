"""From the outputs of [yolo] layers to boxes."""

from importlib.util import find_spec

import numpy as np
import pytest
from fresh_process import run_python

from keras_sam import darknet

pytestmark = pytest.mark.tensorflow

HEADS = """
[net]
height=32
width=64
channels=3
[conv]
stride=16
filters=14
activation=linear
[yolo]
mask=1,0
num=2
classes=2
anchors=8,16, 32,4
scale_x_y=1.1
[route]
layers=0
[upsample]
[yolo]
num=2
classes=2
anchors=8,16, 32,4
new_coords=1
"""


def test_decode():
    """Boxes and scores by hand, from Darknet's formula, cell by cell."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(size=(2, 2, 4, 14)).astype("float32")
    fine = rng.uniform(size=(2, 4, 8, 14)).astype("float32")
    expected = []
    for output, anchors, new in (
        (coarse, [(32, 4), (8, 16)], False),
        (fine, [(8, 16), (32, 4)], True),
    ):
        _, rows, columns, _ = output.shape
        for j in range(rows):
            for i in range(columns):
                for n, (anchor_w, anchor_h) in enumerate(anchors):
                    x, y, w, h, objectness, *classes = output[0, j, i, 7 * n : 7 * n + 7]
                    bw, bh = (w**2 * 4, h**2 * 4) if new else (np.exp(w), np.exp(h))
                    bx, by = (i + x) / columns, (j + y) / rows
                    bw, bh = bw * anchor_w / 64, bh * anchor_h / 32
                    box = by - bh / 2, bx - bw / 2, by + bh / 2, bx + bw / 2
                    expected.append((box, objectness * np.array(classes)))
    model = darknet.build_model(HEADS)
    scores = np.array([score for _, score in expected])
    # No box suppresses another at an overlap of one; every score is there, sorted.
    found = darknet.decode([coarse, fine], model, 0.0, 1.0, max_detections=200)
    assert (found.classes[0] >= 0).numpy().sum() == scores.size == 160
    np.testing.assert_allclose(found.scores[0, :160], np.sort(scores.ravel())[::-1])
    order = np.argsort(-scores.ravel(), kind="stable")[:20]
    for place, entry in enumerate(order):
        box, number = expected[entry // 2][0], entry % 2
        np.testing.assert_allclose(found.boxes[0, place], box, rtol=1e-5, atol=1e-6)
        assert found.classes[0, place] == number
    best = darknet.decode([coarse, fine], HEADS, 0.5, 0.3, max_detections=9)
    np.testing.assert_array_equal(best.scores[:, 0], found.scores[:, 0])
    kept = best.scores[0].numpy()
    assert (kept[kept > 0] > 0.5).all()
    assert ((best.classes[0].numpy() == -1) == (kept == 0)).all()


def test_decode_mistakes():
    model = darknet.build_model(HEADS, input_shape=(None, None, 3))
    outputs = [np.zeros((1, 2, 4, 14)), np.zeros((1, 4, 8, 14))]
    assert darknet.decode(outputs, model, input_size=(32, 64)).boxes.shape[-1] == 4
    for bad, options in (
        (outputs, {}),
        (outputs[:1], {"input_size": (32, 64)}),
        ([np.zeros((1, 2, 4, 13))] * 2, {"input_size": (32, 64)}),
        (outputs, {"input_size": (32, 64), "max_detections": 0}),
    ):
        with pytest.raises(ValueError, match=r"input_size|outputs|max_detections"):
            darknet.decode(bad, model, **options)
    sized = {"input_size": (32, 64)}
    for name, values in {
        "input_size": [(32,), 5, "ab", (0, 64), (32.5, 64), (None, 64)],
        "image_size": [(9,), "ab", (0, 9), [(9, 9)] * 3, [(9, 9), None], (9.0, 9.0)],
        "letterbox": [1, "no"],
        "score_threshold": [None, "a", float("nan"), [0.5]],
        "iou_threshold": [None, "a", float("nan"), [0.5]],
    }.items():
        for value in values:
            with pytest.raises(ValueError, match=f"`{name}` must be"):
                darknet.decode(outputs, model, **(sized | {name: value}))
    with pytest.raises(ValueError, match=r"`outputs` must be .*batch.*\(2, 4, 14\)"):
        darknet.decode([output[0] for output in outputs], model, **sized)
    with pytest.raises(darknet.DarknetError, match=r"no \[yolo\]"):
        darknet.decode(outputs, HEADS.replace("[yolo]", "[dropout]"))


def test_in_a_compiled_function():
    tf = pytest.importorskip("tensorflow")
    model = darknet.build_model(HEADS, input_shape=(None, None, 3))
    x = np.random.default_rng(0).uniform(size=(2, 32, 64, 3)).astype("float32")

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))])
    def detect(pictures):
        return darknet.decode(model(pictures), model, 0.0, input_size=(32, 64))

    expected = darknet.decode(model(x), model, 0.0, input_size=(32, 64))
    for compiled, eager in zip(detect(x), expected, strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_models_of_other_backends(backend, tmp_path):
    """Their outputs, which may ask for gradients, are decoded as arrays are."""
    if find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    script = f"""
import keras, numpy
from keras_sam import darknet
model = darknet.build_model({HEADS!r})
outputs = model(numpy.full((2, 32, 64, 3), 0.5, "float32"), training=True)
arrays = [keras.ops.convert_to_numpy(output) for output in outputs]
options = {{"score_threshold": 0.0, "image_size": (50, 90), "letterbox": True}}
for found, same in zip(*(darknet.decode(o, model, **options) for o in (outputs, arrays))):
    numpy.testing.assert_array_equal(found, same)
print("decoded", found.shape)
"""
    assert "decoded (2, 100)" in run_python("-c", script, cwd=tmp_path, backend=backend)
