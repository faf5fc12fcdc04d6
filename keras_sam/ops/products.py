"""Matrix products in the dtype of their factors."""

import keras
from keras import ops


def matmul(x, y):
    """`ops.matmul`, which on PyTorch (Keras 3.15) makes float32 of float64."""
    wide = keras.backend.standardize_dtype(x.dtype) == "float64"
    if wide and keras.backend.backend() == "torch":
        return x @ y
    return ops.matmul(x, y)
