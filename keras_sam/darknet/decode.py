"""From the outputs of `[yolo]` layers to boxes."""

import typing

from keras import ops

from keras_sam._validation import invalid, positive_integer
from keras_sam.darknet.errors import DarknetError
from keras_sam.darknet.model import DarknetModel
from keras_sam.darknet.plan import plan_network
from keras_sam.darknet.specs import Yolo


class Detections(typing.NamedTuple):
    """Detected objects, best first, padded to the same number for each picture.

    Args:
        boxes: `(B, N, 4)`: top, left, bottom and right as shares of height and width,
            the order of TensorFlow's own operations (`tf.image.draw_bounding_boxes`).
        scores: `(B, N)`; 0 where there is no object.
        classes: `(B, N)`, int32; -1 where there is no object.
    """

    boxes: typing.Any
    scores: typing.Any
    classes: typing.Any


def decode(
    outputs,
    model_or_cfg,
    score_threshold=0.25,
    iou_threshold=0.45,
    max_detections=100,
    input_size=None,
):
    """Turns the outputs of a model into boxes, without the overlapping ones.

    ```
    x = (column + x) / columns               score = objectness * class
    w = exp(w) * anchor / input width        (w²·4 * anchor / input width: new_coords)
    ```

    Non-maximum suppression is TensorFlow's `tf.image.combined_non_max_suppression`, for
    each class by itself.

    Args:
        outputs: What the model returned: one tensor, or a list for several heads.
        model_or_cfg: The model, or its configuration.
        score_threshold: Only scores above count.
        iou_threshold: Of two boxes of a class that overlap more, the better one stays.
        max_detections: How many boxes a picture may have.
        input_size: (height, width) of the pictures, which anchors are measured in.
            Needed only when the model was built for pictures of any size.

    Returns:
        `Detections`: boxes, scores and classes.

    Example:

    >>> import numpy as np
    >>> from keras_sam import darknet
    >>> cfg = '''
    ... [net]
    ... height=64
    ... width=64
    ... channels=7
    ... [yolo]
    ... anchors=16,32
    ... classes=2
    ... '''
    >>> head = np.zeros((1, 4, 4, 7), "float32")
    >>> head[0, 1, 2, 4:] = 0.9, 0.1, 0.8    # objectness, then the classes
    >>> head[0, 1, 2, :2] = 0.5              # the middle of the cell
    >>> boxes, scores, classes = darknet.decode(head, cfg, max_detections=1)
    >>> boxes.numpy(), scores.numpy(), classes.numpy()
    (array([[[0.125, 0.5  , 0.625, 0.75 ]]], dtype=float32), \
array([[0.71999997]], dtype=float32), array([[1]], dtype=int32))
    """
    import tensorflow as tf

    max_detections = positive_integer("max_detections", max_detections)
    boxes, scores = predictions(outputs, model_or_cfg, input_size)
    found = tf.image.combined_non_max_suppression(
        boxes[:, :, None],
        scores,
        max_output_size_per_class=max_detections,
        max_total_size=max_detections,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        clip_boxes=False,
    )
    exists = tf.sequence_mask(found.valid_detections, max_detections)
    classes = tf.where(exists, tf.cast(found.nmsed_classes, tf.int32), -1)
    return Detections(found.nmsed_boxes, found.nmsed_scores, classes)


def predictions(outputs, model_or_cfg, input_size=None):
    """Returns every box `(B, N, 4)` and its scores `(B, N, classes)`."""
    if isinstance(model_or_cfg, DarknetModel):
        plan = model_or_cfg.plan
    else:
        plan = plan_network(model_or_cfg)
    size = plan.input_shape[:2] if input_size is None else tuple(input_size)
    if len(size) != 2 or None in size:
        raise invalid("input_size", "(height, width) for a model of any size", input_size)
    heads = [spec for spec in plan.outputs if isinstance(spec, Yolo)]
    if not heads:
        raise DarknetError("has no [yolo] layer to decode.", plan.sections.source)
    if not isinstance(outputs, (list, tuple)):
        outputs = [outputs]
    if len(outputs) != len(heads):
        raise invalid("outputs", f"a list of {len(heads)} tensors", len(outputs))
    classes = {spec.classes for spec in heads}
    if len(classes) > 1:
        raise DarknetError(
            f"has [yolo] layers of different numbers of classes, {sorted(classes)}.",
            plan.sections.source,
        )
    decoded = [
        _decode_head(ops.convert_to_tensor(tensor), spec, size)
        for tensor, spec in zip(outputs, heads, strict=True)
    ]
    boxes, scores = zip(*decoded, strict=True)
    return ops.concatenate(boxes, axis=1), ops.concatenate(scores, axis=1)


def _decode_head(tensor, spec, size):
    """Returns boxes and scores of one head, in the order rows, columns, anchors."""
    if tensor.shape[-1] != spec.shape[2]:
        raise invalid("outputs", f"{spec.shape[2]} channels for {spec.name}", tensor)
    tensor = ops.cast(tensor, "float32")
    rows, columns = ops.shape(tensor)[1:3]
    anchors = len(spec.anchors)
    tensor = ops.reshape(tensor, (-1, rows, columns, anchors, spec.classes + 5))
    column = ops.cast(ops.arange(columns), "float32")[None, :, None]
    row = ops.cast(ops.arange(rows), "float32")[:, None, None]
    x = (tensor[..., 0] + column) / ops.cast(columns, "float32")
    y = (tensor[..., 1] + row) / ops.cast(rows, "float32")
    shape = tensor[..., 2:4]
    shape = 4 * ops.square(shape) if spec.new_coords else ops.exp(shape)
    pixels = ops.convert_to_tensor(spec.anchors, dtype="float32")
    half = shape * pixels / ops.convert_to_tensor((size[1], size[0]), "float32") / 2
    boxes = ops.stack(
        [y - half[..., 1], x - half[..., 0], y + half[..., 1], x + half[..., 0]],
        axis=-1,
    )
    scores = tensor[..., 4:5] * tensor[..., 5:]
    count = rows * columns * anchors
    return (
        ops.reshape(boxes, (-1, count, 4)),
        ops.reshape(scores, (-1, count, spec.classes)),
    )
