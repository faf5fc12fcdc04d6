"""From the outputs of detection heads to boxes."""

import typing
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_sam._validation import boolean, invalid, is_integer, number, positive_integer
from keras_sam.darknet import boxes as head_boxes
from keras_sam.darknet import letterbox as letterboxes
from keras_sam.darknet import specs
from keras_sam.darknet.errors import DarknetError
from keras_sam.darknet.model import DarknetModel
from keras_sam.darknet.plan import plan_network
from keras_sam.darknet.suppression import exponent, suppress


class Detections(typing.NamedTuple):
    """Detected objects, best first, padded to the same number for each picture.

    Args:
        boxes: `(B, N, 4)`: top, left, bottom and right as shares of height and width,
            the order of TensorFlow's own operations (`tf.image.draw_bounding_boxes`).
            A box may reach beyond the picture.
        scores: `(B, N)`; 0 where there is no object.
        classes: `(B, N)`, int32; -1 where there is no object.
    """

    boxes: typing.Any
    scores: typing.Any
    classes: typing.Any


class LabeledDetections(typing.NamedTuple):
    """What `decode` returns when it is given names.

    Args:
        boxes: As in `Detections`.
        scores: As in `Detections`.
        classes: As in `Detections`.
        labels: `(B, N)`, strings; empty where there is no object.
    """

    boxes: typing.Any
    scores: typing.Any
    classes: typing.Any
    labels: typing.Any


def decode(
    outputs,
    model_or_cfg,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.45,
    max_detections: int | None = 100,
    input_size: Sequence[int] | None = None,
    image_size: Sequence | None = None,
    letterbox: bool | None = None,
    names: Sequence[str] | None = None,
):
    """Turns the outputs of a model into the boxes that Darknet finds.

    ```
    x = (column + x) / columns               score = objectness * class
    w = exp(w) * anchor / input width        (w²·4 * anchor / input width: new_coords)
    ```

    for `[yolo]`; `[Gaussian_yolo]`, `[region]` and `[detection]` have formulas of their
    own. Then, class by class, a box goes when a better one overlaps it by more than
    `iou_threshold`:

    ```
    overlap = IoU                             by default
    overlap = IoU - (d² / c²)^0.6             nms_kind=greedynms
    overlap = IoU - (d² / c²)^beta_nms        nms_kind=diounms
    ```

    with d the distance of the centres and c the diagonal of the smallest box around
    both, as shares of the picture. Of several heads, the last one's kind rules all.

    Args:
        outputs: What the model returned: one tensor, or a list for several heads.
        model_or_cfg: The model, or its configuration.
        score_threshold: Only scores above count, and only objectness above.
        iou_threshold: Of two boxes of a class that overlap more, the better one stays.
        max_detections: How many boxes a picture may have. Darknet knows no limit.
        input_size: (height, width) of the network's input, which anchors are measured
            in. Needed only when the model was built for pictures of any size.
        image_size: (height, width) of the picture before it was letterboxed, or a list
            of such pairs, one for each picture. Needed with a letterbox only: a
            picture that was stretched has the same shares.
        letterbox: Whether pictures have grey margins (`load_image(letterbox=True)`);
            boxes become shares of the picture inside. None is what `letter_box` of
            `[net]` says when `image_size` is given. `[detection]` of YOLOv1 has no
            letterbox.
        names: The names of the classes, as from `read_names`.

    Returns:
        `Detections`: boxes, scores and classes; with `names` `LabeledDetections`, which
        has labels, too.

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
    score_threshold = _check_threshold("score_threshold", score_threshold)
    iou_threshold = _check_threshold("iou_threshold", iou_threshold)
    plan = _plan(model_or_cfg)
    size = network_size(plan, input_size)
    found = _candidates(outputs, plan, size)
    names = None if names is None else _check_names(names, plan)
    pairs = None
    if image_size is not None:
        pairs = _check_image_size(image_size, found.boxes.shape[0])
    if _use_letterbox(plan, letterbox, image_size):
        found = found._replace(boxes=letterboxes.to_picture(found.boxes, pairs, size))
    last = plan.heads[-1]
    power = exponent(last.nms_kind, last.beta_nms)
    boxes, scores, classes = suppress(
        found, power, score_threshold, iou_threshold, max_detections
    )
    x, y, w, h = tf.unstack(boxes, axis=-1)
    corners = tf.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], axis=-1)
    if names is None:
        return Detections(corners, scores, classes)
    labels = tf.gather(tf.constant(["", *names]), classes + 1)
    return LabeledDetections(corners, scores, classes, labels)


def _use_letterbox(plan, letterbox, image_size):
    """Returns whether boxes are to be taken out of a letterbox."""
    if letterbox is None:
        letterbox = plan.letterbox and image_size is not None
    elif boolean("letterbox", letterbox) and image_size is None:
        raise invalid("image_size", "given with `letterbox=True`", image_size)
    # The first YOLO has none, whatever is asked for.
    return letterbox and not any(isinstance(h, specs.Detection) for h in plan.heads)


def network_size(plan, input_size):
    """Returns (height, width) of the network's input."""
    size = plan.input_shape[:2] if input_size is None else input_size
    try:
        height, width = size
    except (TypeError, ValueError):
        height = width = None
    if not (_is_length(height) and _is_length(width)):
        raise invalid("input_size", "(height, width) for a model of any size", input_size)
    return height, width


