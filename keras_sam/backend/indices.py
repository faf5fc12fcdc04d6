"""Indices along an axis."""

import keras
from keras import ops

from keras_sam.backend.portable import is_portable


def indices(length):
    """Returns `0, 1, ..., length - 1` as int32.

    Args:
        length: An integer, or an integer tensor where it is not known yet.
    """
    if isinstance(length, int) or keras.backend.backend() != "jax" or not is_portable():
        return ops.arange(0, length, dtype="int32")
    # jax2onnx forgets which size it is that `arange` gets.
    return ops.cumsum(ops.ones((length,), "int32")) - 1
