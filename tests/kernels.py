"""Forcing kernels, and comparing what they compute with float64."""

import dataclasses

import numpy as np
from common import random
from gradients import in_float64, value_and_gradients
from keras import ops

from keras_sam.attention.policy import Policy

LARGE = {"kept_pairs": 0, "kept_for_a_channel": 0, "autodiff_pairs": 0}
FLASH = {"flash_rows": 16, "flash_rows_at_an_edge": 8, "flash_keys": 5}
CHUNKED = {"graph_pairs": 150, "pairs": 150, "pairs_backward": 70}


class OnAccelerator(Policy):
    """Chooses as for an accelerator, whose tiles hold several examples and heads."""

    def choose(self, request, sizes, device, block_size="auto", traits=None):
        device = dataclasses.replace(device, cpu=False)
        return super().choose(request, sizes, device, block_size, traits)


# The arguments of `attend` for each kernel: those of any request, and those for softmax.
ANY = {
    "reference": {"policy": Policy(kernel="reference")},
    "rows": {"block_size": 8},
    "chunked": {"policy": Policy(**LARGE, **CHUNKED, kernel="chunked")},
}
SOFTMAX = {
    "flash": {"policy": Policy(**LARGE, **FLASH, kernel="flash")},
    "flash_together": {
        "policy": OnAccelerator(
            **LARGE, kernel="flash", accelerator_pairs=16 * 13 * 8, accelerator_keys=13
        )
    },
}
PLAIN = {"dense": {"policy": Policy(kernel="dense")}}
COMPILED = {
    "flash": {"policy": Policy(**LARGE, **FLASH, kernel="flash", compiled=True)},
    "chunked": {"policy": Policy(**LARGE, **CHUNKED, kernel="chunked", compiled=True)},
}


def assert_alike(expected, found, arrays):
    """Compares values and gradients of two functions of `arrays`.

    Errors are measured by the largest of all gradients: some are zero but for rounding.

    Args:
        expected: A function of float64 tensors that returns one.
        found: The same of float32 tensors.
        arrays: NumPy arrays.
    """
    upstream = None

    def differentiate(function, dtype):
        def weighted(*tensors):
            output = function(*tensors)
            return output * ops.convert_to_tensor(upstream.astype(dtype))

        given = [np.asarray(array, dtype) for array in arrays]
        value, gradients = value_and_gradients(weighted, *given)
        return value, gradients

    query, value = arrays[0], arrays[2]
    upstream = random(*query.shape[:3], value.shape[3], seed=9)
    with in_float64():
        exact, exact_gradients = differentiate(expected, "float64")
    actual, gradients = differentiate(found, "float32")
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual, exact, rtol=0, atol=4e-6 * np.abs(exact).max())
    largest = max(np.abs(gradient).max(initial=0) for gradient in exact_gradients)
    for gradient, wanted in zip(gradients, exact_gradients, strict=True):
        assert gradient.shape == wanted.shape
        np.testing.assert_allclose(gradient, wanted, rtol=0, atol=4e-6 * largest)
