"""Attention that never holds more than a few rows of the weights, or a part of them.

Here it is decided how: all rows at once or slab by slab, and with which kernel.
"""

import functools
import math

from keras import ops

from keras_sam.ops import all_rows, any_score, dot_softmax, selective
from keras_sam.ops.compiled import on_cpu, runs_eagerly
from keras_sam.ops.penalty import selectable_keys
from keras_sam.ops.precision import matmul, wide
from keras_sam.ops.problem import Options
from keras_sam.ops.spans import smaller
from keras_sam.ops.tiles import KEYS_ON_ACCELERATORS

# Up to so many weights (16 MiB of float32) nothing is gained by slabs.
FEW_WEIGHTS = 2**22
# A row of at most so many weights for each number of a query takes no more memory than
# what the row keeps anyway, which is its query, key, value and output.
FEW_FOR_A_ROW = 4
# Dot products are fastest with so many rows, measured from 64 to 1024; with fewer where
# rows do not see all keys, because a slab reads what any of its rows sees.
DOT_PRODUCT_ROWS = 512
DOT_PRODUCT_ROWS_AT_AN_EDGE = 256
# Accelerators want few and large products: so many pairs at a time, 256 MiB of float32.
PAIRS_ON_ACCELERATORS = 2**26
# Selective attention keeps one row of keys for each slab: at least so many rows.
SELECTIVE_ROWS = 64
# Other scores have so many pairs of a row and a key in a slab: 2 MiB of float32, or half a
# MiB where several tensors as large are there for the gradient. Measured for additive ones.
PAIRS = 2**19
PAIRS_BACKWARD = 2**17


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
    selective=False,
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
        selective: Whether the first head takes off scores; see `penalty`. Only where
            `causal` is set.
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
    dtype = wide(given)
    query, key, value = (ops.cast(x, dtype) for x in (query, key, value))
    operands = tuple(ops.cast(x, dtype) for x in operands)
    bias = None if bias is None else ops.cast(bias, dtype)
    inputs = {"query": query, "key": key, "value": value, "bias": bias}
    inputs |= {f"operand{i}": tensor for i, tensor in enumerate(operands)}
    constants = {
        "mask": None if mask is None else ops.cast(mask, "bool"),
        "key_mask": None if key_mask is None else ops.cast(key_mask, "bool"),
        "seed": seed.next() if dropout else None,
    }
    if selective:
        constants |= {
            "query_mask": None if query_mask is None else ops.cast(query_mask, "bool"),
            "selectable": selectable_keys(ops.shape(key)[2], key_mask),
        }
    elif compare is None and normalizer is None and temperature != 1:
        inputs["query"] = query / temperature
        inputs["bias"] = None if bias is None else bias / temperature
        temperature = 1.0
    options = Options(block_size, causal, sliding_window, selective, dropout)
    shape = (*ops.shape(query)[:3], ops.shape(key)[2])
    if compare is None and normalizer is None and are_few(shape, query.shape[3], options):
        few = softmax(temperature), options.with_rows(None)
        output = all_rows.keeping({**inputs, **constants}, dot_product, *few)
    else:
        passes = choose_passes(shape, compare, normalizer, temperature, options)
        output = run(passes, inputs, constants)
    output = _with_shape(ops.cast(output, given), (*shape[:3], ops.shape(value)[3]))
    if query_mask is None:
        return output
    return ops.where(query_mask[:, None, :, None], output, ops.zeros_like(output))


def run(passes, inputs, constants):
    """Runs a forward pass whose gradient is the backward pass.

    Args:
        passes: The two functions. `forward(tensors)` returns the output and something
            about each row to keep, `(B, H, T, n)`. `backward(tensors)`, which is given
            both too and `upstream`, returns a dictionary of gradients.
        inputs: A dictionary of float tensors or None.
        constants: A dictionary of tensors that have no gradient, or None.
    """
    forward, backward = passes
    names = [name for name, tensor in inputs.items() if tensor is not None]

    @ops.custom_gradient
    def attend(*tensors):
        # Or an eager TensorFlow differentiates the passes all the same.
        tensors = map(ops.stop_gradient, tensors)
        given = {**inputs, **constants, **dict(zip(names, tensors, strict=True))}
        output, kept = forward(given)

        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            more = {"output": output, "kept": kept, "upstream": upstream}
            gradients = backward({**given, **more})
            return tuple(_with_shape(gradients[n], ops.shape(given[n])) for n in names)

        return output, gradient

    return attend(*(inputs[name] for name in names))