def _is_length(value):
    """Returns whether a value is a positive integer, or a tensor that may be one."""
    return ops.is_tensor(value) or (is_integer(value) and value > 0)


def _check_threshold(name, value):
    """Returns a number or a tensor, or raises."""
    return value if ops.is_tensor(value) else number(name, value)


def _plan(model_or_cfg):
    if isinstance(model_or_cfg, DarknetModel):
        plan = model_or_cfg.plan
    else:
        plan = plan_network(model_or_cfg)
    if not plan.heads:
        raise DarknetError("has no [yolo] or other head to decode.", plan.sections.source)
    classes = {head.classes for head in plan.heads}
    if len(classes) > 1:
        raise DarknetError(
            f"has heads of different numbers of classes, {sorted(classes)}.",
            plan.sections.source,
        )
    return plan


def _candidates(outputs, plan, size):
    """Returns the candidates of all heads together."""
    if not isinstance(outputs, (list, tuple)):
        outputs = [outputs]
    if len(outputs) != len(plan.heads):
        raise invalid("outputs", f"a list of {len(plan.heads)} tensors", len(outputs))
    found = [
        head_boxes.candidates(tensor, spec, size)
        for tensor, spec in zip(outputs, plan.heads, strict=True)
    ]
    joined = [ops.concatenate(parts, axis=1) for parts in zip(*found, strict=True)]
    if keras.backend.backend() != "tensorflow":  # which suppresses the boxes
        joined = map(ops.convert_to_numpy, joined)
    return head_boxes.Candidates(*joined)


def _check_image_size(image_size, batch):
    """Returns an array of one pair, or of a pair for each picture."""
    pairs = np.atleast_2d(np.asarray(image_size, dtype=object))
    sizes = pairs.reshape(-1)
    good = pairs.ndim == 2 and pairs.shape[1] == 2
    if not good or not all(is_integer(size) and size > 0 for size in sizes):
        raise invalid("image_size", "(height, width), or a list of such", image_size)
    if batch is not None and len(pairs) not in (1, batch):
        expected = f"one (height, width), or a list of {batch}, one for each picture"
        raise invalid("image_size", expected, image_size)
    return pairs.astype("int64")


def _check_names(names, plan):
    names = list(names)
    classes = plan.heads[-1].classes
    if len(names) < classes or not all(isinstance(name, str) for name in names):
        raise invalid("names", f"a list of {classes} strings", names)
    return names
