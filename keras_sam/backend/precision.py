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


def product(x, y):
    """Returns `x @ y` with sums in float32 or wider, also where a factor is narrower.

    Matrix units multiply the narrow numbers as they are, and add up in float32. Where one
    factor is wider than the other, such as weights beside values, it is rounded to the
    narrower dtype, which is what library kernels do as well.
    """
    if is_wide(x) and is_wide(y):
        return matmul(x, y)
    if keras.backend.backend() != "jax":  # no such product there
        return matmul(ops.cast(x, "float32"), ops.cast(y, "float32"))
    import jax.numpy as jnp

    narrow = y.dtype if is_wide(x) else x.dtype
    x, y = x.astype(narrow), y.astype(narrow)
    return jnp.matmul(x, y, preferred_element_type="float32")


def is_wide(x):
    """Returns whether a tensor is float32 or float64."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    return wide(dtype) == dtype


def widened(x):
    """Returns a tensor as float32, or as it is if that is not narrower."""
    return ops.cast(x, wide(x.dtype))
