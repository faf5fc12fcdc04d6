"""Gradients, in the same words on every backend."""

import contextlib
import unittest.mock

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


@contextlib.contextmanager
def in_float64():
    """Lets float64 stay float64.

    JAX makes float32 of it unless it is told not to. On JAX and PyTorch some of Keras's own
    operations do as well (`ops.mean`, `ops.tanh`), by a table of theirs.
    """
    backend = keras.backend.backend()
    table = keras.src.backend.common.dtypes.BIT64_TO_BIT32_DTYPE
    with contextlib.ExitStack() as stack:
        if backend == "jax":
            import jax

            stack.enter_context(jax.enable_x64(True))
        stack.enter_context(unittest.mock.patch.dict(table, float64="float64"))
        yield


def second_order(function, compiled=None):
    """Returns a function for the gradient of `function` and the product with its Hessian.

    The product is the gradient of `<gradient, directions>`: reverse mode, twice.

    Args:
        function: Takes float tensors and returns one float tensor, whose sum counts.
        compiled: On TensorFlow, how the whole is computed: None is eagerly, `"graph"`
            in a `tf.function`, `"xla"` in a `tf.function(jit_compile=True)`.

    Returns:
        A function of arrays and directions, two lists of NumPy arrays of the same shapes,
        that returns the gradients and the products, two lists of NumPy arrays.
    """
    backend = {
        "tensorflow": _tensorflow_products,
        "jax": _jax_products,
        "torch": _torch_products,
    }
    products = backend[keras.backend.backend()](function, compiled)

    def call(arrays, directions):
        tensors = [keras.ops.convert_to_tensor(array) for array in (*arrays, *directions)]
        results = products(tensors[: len(arrays)], tensors[len(arrays) :])
        return [[numpy(tensor) for tensor in tensors] for tensors in results]

    return call


def hessian_vector_product(function, arrays, directions, compiled=None):
    """Returns the Hessian of the summed `function` times `directions`."""
    return second_order(function, compiled)(arrays, directions)[1]


def difference(function, arrays, directions, step):
    """Returns the central difference of a list of arrays along `directions`.

    Its error is a multiple of `step**2`, and that of rounding over `step`.
    """
    ends = [
        function([a + sign * step * d for a, d in zip(arrays, directions, strict=True)])
        for sign in (1, -1)
    ]
    return [(above - below) / (2 * step) for above, below in zip(*ends, strict=True)]


def _tensorflow_products(function, compiled):
    import tensorflow as tf

    zero = tf.UnconnectedGradients.ZERO

    def products(tensors, directions):
        with tf.GradientTape() as outer:
            outer.watch(tensors)
            with tf.GradientTape() as inner:
                inner.watch(tensors)
                total = tf.reduce_sum(function(*tensors))
            gradients = inner.gradient(total, tensors, unconnected_gradients=zero)
        return gradients, outer.gradient(
            gradients, tensors, output_gradients=directions, unconnected_gradients=zero
        )

    if compiled is None:
        return products
    return tf.function(products, jit_compile=compiled == "xla")


def _jax_products(function, compiled):
    import jax

    def products(tensors, directions):
        every = tuple(range(len(tensors)))
        gradient = jax.grad(lambda *tensors: function(*tensors).sum(), every)
        gradients, transposed = jax.vjp(gradient, *tensors)
        return gradients, transposed(tuple(directions))

    # One quick compilation takes less time than one for each operation.
    options = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    }
    return jax.jit(products, compiler_options=options)


def _torch_products(function, compiled):
    import torch

    def products(tensors, directions):
        tensors = [tensor.requires_grad_() for tensor in tensors]
        total = function(*tensors).sum()
        unused = {"allow_unused": True, "materialize_grads": True}
        gradients = torch.autograd.grad(total, tensors, create_graph=True, **unused)
        # Gradients that depend on nothing have zeros for derivatives.
        pairs = zip(gradients, directions, strict=True)
        pairs = [(gradient, along) for gradient, along in pairs if gradient.requires_grad]
        return gradients, torch.autograd.grad(
            [gradient for gradient, _ in pairs],
            tensors,
            [along for _, along in pairs],
            **unused,
        )

    return products


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
