"""How much weight each key receives: column sums of weights that are never all there."""

import functools

import keras
from keras import ops

from keras_sam.ops.attention import attention_weights
from keras_sam.ops.compiled import compiled
from keras_sam.ops.spans import smaller

# Query rows that are computed at a time.
ROWS = 256


def received_weight(query, key, *, compare, operands, normalizer, mask=None):
    """Sums the weight that each key receives from all queries.

    ::

        received_j = sum_i normalizer(compare(query, key))_ij

    A slab of rows is made at a time, summed up, and made again for its gradient.

    Args:
        query: Float tensor `(B, H, T, D)`.
        key: Float tensor `(B, H, S, D)`.
        compare: A function `(operands, query, key) -> (B, H, rows, S)`. Equal ones are
            compiled once.
        operands: A tuple of float tensors, the weights of the score.
        normalizer: A function of float32 scores that works on the last axis.
        mask: Boolean `(B, T)`, where `T` is `S`, or None; False is padding, which
            neither gives nor receives weight.

    Returns:
        The sums over queries, `(B, H, S)`, at least float32.
    """
    dtype = keras.backend.standardize_dtype(query.dtype)
    wide = dtype if dtype == "float64" else "float32"
    query, key = ops.cast(query, wide), ops.cast(key, wide)
    valid = ops.ones(ops.shape(query)[:1] + ops.shape(query)[2:3], "int32")
    if mask is not None:
        valid = ops.cast(mask, "int32")  # booleans do not survive rematerialization
    return _compiled(compare, normalizer)(query, key, valid, tuple(operands))


@functools.lru_cache(maxsize=64)
def _compiled(compare, normalizer):
    """The compiled function, one for all layers."""

    @keras.remat
    def of_slab(query, valid, key, key_valid, *operands):
        scores = compare(operands, query, key)
        allowed = ops.cast(key_valid, "bool")[:, None, None, :]
        weights = attention_weights(scores, normalizer, allowed)
        rows = ops.cast(valid, weights.dtype)[:, None, :, None]
        return ops.sum(ops.multiply(weights, rows), axis=-2)

    def received(query, key, valid, operands):
        rows = smaller(ROWS, ops.shape(query)[2])
        slabs = _cut(query, 2, rows), _cut(valid, 1, rows)
        sums = ops.map(lambda slab: of_slab(*slab, key, valid, *operands), slabs)
        return ops.sum(sums, axis=0)

    return compiled(received)


def _cut(tensor, axis, rows):
    """Cuts an axis into slabs of `rows`, filled up with zeros: `(slabs, ...)`."""
    shape = list(ops.shape(tensor))
    count = -(-shape[axis] // rows)
    more = [(0, 0)] * len(shape)
    more[axis] = (0, count * rows - shape[axis])
    shape[axis : axis + 1] = [count, rows]
    return ops.moveaxis(ops.reshape(ops.pad(tensor, more), shape), axis, 0)
