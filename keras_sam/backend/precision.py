"""The precision in which sums, exponentials and normalizers are computed.

Some operations of Keras (3.15) make float32 of float64 on PyTorch. Here are those that
do not.
"""

import keras
from keras import ops


def wide(dtype):
    """Returns float64 for float64, and float32 for every narrower dtype."""
    given = keras.backend.standardize_dtype(dtype)
    return given if given == "float64" else "float32"


def maximum(x, y):
    """`ops.maximum`, in the dtype of `x`, which is that of `y`."""
    return ops.where(x < y, y, x)


def minimum(x, y):
    """`ops.minimum`, in the dtype of `x`, which is that of `y`."""
    return ops.where(x < y, x, y)


def cumsum(x, axis):
    """`ops.cumsum`, in the dtype of `x`."""
    if keras.backend.backend() == "torch":
        return x.cumsum(axis, dtype=x.dtype)
    return ops.cumsum(x, axis=axis)


def matmul(x, y):
    """`ops.matmul`, in the dtype of `x`, which is that of `y`."""
    is_double = keras.backend.standardize_dtype(x.dtype) == "float64"
    if is_double and keras.backend.backend() == "torch":
        return x @ y
    return ops.matmul(x, y)
