"""Darknet's non-maximum suppression, in TensorFlow.

Boxes are (x, y, width, height), centres first.
"""

import functools

_GREEDY_EXPONENT = 0.6  # of greedynms, whatever `beta_nms` says


def exponent(nms_kind, beta_nms):
    """Returns the exponent of the distance term, or None where there is none."""
    return {"greedynms": _GREEDY_EXPONENT, "diounms": beta_nms}.get(nms_kind)


def suppress(candidates, power, score_threshold, iou_threshold, max_detections):
    """Keeps, class by class, the boxes that no better one overlaps.

    ```
    overlap = IoU - (d² / c²)^power
    ```

    d is the distance of the centres, c the diagonal of the smallest box around both;
    without `power` the overlap is the IoU.

    Args:
        candidates: A `Candidates`.
        power: The exponent above, or None.
        score_threshold: Only what is above counts.
        iou_threshold: Overlaps above suppress.
        max_detections: How many are kept for each picture, best first.

    Returns:
        Boxes `(B, max_detections, 4)`, scores `(B, max_detections)` and classes, where
        a class of -1, a score of 0 and a box of zeros fill up.
    """
    import tensorflow as tf

    found = _compiled(power is not None)(
        *candidates,
        tf.constant(power or 0.0, tf.float32),
        tf.cast(score_threshold, tf.float32),
        tf.cast(iou_threshold, tf.float32),
        tf.constant(max_detections, tf.int32),
    )
    batch = candidates.boxes.shape[0]
    shapes = (batch, max_detections, 4), (batch, max_detections), (batch, max_detections)
    return tuple(
        tf.ensure_shape(tensor, shape) for tensor, shape in zip(found, shapes, strict=True)
    )


@functools.cache
def _compiled(by_distance):
    """Returns the graph for batches of any size, traced once."""
    import tensorflow as tf

    numbers = [tf.TensorSpec(shape) for shape in ((None, None, 4), (None, None))]
    numbers += [tf.TensorSpec((None, None, None)), *[tf.TensorSpec(())] * 3]

    signature = [*numbers, tf.TensorSpec((), tf.int32)]

    @tf.function(input_signature=signature, autograph=False)
    def run(boxes, objectness, scores, power, score_threshold, iou_threshold, most):
        scores = tf.where(objectness[..., None] > score_threshold, scores, 0)
        exists = (scores > score_threshold) & (scores != 0)
        power = power if by_distance else None
        return tf.map_fn(
            lambda one: _suppress_one(*one, power, iou_threshold, most),
            (boxes, scores, exists),
            fn_output_signature=(tf.float32, tf.float32, tf.int32),
        )

    return run


def _suppress_one(boxes, scores, exists, power, iou_threshold, most):
    """Does it for one picture: over all classes at once, best score first."""
    import tensorflow as tf

    index = tf.where(exists)  # (M, 2): box, class
    values = tf.gather_nd(scores, index)
    order = tf.argsort(values, direction="DESCENDING", stable=True)
    values, index = tf.gather(values, order), tf.gather(index, order)
    boxes = tf.gather(boxes, index[:, 0])
    classes = tf.cast(index[:, 1], tf.int32)
    positions = tf.range(tf.size(values))

    def go_on(alive, chosen, count):
        return (count < most) & tf.reduce_any(alive)

    def choose(alive, chosen, count):
        best = tf.argmax(alive, output_type=tf.int32)
        near = overlap(boxes[best], boxes, power) > iou_threshold
        alive &= ~((classes == classes[best]) & near) & (positions != best)
        return alive, chosen.write(count, best), count + 1

    chosen = tf.TensorArray(tf.int32, 0, dynamic_size=True, element_shape=())
    alive = tf.ones_like(values, tf.bool)
    _, chosen, count = tf.while_loop(go_on, choose, (alive, chosen, 0))
    chosen = chosen.stack()
    missing = most - count
    return (
        tf.pad(tf.gather(boxes, chosen), [[0, missing], [0, 0]]),
        tf.pad(tf.gather(values, chosen), [[0, missing]]),
        tf.pad(tf.gather(classes, chosen), [[0, missing]], constant_values=-1),
    )


def overlap(box, boxes, power=None):
    """Returns how much one box `(4,)` overlaps each of `(M, 4)`, as Darknet counts."""
    import tensorflow as tf

    first, last = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
    firsts, lasts = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    sides = tf.minimum(last, lasts) - tf.maximum(first, firsts)
    shared = tf.where(tf.reduce_any(sides < 0, axis=-1), 0.0, sides[:, 0] * sides[:, 1])
    union = box[2] * box[3] + boxes[:, 2] * boxes[:, 3] - shared
    iou = tf.math.divide_no_nan(shared, union)
    if power is None:
        return iou
    around = tf.maximum(last, lasts) - tf.minimum(first, firsts)
    diagonal = tf.reduce_sum(around**2, axis=-1)
    distance = tf.reduce_sum((box[:2] - boxes[:, :2]) ** 2, axis=-1)
    far = tf.math.pow(tf.math.divide_no_nan(distance, diagonal), power)
    return tf.where(diagonal == 0, iou, iou - far)
