"""Compiling a function by itself, whatever calls it.

On TensorFlow a kernel becomes a `tf.function(jit_compile=True)`. Nested in an eager
call, in a `tf.function` or in an exported SavedModel, XLA compiles just the kernel, once
for each shape. On JAX and PyTorch a function stays as it is: the caller compiles
(`jax.jit`, Keras's `fit`).
"""

import contextlib
import functools

import keras


def compiled(fn):
    """Returns `fn` compiled by XLA on TensorFlow, and `fn` itself elsewhere."""
    if keras.backend.backend() != "tensorflow":
        return fn
    import tensorflow as tf

    return tf.function(fn, jit_compile=True, autograph=False)


def graph(fn):
    """Returns `fn` as a TensorFlow graph, and `fn` itself elsewhere.

    A graph runs compiled functions that do not need one another's results at the same
    time. It is traced anew for each static shape.
    """
    if keras.backend.backend() != "tensorflow":
        return fn
    import tensorflow as tf

    return tf.function(fn, autograph=False)


def graph_of_any_sizes(fn, open_shapes):
    """Returns `fn` as a TensorFlow graph that is traced once for tensors of all sizes.

    So eager calls of many lengths cost no tracing. Elsewhere `fn` is returned as it is.

    Args:
        fn: A function of nested structures of tensors and Nones.
        open_shapes: A function of the same structures that returns a list with the shape
            to trace with of each tensor, or None for each None.
    """
    if keras.backend.backend() != "tensorflow":
        return fn
    import tensorflow as tf

    traced = {}

    def call(*structures):
        flat = keras.tree.flatten(structures)
        present = [x is not None for x in flat]
        tensors = [tf.convert_to_tensor(x) for x in flat if x is not None]
        shapes = [shape for shape in open_shapes(*structures) if shape is not None]
        dtypes = [x.dtype for x in tensors]
        specs = [*map(tf.TensorSpec, shapes, dtypes)]
        key = (*present, *specs)
        if key not in traced:
            structure = keras.tree.map_structure(lambda x: 0, structures)

            def run(*given):
                rest = iter(given)
                packed = [next(rest) if there else None for there in present]
                return fn(*keras.tree.pack_sequence_as(structure, packed))

            # Neither inlined nor optimized together with each caller, which would take a
            # tenth of a second for each of them: most calls never come here.
            traced[key] = tf.function(
                run,
                autograph=False,
                input_signature=specs,
                experimental_attributes={"_noinline": True, "_tf_data_function": True},
            )
        return traced[key](*tensors)

    return call


def runs_eagerly():
    """Returns whether each operation runs at once, outside of any compiled function."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        return backend == "torch"
    import tensorflow as tf

    return tf.executing_eagerly()


@contextlib.contextmanager
def computed_at_once():
    """Makes operations on known numbers run at once, also while a graph is traced."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.init_scope():
            yield
    elif backend == "jax":
        import jax

        with jax.ensure_compile_time_eval():
            yield
    else:
        yield


@functools.cache
def on_cpu():
    """Returns whether tensors are on a CPU, and not on an accelerator."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return not tf.config.list_logical_devices("GPU")
    if backend == "jax":
        import jax

        return jax.default_backend() == "cpu"
    import torch

    return not (torch.cuda.is_available() or torch.backends.mps.is_available())
