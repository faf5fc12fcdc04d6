"""Shape arithmetic on `(height, width, channels)`. No Keras here.

Height and width may be None: not known before the model is called.
"""

import math

# Nothing is allocated before these hold. The largest published network has about 290
# million weights, 206 million of them in one layer (the first YOLO), in fewer than 500
# layers; YOLOv4 at 608 x 608 makes 12 million floats in its largest layer.
MAX_WEIGHTS = 2**29  # 2 GiB of float32
MAX_LAYER_WEIGHTS = 2**28
MAX_FLOATS = 2**28  # of one layer and image: 1 GiB
MAX_CHANNELS = 2**20
MAX_LAYERS = 1024
MAX_SOURCES = 64  # of one [route] or [shortcut]


def output_size(size, window, stride, padding):
    """Returns how many windows Darknet counts along one axis.

    C's division rounds towards zero, so a window somewhat larger than the axis still
    gives one output when the stride is larger than one.
    """
    if size is None:
        return None
    room = size + padding - window
    return (room // stride if room >= 0 else -(-room // stride)) + 1


def padding(size, window, stride, before, after):
    """Returns (before, after) so that VALID windows are the ones of `output_size`."""
    count = output_size(size, window, stride, before + after)
    if count is None:
        return before, after
    return before, max(after, (count - 1) * stride + window - size - before)


def floats(shape):
    """Returns how many numbers a shape holds; unknown sizes count as one."""
    return math.prod(1 if size is None else size for size in shape)


def same(size, other):
    """Returns whether two sizes agree as far as they are known."""
    return size is None or other is None or size == other


def describe(shape):
    """Returns `"13 x 13 x 255"` (height, width, channels)."""
    return " x ".join("?" if size is None else str(size) for size in shape)
