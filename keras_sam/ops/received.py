"""How much weight each key receives: column sums of weights that are never all there."""

import functools

import keras
from keras import ops

from keras_sam.ops.attention import attention_weights
from keras_sam.ops.blockwise import run
from keras_sam.ops.compiled import compiled, vjp
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
    valid = ops.ones(ops.shape(query)[:1] + ops.shape(query)[2:3], "bool")
    if mask is not None:
        valid = ops.cast(mask, "bool")
    inputs = {"query": query, "key": key}
    inputs |= {f"operand{i}": tensor for i, tensor in enumerate(operands)}
    inputs = {name: ops.cast(tensor, wide) for name, tensor in inputs.items()}
    return run(_passes(compare, normalizer, tuple(inputs)), inputs, {"valid": valid})


@functools.lru_cache(maxsize=64)
def _passes(compare, normalizer, names):
    """The forward and the backward pass, one for all layers."""

    def of_slab(query, valid, inputs, key_valid):
        scores = compare(tuple(inputs[name] for name in names[2:]), query, inputs["key"])
        weights = attention_weights(scores, normalizer, key_valid[:, None, None, :])
        rows = ops.cast(valid, weights.dtype)[:, None, :, None]
        return ops.sum(ops.multiply(weights, rows), axis=-2)

    def received(inputs, valid):
        rows = smaller(ROWS, ops.shape(inputs["query"])[2])
        slabs = _cut(inputs["query"], 2, rows), _cut(ops.cast(valid, "int32"), 1, rows)
        sums = ops.map(lambda slab: of_slab(*slab, inputs, valid), slabs)
        return ops.sum(sums, axis=0)

    def forward(tensors):
        inputs = {name: tensors[name] for name in names}
        return received(inputs, tensors["valid"]), ops.zeros(())

    def backward(tensors):
        query = tensors["query"]
        rows = smaller(ROWS, ops.shape(query)[2])
        valid = tensors["valid"]
        shared = {name: tensors[name] for name in names[1:]}

        def of_one(slab):
            def sums(inputs):
                return of_slab(inputs["query"], slab[1], inputs, valid)

            return vjp(sums, {"query": slab[0], **shared}, tensors["upstream"])

        slabs = _cut(query, 2, rows), _cut(ops.cast(valid, "int32"), 1, rows)
        parts = ops.map(of_one, slabs)
        gradients = {name: ops.sum(parts[name], axis=0) for name in shared}
        turned = ops.moveaxis(parts["query"], 0, 2)  # (B, H, slabs, rows, D)
        shape = ops.shape(query)
        whole = ops.reshape(turned, (*shape[:2], -1, shape[3]))
        return {"query": whole[:, :, : shape[2]], **gradients}

    return compiled(forward), compiled(backward)


def _cut(tensor, axis, rows):
    """Cuts an axis into slabs of `rows`, filled up with zeros: `(slabs, ...)`."""
    shape = list(ops.shape(tensor))
    count = -(-shape[axis] // rows)
    more = [(0, 0)] * len(shape)
    more[axis] = (0, count * rows - shape[axis])
    shape[axis : axis + 1] = [count, rows]
    return ops.moveaxis(ops.reshape(ops.pad(tensor, more), shape), axis, 0)
