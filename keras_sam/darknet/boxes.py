"""From what a head outputs to boxes and scores, before suppression.

Boxes are (x, y, width, height), centres first, as shares of the network's input.
"""

import typing

from keras import ops

from keras_sam._validation import invalid
from keras_sam.darknet import specs


class Candidates(typing.NamedTuple):
    """All boxes of some heads.

    Args:
        boxes: `(B, N, 4)`: x, y, width, height.
        objectness: `(B, N)`, which must be above the threshold, too; infinite where
            Darknet does not look at it.
        scores: `(B, N, classes)`.
    """

    boxes: typing.Any
    objectness: typing.Any
    scores: typing.Any


def candidates(tensor, spec, size):
    """Returns the `Candidates` of one head.

    Args:
        tensor: The output of the head.
        spec: The head.
        size: (height, width) of the network's input, in which anchors are measured.
    """
    tensor = ops.convert_to_tensor(tensor)
    channels, is_vector = spec.shape[2], isinstance(spec, specs.Detection)
    if tensor.shape[-1:] != (channels,) or not (is_vector or len(tensor.shape) == 4):
        expected = f"of the shape (batch, height, width, {channels}) for {spec.name}"
        raise invalid("outputs", expected, tuple(tensor.shape))
    tensor = ops.cast(tensor, "float32")
    return _DECODERS[type(spec)](tensor, spec, size)


def _yolo(tensor, spec, size):
    """Decodes `[yolo]`.

    ```
    x = (column + x) / columns               score = objectness * class
    w = exp(w) * anchor / input width        (w²·4 * anchor / input width: new_coords)
    ```
    """
    entries, row, column, rows, columns = _grid(tensor, spec, spec.classes + 5)
    x, y = (column + entries[..., 0]) / columns, (row + entries[..., 1]) / rows
    w, h = entries[..., 2], entries[..., 3]
    w, h = (4 * w * w, 4 * h * h) if spec.new_coords else (ops.exp(w), ops.exp(h))
    w, h = _times_anchors(w, h, spec, size)
    return _flat((x, y, w, h), entries[..., 4], entries[..., 4:5] * entries[..., 5:])


def _gaussian_yolo(tensor, spec, size):
    """Decodes boxes as `[yolo]`; `score = objectness * class * (1 - mean sigma)`."""
    entries, row, column, rows, columns = _grid(tensor, spec, spec.classes + 9)
    x, y = (column + entries[..., 0]) / columns, (row + entries[..., 2]) / rows
    w, h = ops.exp(entries[..., 4]), ops.exp(entries[..., 6])
    w, h = _times_anchors(w, h, spec, size)
    side = {"center": 0, "left_top": 0.5, "right_bottom": -0.5}[spec.point]
    x, y = x + side * w, y + side * h
    sure = 1 - ops.mean(entries[..., 1:8:2], axis=-1, keepdims=True)
    scores = entries[..., 8:9] * entries[..., 9:] * sure
    return _flat((x, y, w, h), entries[..., 8], scores)


def _region(tensor, spec, size):
    """Decodes `x = (column + sigmoid(x)) / columns`, `w = exp(w) * anchor / columns`."""
    entries, row, column, rows, columns = _grid(tensor, spec, spec.classes + 5)
    x = (column + ops.sigmoid(entries[..., 0])) / columns
    y = (row + ops.sigmoid(entries[..., 1])) / rows
    w, h = ops.exp(entries[..., 2]), ops.exp(entries[..., 3])
    w, h = _times_anchors(w, h, spec, (rows, columns))
    objectness = entries[..., 4]
    if spec.drop_unsure:
        objectness = ops.where(objectness < 0.5, 0.0, objectness)
    scores = objectness[..., None] * entries[..., 5:]
    return _flat((x, y, w, h), _never(objectness), scores)


def _detection(tensor, spec, size):
    """Decodes `x = (column + x) / side`, `w = w²` (or w), `score = confidence * class`."""
    side, count, classes = spec.side, spec.boxes, spec.classes
    cells, batch = side * side, ops.shape(tensor)[0]
    vector = ops.reshape(tensor, (batch, cells * (5 * count + classes)))
    scores = ops.reshape(vector[:, : cells * classes], (batch, side, side, 1, classes))
    sure = vector[:, cells * classes : cells * (classes + count)]
    sure = ops.reshape(sure, (batch, side, side, count, 1))
    boxes = ops.reshape(
        vector[:, cells * (classes + count) :], (batch, side, side, count, 4)
    )
    row, column = _positions(side, side)
    x, y = (column + boxes[..., 0]) / side, (row + boxes[..., 1]) / side
    w, h = boxes[..., 2], boxes[..., 3]
    if spec.squared:
        w, h = w * w, h * h
    return _flat((x, y, w, h), _never(sure[..., 0]), sure * scores)


def _grid(tensor, spec, entries):
    """Returns entries `(B, rows, columns, anchors, entries)` and the positions."""
    batch, rows, columns = ops.shape(tensor)[:3]
    shape = (batch, rows, columns, len(spec.anchors), entries)
    rows_columns = ops.cast(rows, "float32"), ops.cast(columns, "float32")
    return ops.reshape(tensor, shape), *_positions(rows, columns), *rows_columns


def _positions(rows, columns):
    row = ops.cast(ops.arange(rows), "float32")[:, None, None]
    column = ops.cast(ops.arange(columns), "float32")[None, :, None]
    return row, column


def _times_anchors(w, h, spec, size):
    """Returns width and height as shares, of anchors measured in `size`."""
    anchor_w, anchor_h = zip(*spec.anchors, strict=True)
    height, width = (ops.cast(length, "float32") for length in size)
    anchor_w = ops.convert_to_tensor(anchor_w, dtype="float32")
    anchor_h = ops.convert_to_tensor(anchor_h, dtype="float32")
    return w * anchor_w / width, h * anchor_h / height


def _never(objectness):
    return ops.full_like(objectness, float("inf"))


def _flat(box, objectness, scores):
    """Makes one axis of rows, columns and anchors."""
    batch, rows, columns, anchors, classes = ops.shape(scores)
    count = rows * columns * anchors
    return Candidates(
        ops.reshape(ops.stack(box, axis=-1), (batch, count, 4)),
        ops.reshape(objectness, (batch, count)),
        ops.reshape(scores, (batch, count, classes)),
    )


_DECODERS = {
    specs.Detection: _detection,
    specs.GaussianYolo: _gaussian_yolo,
    specs.Region: _region,
    specs.Yolo: _yolo,
}
