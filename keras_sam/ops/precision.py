"""The precision in which sums, exponentials and normalizers are computed."""

import keras


def wide(dtype):
    """Returns float64 for float64, and float32 for every narrower dtype."""
    given = keras.backend.standardize_dtype(dtype)
    return given if given == "float64" else "float32"
