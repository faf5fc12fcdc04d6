"""The pictures among the inputs of a model, to draw maps over."""

import keras
import numpy as np


def find(inputs):
    """Returns the pictures among the inputs, `(N, H, W, 3)` from 0 to 1, or None.

    They are the first input of four axes with one, three or four channels, last or first.
    Each picture is scaled from its darkest to its lightest value, so that any
    preprocessing will do. A fourth channel is transparency, and is left out.
    """
    for leaf in keras.tree.flatten(inputs):
        shape = tuple(leaf.shape)
        axis = next(
            (axis for axis in (-1, 1) if len(shape) == 4 and shape[axis] in (1, 3, 4)), None
        )
        if axis is None:
            continue
        values = np.asarray(keras.ops.convert_to_numpy(leaf), "float32")
        values = np.moveaxis(values, axis, -1)[..., :3]
        low, high = (f(values, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
        scaled = np.nan_to_num((values - low) / np.where(high > low, high - low, 1))
        return np.broadcast_to(scaled, (*scaled.shape[:3], 3))
    return None
