"""Darknet's non-maximum suppression, in TensorFlow.

Boxes are (x, y, width, height), centres first.
"""

import functools

_GREEDY_EXPONENT = 0.6  # of greedynms, whatever `beta_nms` says
_BLOCK = 512  # candidates at a time: most of them need never be compared


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

    return _compiled(power is not None, max_detections)(
        *candidates,
        tf.constant(power or 0.0, tf.float32),
        tf.cast(score_threshold, tf.float32),
        tf.cast(iou_threshold, tf.float32),
    )


@functools.lru_cache(maxsize=64)
def _compiled(by_distance, most):
    """Returns the graph for batches of any size, traced once."""
    import tensorflow as tf

    shapes = (None, None, 4), (None, None), (None, None, None), (), (), ()

    @tf.function(input_signature=[*map(tf.TensorSpec, shapes)], autograph=False)
    def run(boxes, objectness, scores, power, score_threshold, iou_threshold):
        scores = tf.where(objectness[..., None] > score_threshold, scores, 0)
        exists = (scores > score_threshold) & (scores != 0)
        power = power if by_distance else None
        return tf.map_fn(
            lambda one: _suppress_one(*one, power, iou_threshold, most),
            (boxes, scores, exists),
            fn_output_signature=(
                tf.TensorSpec((most, 4)),
                tf.TensorSpec((most,)),
                tf.TensorSpec((most,), tf.int32),
            ),
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
    total = tf.size(values)

    def is_near(these, those):
        """Returns for each two, of `(P, 1)` and `(1, Q)` numbers, if one must go."""
        first, second = tf.gather(boxes, these), tf.gather(boxes, those)
        same = tf.gather(classes, these) == tf.gather(classes, those)
        return same & (overlap(first, second, power) > iou_threshold)

    def take_block(start, chosen, count):
        """Chooses among the next candidates, none of which is better than before."""
        block = tf.range(start, tf.minimum(start + _BLOCK, total))
        hidden = is_near(chosen[:count, None], block[None])
        alive = ~tf.reduce_any(hidden, axis=0)

        def choose(alive, chosen, count):
            best = start + tf.argmax(alive, output_type=tf.int32)
            near = is_near(best[None, None], block[None])[0]
            chosen = tf.tensor_scatter_nd_update(chosen, [[count]], [best])
            return alive & ~near & (block != best), chosen, count + 1

        _, chosen, count = tf.while_loop(
            lambda alive, chosen, count: (count < most) & tf.reduce_any(alive),
            choose,
            (alive, chosen, count),
        )
        return start + _BLOCK, chosen, count

    _, chosen, count = tf.while_loop(
        lambda start, chosen, count: (start < total) & (count < most),
        take_block,
        (0, tf.zeros([most], tf.int32), 0),
    )
    chosen = chosen[:count]
    missing = most - count
    boxes = tf.pad(tf.gather(boxes, chosen), [[0, missing], [0, 0]])
    values = tf.pad(tf.gather(values, chosen), [[0, missing]])
    classes = tf.pad(tf.gather(classes, chosen), [[0, missing]], constant_values=-1)
    shapes = (most, 4), (most,), (most,)
    return tuple(map(tf.ensure_shape, (boxes, values, classes), shapes))


def overlap(box, other, power=None):
    """Returns how much boxes `(..., 4)` overlap others, as Darknet counts."""
    import tensorflow as tf

    def corners(box):
        return box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2

    (first, last), (firsts, lasts) = corners(box), corners(other)
    sides = tf.minimum(last, lasts) - tf.maximum(first, firsts)
    apart = tf.reduce_any(sides < 0, axis=-1)
    shared = tf.where(apart, 0.0, sides[..., 0] * sides[..., 1])
    areas = box[..., 2] * box[..., 3] + other[..., 2] * other[..., 3]
    iou = tf.math.divide_no_nan(shared, areas - shared)
    if power is None:
        return iou
    around = tf.maximum(last, lasts) - tf.minimum(first, firsts)
    diagonal = tf.reduce_sum(around**2, axis=-1)
    distance = tf.reduce_sum((box[..., :2] - other[..., :2]) ** 2, axis=-1)
    far = tf.math.pow(tf.math.divide_no_nan(distance, diagonal), power)
    return tf.where(diagonal == 0, iou, iou - far)
