"""Loops whose number of rounds may be known only when they run."""

import keras
from keras import ops

from keras_sam.backend.xla import runs_eagerly


def loop(first, last, body, carry):
    """Runs `carry = body(index, carry)` for each index from `first` to before `last`."""
    if isinstance(first, int) and isinstance(last, int) and last - first <= 1:
        return body(first, carry) if last > first else carry
    return ops.fori_loop(first, last, body, carry)


def stack(body, count, carry, dtypes, parallel=1):
    """Runs `stacked, carry = body(index, carry)` for each index below `count`.

    Args:
        body: A function of an index, which is an integer or a tensor, and of `carry`.
            `stacked` is a dictionary of tensors of equal shapes in every round.
        count: How many rounds there are, at least one; an integer, or on TensorFlow also
            an integer tensor.
        carry: A structure of tensors.
        dtypes: A dictionary of the dtypes of `stacked`.
        parallel: How many rounds TensorFlow may run at the same time.

    Returns:
        The results stacked along a new first axis, and the last carry.
    """
    if isinstance(count, int) and count == 1:
        stacked, carry = body(0, carry)
        return {name: x[None] for name, x in stacked.items()}, carry
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        def step(carry, index):
            stacked, carry = body(index, carry)
            return carry, stacked

        # Of JAX's own integer dtype, as an index beside it in a slice has to be.
        carry, stacked = jax.lax.scan(step, carry, jax.numpy.arange(count))
        return stacked, carry
    if backend == "tensorflow" and not runs_eagerly():
        return _stack_in_graph(body, count, carry, dtypes, parallel)
    rounds = []
    for index in range(int(count)):
        stacked, carry = body(index, carry)
        rounds.append(stacked)
    return {name: ops.stack([x[name] for x in rounds]) for name in dtypes}, carry


def _stack_in_graph(body, count, carry, dtypes, parallel):
    import tensorflow as tf

    arrays = {
        name: tf.TensorArray(dtype, size=count, infer_shape=False)
        for name, dtype in dtypes.items()
    }

    shapes = {}

    def step(index, arrays, carry):
        stacked, carry = body(index, carry)
        shapes.update({name: x.shape for name, x in stacked.items()})
        arrays = {name: arrays[name].write(index, stacked[name]) for name in arrays}
        return index + 1, arrays, carry

    _, arrays, carry = tf.while_loop(
        lambda index, *_: index < count,
        step,
        (tf.constant(0), arrays, carry),
        parallel_iterations=parallel,
    )
    stacked = {name: array.stack() for name, array in arrays.items()}
    for name, tensor in stacked.items():
        tensor.set_shape([None, *shapes[name]])
    return stacked, carry
