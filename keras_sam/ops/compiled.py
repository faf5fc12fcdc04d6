"""Compiling a function by itself, whatever it is called from.

On TensorFlow a kernel becomes a `tf.function(jit_compile=True)`. Nested in an eager
call, in a `tf.function` or in an exported SavedModel, XLA compiles just the kernel, for
each shape that comes. JAX and PyTorch run it as it is: there compiling is up to the
caller (`jax.jit`, Keras's `fit`).
"""

import functools
import os

import keras


def compiled(fn):
    """Returns `fn` compiled by XLA on TensorFlow, and `fn` itself elsewhere."""
    if keras.backend.backend() != "tensorflow":
        return fn
    import tensorflow as tf

    return tf.function(fn, jit_compile=True, autograph=False)


def graph(fn):
    """Returns `fn` as a TensorFlow graph, and `fn` itself elsewhere.

    Compiled functions that a graph calls, and that do not need one another's results,
    run at the same time.
    """
    if keras.backend.backend() != "tensorflow":
        return fn
    import tensorflow as tf

    return tf.function(fn, autograph=False)


def runs_eagerly():
    """Whether each operation runs as it comes, outside of any compiled function."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        return backend == "torch"
    import tensorflow as tf

    return tf.executing_eagerly()


@functools.cache
def on_cpu():
    """Whether tensors are on a CPU, and not on an accelerator."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return not tf.config.list_logical_devices("GPU")
    if backend == "jax":
        import jax

        return jax.default_backend() == "cpu"
    import torch

    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


@functools.cache
def processors():
    """How many compiled functions can run at the same time: 1 but on a CPU."""
    if keras.backend.backend() != "tensorflow" or not on_cpu():
        return 1
    import tensorflow as tf

    threads = tf.config.threading.get_inter_op_parallelism_threads()
    return threads or os.cpu_count() or 1


def shares(total):
    """Shares out `total` items over the processors: how many each one gets."""
    count = min(processors(), total)
    return [(total + i) // count for i in range(count)]


def vjp(fn, inputs, upstream):
    """Returns the gradients of `inputs`, a nested structure that `fn` maps to a tensor.

    Args:
        fn: A function of a nested structure of float tensors.
        inputs: The structure.
        upstream: The gradient of what `fn` returns.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = fn(inputs)
        zero = tf.UnconnectedGradients.ZERO
        return tape.gradient(output, inputs, upstream, unconnected_gradients=zero)
    if backend == "jax":
        import jax

        return jax.vjp(fn, inputs)[1](upstream)[0]
    import torch

    inputs = keras.tree.map_structure(lambda x: x.detach().requires_grad_(), inputs)
    with torch.enable_grad():
        output = fn(inputs)
    gradients = torch.autograd.grad(
        output, keras.tree.flatten(inputs), upstream, materialize_grads=True
    )
    return keras.tree.pack_sequence_as(inputs, gradients)