def _with_shape(tensor, shape):
    """Gives a tensor the static sizes that it has.

    A compiled function that was traced for unknown sizes, as in `fit`, also serves calls
    where they are known, and would then return unknown ones: no loop takes those.
    """
    return ops.reshape(tensor, shape)


def choose_passes(shape, compare, normalizer, temperature, options):
    """Chooses the forward and the backward pass.

    Args:
        shape: The shape `(B, H, T, S)` of the weights. Sizes are integer tensors where
            they are not known yet.
        compare: See `attend_blockwise`.
        normalizer: See `attend_blockwise`.
        temperature: See `attend_blockwise`.
        options: `Options`, whose block size may be `"auto"`.
    """
    normalize = normalizer or softmax(temperature)
    lengths_are_known = all(isinstance(size, int) for size in shape[1:])
    rows = options.block_size
    if rows == "auto" and options.selective:
        rows = max(rows_of_pairs(shape), SELECTIVE_ROWS)
    elif rows == "auto":
        rows = rows_of_pairs(shape)
        if compare is None:
            keys = shape[3] if normalizer else smaller(shape[3], KEYS_ON_ACCELERATORS)
            rows = rows_of_dot_products((*shape[:3], keys), options)
    options_of_slabs = options.with_rows(rows)
    if options.selective:
        in_slabs = selective.passes(compare, normalize, options_of_slabs)
    elif compare is None and normalizer is None:
        in_slabs = dot_softmax.passes(options_of_slabs)
    else:
        back = options_of_slabs
        if options.block_size == "auto" and compare is not None:
            back = options.with_rows(rows_of_pairs(shape, PAIRS_BACKWARD))
        in_slabs = any_score.passes(compare, normalize, options_of_slabs, back)
    if options.block_size != "auto":
        return in_slabs
    at_once = all_rows.passes(compare or dot_product, normalize, options.with_rows(None))
    if runs_eagerly():
        # Calls are of many lengths, and compiling takes a second for each.
        return at_once if math.prod(shape) <= FEW_WEIGHTS else in_slabs
    if lengths_are_known:
        return in_slabs
    return either(at_once, in_slabs)


def are_few(shape, depth, options):
    """Whether the weights, `(B, H, T, S)`, are known to be so few that all are kept."""
    if any(isinstance(size, int) and size == 0 for size in shape):
        return True
    if not all(isinstance(size, int) for size in shape[1:]):
        return False
    if options.block_size != "auto":
        return False
    if shape[3] <= FEW_FOR_A_ROW * depth:
        return True
    return isinstance(shape[0], int) and math.prod(shape) <= FEW_WEIGHTS


def either(at_once, in_slabs):
    """Chooses when it runs, where the lengths are unknown before.

    Few rows at once need no compiler, which would have to compile them anew for each
    length that a batch of short sequences may have.
    """

    def choose(index):
        def chosen(tensors):
            query, key = tensors["query"], tensors["key"]
            weights = math.prod((*ops.shape(query)[:3], ops.shape(key)[2]))
            return ops.cond(
                weights <= FEW_WEIGHTS,
                lambda: at_once[index](tensors),
                lambda: in_slabs[index](tensors),
            )

        return chosen

    return choose(0), choose(1)


def rows_of_dot_products(shape, options):
    """How many rows a slab of dot products has, where `shape` is read at a time."""
    if not on_cpu():
        return rows_of_pairs(shape, PAIRS_ON_ACCELERATORS)
    has_edge = options.causal or options.sliding_window is not None
    return DOT_PRODUCT_ROWS_AT_AN_EDGE if has_edge else DOT_PRODUCT_ROWS


def rows_of_pairs(shape, pairs=PAIRS):
    """How many rows so many weights have; unknown sizes count as usual ones."""
    batch, heads, _, keys = (
        size if isinstance(size, int) else usual
        for size, usual in zip(shape, (8, 8, 1024, 1024), strict=True)
    )
    return min(max(pairs // (batch * heads * keys), 8), 1024)


def dot_product(operands, query, key):
    """Scores by the dot product."""
    return matmul(query, ops.swapaxes(key, -1, -2))


@functools.cache
def softmax(temperature):
    """Softmax with a temperature, as a normalizer."""

    def normalize(scores):
        if scores.shape[-1] == 1:
            return ops.exp(scores - scores)  # one, or not a number; Keras would warn
        return ops.softmax(scores if temperature == 1.0 else scores / temperature)

    return normalize
