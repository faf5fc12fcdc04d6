"""Gradients, in the same words on every backend."""

import keras
import numpy as np
from common import numpy, random


def value_and_gradients(function, *arrays):
    """Returns what `function` makes of `arrays`, and the gradients of its sum.

    Args:
        function: Takes one tensor for each array, and returns one float tensor.
        *arrays: NumPy float arrays.

    Returns:
        The value, and a tuple with one gradient for each array, as NumPy arrays.
    """
    backend = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    value, gradients = backend[keras.backend.backend()](function, arrays)
    to_numpy = keras.ops.convert_to_numpy
    return to_numpy(value), tuple(to_numpy(gradient) for gradient in gradients)


def numerical_gradient(function, array, step=1e-6):
    """Returns the gradient of the scalar `function` of a float64 array."""
    array = np.array(array, "float64")
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = function(array)
        array[index] = kept - step
        gradient[index] = (above - function(array)) / (2 * step)
        array[index] = kept
    return gradient


def slope_and_difference(layer, inputs, call):
    """The slope of the summed output along a direction, twice.

    By the gradients of the inputs and of all weights, and by differences.
    """
    exact = keras.backend.backend() != "jax"
    step = 1e-6 if exact else 1e-2
    arrays = [inputs, *map(numpy, layer.trainable_variables)]
    if exact:
        arrays = [array.astype("float64") for array in arrays]
    directions = [
        random(*array.shape, seed=index + 50).astype(array.dtype)
        for index, array in enumerate(arrays)
    ]
    factor = random(*inputs.shape, seed=9).astype(arrays[0].dtype)

    def function(x, *weights):
        others = [v.value for v in layer.non_trainable_variables]
        return keras.ops.multiply(
            factor, layer.stateless_call(weights, others, x, **call)[0]
        )

    def total(sign):
        moved = [
            keras.ops.convert_to_tensor(array + sign * step * direction)
            for array, direction in zip(arrays, directions, strict=True)
        ]
        return numpy(function(*moved)).astype("float64").sum()

    _, found = value_and_gradients(function, *arrays)
    slope = sum((g * d).sum() for g, d in zip(found, directions, strict=True))
    return slope, (total(1) - total(-1)) / (2 * step), 1e-6 if exact else 3e-2


def _tensorflow(function, arrays):
    import tensorflow as tf

    tensors = [tf.convert_to_tensor(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
        total = tf.reduce_sum(value)
    zero = tf.UnconnectedGradients.ZERO
    return value, tape.gradient(total, tensors, unconnected_gradients=zero)


def _jax(function, arrays):
    import jax

    def total(*tensors):
        value = function(*tensors)
        return value.sum(), value

    every = tuple(range(len(arrays)))
    (_, value), gradients = jax.value_and_grad(total, every, has_aux=True)(
        *map(keras.ops.convert_to_tensor, arrays)
    )
    return value, gradients


def _torch(function, arrays):
    tensors = [keras.ops.convert_to_tensor(array).requires_grad_() for array in arrays]
    value = function(*tensors)
    value.sum().backward()
    gradients = [
        keras.ops.zeros_like(tensor) if tensor.grad is None else tensor.grad
        for tensor in tensors
    ]
    return value, gradients
