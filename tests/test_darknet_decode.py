"""From the outputs of [yolo] layers to boxes."""

import numpy as np
import pytest

from keras_sam import darknet
from keras_sam.darknet.decode import predictions

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
    with pytest.raises(darknet.DarknetError, match=r"no \[yolo\]"):
        darknet.decode(outputs, HEADS.replace("[yolo]", "[dropout]"))


def overlap(box, other):
    """Intersection over union of two boxes: top, left, bottom, right."""
    height = min(box[2], other[2]) - max(box[0], other[0])
    width = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(height, 0) * max(width, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return shared / (sum(areas) - shared)


def suppress(boxes, scores, score_threshold, iou_threshold):
    """Keeps, class by class, what no better box overlaps: (score, class, box)."""
    kept = []
    for number, column in enumerate(scores.T):
        own = []
        for index in np.argsort(-column, kind="stable"):
            if column[index] > score_threshold and all(
                overlap(boxes[index], box) <= iou_threshold for _, _, box in own
            ):
                own.append((column[index], number, boxes[index]))
        kept += own
    return sorted(kept, key=lambda detection: -detection[0])


@pytest.mark.parametrize("thresholds", [(0.25, 0.45), (0.1, 0.0), (0.05, 0.8)])
def test_suppression(thresholds):
    """Boxes overlap much here: which stay is decided by loops."""
    rng = np.random.default_rng(3)
    outputs = [
        rng.uniform(size=(3, rows, columns, 14)).astype("float32")
        for rows, columns in ((2, 4), (4, 8))
    ]
    boxes, scores = predictions(outputs, HEADS)
    found = darknet.decode(outputs, HEADS, *thresholds, max_detections=160)
    for picture in range(3):
        expected = suppress(boxes[picture].numpy(), scores[picture].numpy(), *thresholds)
        count = len(expected)
        assert 3 < count < 160
        np.testing.assert_allclose(
            found.scores[picture, :count], [score for score, _, _ in expected]
        )
        assert found.classes[picture, :count].numpy().tolist() == [
            number for _, number, _ in expected
        ]
        np.testing.assert_allclose(
            found.boxes[picture, :count], [box for _, _, box in expected]
        )
        assert (found.classes[picture, count:].numpy() == -1).all()
        assert (found.scores[picture, count:].numpy() == 0).all()


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
