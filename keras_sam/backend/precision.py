"""The precision in which sums, exponentials and normalizers are computed.

Some operations of Keras (3.15) make float32 of float64 on PyTorch. Here are those that
do not.
"""

import keras
from keras import ops

from keras_sam.backend.portable import is_portable


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


def log1p(x):
    """`ops.log1p`, which ONNX does not have: there from a logarithm, as exactly.

    What `1 + x` rounds off, `x / (1 + x - 1)` makes up for (Higham, 2002, "Accuracy and
    Stability of Numerical Algorithms", section 1.14.1).
    """
    if not is_portable():
        return ops.log1p(x)
    one = ops.ones_like(x)
    above = one + x
    rounded = above - one
    is_lost = ops.equal(rounded, 0.0)
    factor = x / ops.where(is_lost, one, rounded)
    return ops.where(is_lost, x, ops.log(above) * factor)


def matmul(x, y):
    """`ops.matmul`, in the dtype of `x`, which is that of `y`."""
    is_double = keras.backend.standardize_dtype(x.dtype) == "float64"
    backend = keras.backend.backend()
    if is_double and backend == "torch":
        return x @ y
    ranks = len(x.shape), len(y.shape)
    is_one_matrix = all(size == 1 for size in y.shape[:-2]) and None not in y.shape[-2:]
    if backend == "tensorflow" and ranks[0] > 2 and ranks[0] >= ranks[1] and is_one_matrix:
        return _times_one_matrix(x, y)
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


def _times_one_matrix(x, y):
    """Returns a stack of matrices times one, as one product.

    TensorFlow (2.21, with oneDNN) gives wrong numbers for a stack of shape `(B, 1)` times
    one matrix, and writes where it must not.
    """
    rows = ops.reshape(x, (-1, y.shape[-2]))
    product = ops.matmul(rows, ops.reshape(y, y.shape[-2:]))
    return ops.reshape(product, (*ops.shape(x)[:-1], y.shape[-1]))
