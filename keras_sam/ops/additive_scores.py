"""Additive scores without the hidden layer that they are the sum of.

That layer has one number for each query row, key and unit. Here it is made for a few
units at a time, in the backward pass once more, and from one division each::

    tanh(a + b) = 1 - 2 r,    r = 1 / (e^(2a) e^(2b) + 1),    d tanh = 4 r (1 - r)

The exponentials are taken once for each row and each key. Where a number is so large
that they could overflow, `r` is `(1 - tanh(a + b)) / 2` instead.
"""

import math

from keras import ops

from keras_sam.ops.precision import matmul, wide

# e^(2 x) and its reciprocal are finite numbers; infinity times zero never comes up.
LARGEST = 40.0
# So many numbers of the hidden layer there are at a time: 2 MiB of float32.
AT_A_TIME = 2**19


def additive_scores(query, key, vector):
    """Returns `sum(vector * tanh(query + key))` for each query row and key.

    Args:
        query: Float tensor `(B, ..., T, units)`.
        key: Float tensor `(B, ..., S, units)`.
        vector: Float tensor `(..., units)`.

    Returns:
        The scores, `(B, ..., T, S)`, in the dtype of `query`.
    """
    given = query.dtype
    dtype = wide(given)
    shape = (*query.shape[1:-2], query.shape[-1])
    vector = ops.broadcast_to(ops.cast(vector, dtype), shape)
    scores = _scores(ops.cast(query, dtype), ops.cast(key, dtype), vector)
    return ops.cast(scores, given)


@ops.custom_gradient
def _scores(query, key, vector):
    # Or an eager TensorFlow differentiates the loops all the same.
    inputs = tuple(map(ops.stop_gradient, (query, key, vector)))

    def gradient(*args, upstream=None):
        if upstream is None:
            (upstream,) = args
        return _in_range(_backward, *inputs, upstream)

    return _in_range(_forward, *inputs), gradient


def _in_range(run, query, key, vector, *upstream):
    """Runs with products of exponentials if they are in range, and with tanh if not."""
    largest = ops.maximum(ops.max(ops.abs(query)), ops.max(ops.abs(key)))
    step = _units_at_a_time(query, key)
    query, key, vector = (_units_first(x, step) for x in (query, key, vector))
    vector = vector[:, :, None, ..., None]  # for the batch and the rows

    def products():
        return run(_product, ops.exp(2 * query), ops.exp(2 * key), vector, *upstream)

    def tanh():
        return run(_tanh, query, key, vector, *upstream)

    return ops.cond(largest < LARGEST, products, tanh)


def _units_at_a_time(query, key):
    """A divisor of the units, so that few numbers are there at a time."""
    pairs = math.prod(size or 1 for size in (*query.shape[:-1], key.shape[-2]))
    steps = [n for n in (8, 4, 2) if query.shape[-1] % n == 0 and n * pairs <= AT_A_TIME]
    return steps[0] if steps else 1


def _units_first(tensor, step):
    """Makes `(..., units)` into `(units / step, step, ...)`."""
    tensor = ops.moveaxis(tensor, -1, 0)
    units, *shape = ops.shape(tensor)
    return ops.reshape(tensor, (units // step, step, *shape))


def _units_last(tensor):
    """Undoes `_units_first`."""
    steps, step, *shape = ops.shape(tensor)
    return ops.moveaxis(ops.reshape(tensor, (steps * step, *shape)), 0, -1)


def _product(query, key):
    return 1.0 / (query[..., :, None] * key[..., None, :] + 1.0)


def _tanh(query, key):
    return 0.5 - 0.5 * ops.tanh(query[..., :, None] + key[..., None, :])


def _forward(part, query, key, vector):
    """Sums up `vector * (1 - 2 r)`, where `r` is `part(query, key)`."""
    steps, _, *rows = ops.shape(query)

    def step(i, total):
        hidden = part(query[i], key[i]) * (-2.0 * vector[i][..., None])
        return total + ops.sum(hidden, axis=0)

    constant = ops.sum(vector, axis=(0, 1))[..., None]  # (1, ..., 1, 1)
    total = ops.broadcast_to(constant, (*rows, ops.shape(key)[-1]))
    return ops.fori_loop(0, steps, step, total)


def _backward(part, query, key, vector, upstream):
    """Returns the gradients of query, key and vector."""
    one = ops.ones((ops.shape(upstream)[-1], 1), upstream.dtype)

    def step(inputs):
        query, key, vector = inputs
        r = part(query, key)  # (step, B, ..., T, S)
        d_r = upstream * r
        d_sum = d_r * (1.0 - r)
        # A product with ones is a faster sum of rows than a sum is.
        d_query = 4.0 * vector * matmul(d_sum, one)[..., 0]
        d_key = 4.0 * vector * _sum_rows(d_sum)
        return d_query, d_key, ops.sum(matmul(d_r, one)[..., 0], axis=(1, -1))

    d_query, d_key, d_r = map(_units_last, ops.map(step, (query, key, vector)))
    total = ops.sum(upstream, axis=(0, -2, -1))[..., None]
    return d_query, d_key, total - 2.0 * d_r


def _sum_rows(tensor):
    """Sums over the last axis but one; by halves, for that becomes vector code."""
    rows = tensor.shape[-2]
    while rows is not None and rows > 1 and rows % 2 == 0:
        rows //= 2
        tensor = tensor[..., :rows, :] + tensor[..., rows:, :]
    return ops.sum(tensor, axis=-2)
