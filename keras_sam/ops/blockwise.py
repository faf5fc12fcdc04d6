"""Attention that never holds more than a few rows of the weights.

Here it is decided how: all rows at once or slab by slab, and with which kernel.
"""

import functools
import math

import keras
from keras import ops

from keras_sam.ops import any_score, attention, dot_softmax
from keras_sam.ops.compiled import compiled
from keras_sam.ops.keep import keep
from keras_sam.ops.slabs import Options

# Up to so many weights (1 MiB of float32 for each example, or 4 MiB for all of them),
# computing them at once is faster than slab by slab.
FEW_WEIGHTS = 2**18


def auto_block_size(shape):
    """Chooses how many rows a slab has, or None for all rows at once.

    Args:
        shape: The shape `(B, H, T, S)` of the weights, with None for what is unknown.
    """
    batch, *sizes = shape
    if None in sizes:
        return 256
    weights = math.prod(sizes)
    if batch is None:
        return None if weights <= FEW_WEIGHTS else 256
    return None if weights * batch <= 4 * FEW_WEIGHTS else 256


def attend_blockwise(
    query,
    key,
    value,
    *,
    compare=None,
    operands=(),
    normalizer=None,
    temperature=1.0,
    mask=None,
    key_mask=None,
    query_mask=None,
    bias=None,
    causal=False,
    sliding_window=None,
    dropout=0.0,
    seed=None,
    block_size="auto",
):
    """Attends slab by slab of query rows; the weights are never all there.

    ::

        output = (mask * normalizer(compare(query, key) + bias)) @ value

    Dot products with softmax, both the default, have a kernel of their own.

    Args:
        query: Float tensor `(B, H, T, D)`.
        key: Float tensor `(B, H or a divisor of it, S, D)`.
        value: Float tensor `(B, as key, S, Dv)`.
        compare: A function `(operands, query, key) -> (B, H, rows, S)` that scores some
            of the rows, or None for dot products. Equal ones are compiled once.
        operands: A tuple of float tensors, the weights of the score.
        normalizer: A function of float32 scores that works on the last axis, or None
            for softmax. Equal ones are compiled once.
        temperature: What softmax divides scores by, where `normalizer` is None.
        mask: Boolean tensor `(B or 1, H or 1, T or 1, S or 1)`; True is "may attend".
        key_mask: Boolean tensor `(B, S)`; False is padding.
        query_mask: Boolean tensor `(B, T)`; False is padding, its output is zero.
        bias: Float tensor `(B or 1, H or 1, T or 1, S or 1)`, added to the scores.
        causal: Whether a row attends to keys at or before its own position only.
        sliding_window: None, or attend to keys less than so many positions away.
        dropout: The share of weights to drop, in [0, 1).
        seed: A `keras.random.SeedGenerator`, if there is dropout.
        block_size: The number of rows of a slab, or `"auto"`.

    Returns:
        The output, `(B, H, T, Dv)`, in the dtype of `query`.
    """
    given = query.dtype
    heads = query.shape[1]
    key, value = (
        x if x.shape[1] == heads else ops.repeat(x, heads // x.shape[1], axis=1)
        for x in (key, value)
    )
    wide = given if keras.backend.standardize_dtype(given) == "float64" else "float32"
    query, key, value = (ops.cast(x, wide) for x in (query, key, value))
    operands = tuple(ops.cast(x, wide) for x in operands)
    bias = None if bias is None else ops.cast(bias, wide)
    constants = {
        "mask": None if mask is None else ops.cast(mask, "bool"),
        "key_mask": None if key_mask is None else ops.cast(key_mask, "bool"),
        "seed": seed.next() if dropout else None,
    }
    simple = compare is None and normalizer is None
    if block_size == "auto":
        sizes = (*query.shape[:3], key.shape[2])
        block_size = auto_block_size(sizes)
    options = Options(block_size, causal, sliding_window, dropout)
    if block_size is not None and simple:
        if temperature != 1:
            query = query / temperature
            bias = None if bias is None else bias / temperature
        output = dot_softmax.attend(query, key, value, bias, constants, options)
    else:
        compare = compare or dot_product
        normalizer = normalizer or softmax(temperature)
        inputs = query, key, value, bias, operands, constants
        attend = all_rows if block_size is None else any_score.attend
        output = attend(*inputs, compare, normalizer, options)
    output = ops.cast(output, given)
    if query_mask is None:
        return output
    return ops.where(query_mask[:, None, :, None], output, ops.zeros_like(output))


def dot_product(operands, query, key):
    """Scores by the dot product."""
    return ops.matmul(query, ops.swapaxes(key, -1, -2))


@functools.cache
def softmax(temperature):
    """Softmax with a temperature, as a normalizer."""
    return lambda scores: ops.softmax(scores / temperature, axis=-1)


def all_rows(query, key, value, bias, operands, constants, compare, normalizer, options):
    """Attends with all rows at once, as it is best for short sequences."""
    attend = _all_rows(compare, normalizer, options)
    return attend(query, key, value, bias, operands, constants)


@functools.lru_cache(maxsize=64)
def _all_rows(compare, normalizer, options):
    """The compiled function of `all_rows`, one for all layers."""

    def attend(query, key, value, bias, operands, constants):
        def drop(weights):
            batch, heads, rows, keys = map(ops.arange, ops.shape(weights))
            seed, rate = constants["seed"], options.dropout
            return weights * keep(seed, batch[:, None], heads, rows, keys, rate)

        output, _ = attention.attend(
            query,
            key,
            value,
            compare=functools.partial(compare, operands),
            normalizer=normalizer,
            mask=constants["mask"],
            key_mask=constants["key_mask"],
            bias=bias,
            causal=options.causal,
            sliding_window=options.sliding_window,
            dropout=drop if options.dropout else None,
        )
        return output

    return compiled(attend)
