"""Attention that never holds more than a few rows of the weights.

Here it is decided how: all rows at once or slab by slab, and with which kernel.
"""

import dataclasses
import functools
import math

import keras
from keras import ops

from keras_sam.ops import any_score, attention, dot_softmax
from keras_sam.ops.compiled import compiled, runs_eagerly, vjp
from keras_sam.ops.keep import keep
from keras_sam.ops.slabs import Options

# Up to so many weights (4 MiB of float32), all at once is faster than slab by slab.
FEW_WEIGHTS = 2**20
# The rows of a slab.
BLOCK_SIZE = 256


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
    inputs = query, key, value, bias, operands, constants
    strategy = compare, normalizer, temperature
    options = Options(block_size, causal, sliding_window, dropout)
    if block_size != "auto":
        output = in_slabs(inputs, strategy, options)
    else:
        output = as_sizes_advise(inputs, strategy, options)
    output = ops.cast(output, given)
    if query_mask is None:
        return output
    return ops.where(query_mask[:, None, :, None], output, ops.zeros_like(output))


def as_sizes_advise(inputs, strategy, options):
    """Attends with all rows at once where there are few weights, else in slabs."""
    query, key = inputs[:2]
    shape = (*query.shape[:3], key.shape[2])
    slabs = dataclasses.replace(options, block_size=BLOCK_SIZE)
    if None not in shape:
        if not are_few(shape):
            return in_slabs(inputs, strategy, slabs)
        return all_rows(inputs, strategy, options, compile=not runs_eagerly())
    # Found out when it runs. Few rows at once need no compiler, which would have to
    # compile them anew for each length that a batch of short sequences may have.
    return either(
        are_few((*ops.shape(query)[:3], ops.shape(key)[2])),
        functools.partial(all_rows, strategy=strategy, options=options, compile=False),
        functools.partial(in_slabs, strategy=strategy, options=slabs),
        inputs,
    )


def either(condition, attend, otherwise, inputs):
    """Attends in one of two ways, and differentiates no more than the one taken.

    TensorFlow would keep what the gradients of both need.
    """
    *differentiable, constants = inputs
    given = [x for x in keras.tree.flatten(differentiable) if x is not None]

    def choose(use):
        return ops.cond(condition, lambda: use(attend), lambda: use(otherwise))

    @ops.custom_gradient
    def run(*tensors):
        tensors = [ops.stop_gradient(tensor) for tensor in tensors]

        def output(attend, tensors=tensors):
            tensors = iter(tensors)
            packed = keras.tree.map_structure(
                lambda x: None if x is None else next(tensors), differentiable
            )
            return attend((*packed, constants))

        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return choose(
                lambda way: vjp(functools.partial(output, way), tensors, upstream)
            )

        return choose(output), gradient

    return run(*given)


def are_few(shape):
    """Whether weights `(B, H, T, S)` are so few that all at once is faster."""
    return math.prod(shape) <= FEW_WEIGHTS


def in_slabs(inputs, strategy, options):
    """Attends slab by slab, with the kernel that fits."""
    query, key, value, bias, _, constants = inputs
    compare, normalizer, temperature = strategy
    if compare is not None or normalizer is not None:
        return any_score.attend(*inputs, *_functions(strategy), options)
    if temperature != 1:
        query = query / temperature
        bias = None if bias is None else bias / temperature
    return dot_softmax.attend(query, key, value, bias, constants, options)


def all_rows(inputs, strategy, options, compile):
    """Attends with all rows at once, as it is best for short sequences."""
    return _all_rows(*_functions(strategy), options, compile)(*inputs)


def _functions(strategy):
    """The functions that compare and normalize."""
    compare, normalizer, temperature = strategy
    return compare or dot_product, normalizer or softmax(temperature)


def dot_product(operands, query, key):
    """Scores by the dot product."""
    return ops.matmul(query, ops.swapaxes(key, -1, -2))


@functools.cache
def softmax(temperature):
    """Softmax with a temperature, as a normalizer."""

    def normalize(scores):
        # Keras's own warns of rows of one score, which are nothing special here.
        largest = ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True))
        weights = ops.exp((scores - largest) / temperature)
        return weights / ops.sum(weights, axis=-1, keepdims=True)

    return normalize


@functools.lru_cache(maxsize=64)
def _all_rows(compare, normalizer, options, compile):
    """The function of `all_rows`, one for all layers."""

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

    return compiled(attend) if compile else attend
