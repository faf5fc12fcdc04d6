"""Attention by blocks of rows, for any score and any normalizer.

Each block is computed again for its gradient, and only then differentiated, so that the
weights of one block exist at a time. The gradient of softmax of dot products is written by
hand, as in `dense`; all others are differentiated by the backend.

On TensorFlow the loop over the blocks runs in two ways. Compiled by XLA it is fast, and
each shape costs seconds of compiling. As a plain graph nothing is compiled, so that
sequences may have any lengths.
"""

import functools

from keras import ops

from keras_sam.attention.dense import gradients_of_scores, softmax_weights
from keras_sam.attention.request import Inputs
from keras_sam.attention.row_blocks import RowBlocks
from keras_sam.attention.shares import share_out
from keras_sam.backend.derivatives import vjp
from keras_sam.backend.precision import is_wide, product, wide
from keras_sam.normalizers.masking import attention_weights


@functools.lru_cache(maxsize=64)
def passes(request, plan):
    """Returns the forward and the backward pass, compiled once if the plan says so."""
    back = plan.blocks_backward or plan.blocks
    run_forward = functools.partial(forward, request=request, blocks=plan.blocks)
    run_backward = functools.partial(backward, request=request, blocks=back)
    return share_out(run_forward, run_backward, plan)


def forward(inputs, constants, *, request, blocks):
    """Returns the output `(B, H, T, Dv)`, and no residuals."""
    cut = RowBlocks(inputs, constants, request, blocks)

    def one_block(block, carry):
        output = attend_block(cut, block, block_inputs(cut, block, inputs))
        return {"output": output}, {}, carry

    rows, _, _ = cut.run(one_block, {"output": inputs.query.dtype})
    return rows["output"], ()


def backward(inputs, constants, output, residuals, upstream, *, request, blocks):
    """Returns the gradients as `Inputs`."""
    cut = RowBlocks(inputs, constants, request, blocks)
    differentiate = _by_backend
    if request.is_softmax_of_dot_products:
        differentiate = _by_hand
    of_rows = cut.pad(output), cut.pad(upstream)

    def one_block(block, carry):
        given = block_inputs(cut, block, inputs)
        parts = differentiate(cut, block, given, *map(block.of_rows, of_rows))
        return add_gradients(cut, block, parts, carry)

    return collect_gradients(inputs, cut, one_block)


def block_inputs(cut, block, inputs):
    """Returns the `Inputs` of a block, with keys and values turned: `(.., depth, S)`."""
    return Inputs(
        query=block.of_rows(cut.query),
        key=block.of_turned_keys(cut.key),
        value=block.of_turned_keys(cut.value),
        bias=None if cut.bias is None else block.of_pairs(cut.bias),
        operands=inputs.operands,
        sinks=None if inputs.sinks is None else block.of_pairs(inputs.sinks),
    )


def scores_of(given, request):
    """Returns the scores of a block, without the bias."""
    if request.score.is_dot_product:
        return product(given.query, given.key)
    scores = request.score(given.operands, given.query, ops.swapaxes(given.key, 2, 3))
    return ops.cast(scores, wide(given.query.dtype))


def attend_block(cut, block, given):
    """Returns the output of a block."""
    if cut.request.is_softmax_of_dot_products:
        weights = _softmax_weights(cut, block, given)
        return _sum_values(cut, block, weights, given.value)
    scores = scores_of(given, cut.request)
    if cut.request.modify is not None:
        scores = cut.request.modify(given.operands, scores, cut.pairs(block))
    return attend_scored(cut, block, given.value, scores, given.bias, given.sinks)


def attend_scored(cut, block, value, scores, bias, sinks=None):
    """Returns the output of a block from its scores and the bias of them."""
    normalizer, allowed = cut.request.normalizer, cut.allowed(block)
    weights = attention_weights(scores, normalizer, allowed, bias, sinks=sinks)
    return _sum_values(cut, block, weights, value)


def _sum_values(cut, block, weights, value):
    if cut.request.dropout:
        weights = weights * cut.dropout_mask(block)
    if not is_wide(value):
        return ops.cast(product(weights, ops.swapaxes(value, 2, 3)), value.dtype)
    # The gradient of an einsum over a turned value is the faster product.
    return ops.einsum("bhts,bhds->bhtd", weights, value)


def _softmax_weights(cut, block, given):
    key_mask = None if cut.key_mask is None else block.of_pairs(cut.key_mask)
    only_keys = cut.mask is None and not cut.by_position
    mask = None if only_keys else cut.allowed(block)
    return softmax_weights(given.query, given.key, given.bias, key_mask, mask)


def _by_hand(cut, block, given, output, upstream):
    """Returns the gradients of a block of softmax of dot products."""
    weights = _softmax_weights(cut, block, given)
    factors = cut.dropout_mask(block) if cut.request.dropout else None
    value = given.value
    d_scores = gradients_of_scores(weights, factors, value, output, upstream)
    dropped = weights if factors is None else weights * factors
    d_query = product(d_scores, block.of_keys(cut.key_rows))
    return Inputs(
        query=ops.cast(d_query, given.query.dtype),
        key=product(ops.swapaxes(given.query, 2, 3), d_scores),
        value=product(ops.swapaxes(upstream, 2, 3), dropped),
        bias=None if given.bias is None else d_scores,
    )


def _by_backend(cut, block, given, output, upstream):
    """Returns the gradients of a block of any score and normalizer."""
    present = {name: x for name, x in given._asdict().items() if x is not None}

    def attend(tensors):
        return attend_block(cut, block, Inputs(**tensors))

    return Inputs(**vjp(attend, present, upstream))


def add_gradients(cut, block, parts, carry):
    """Adds the gradients of a block, `Inputs`, to `carry`; see `RowBlocks.run`."""
    operands, sums = carry
    operands = tuple(x + part for x, part in zip(operands, parts.operands, strict=True))
    if "bias" in sums:
        sums = {**sums, "bias": block.add_pairs(sums["bias"], parts.bias)}
    if "sinks" in sums:
        sums = {**sums, "sinks": block.add_pairs(sums["sinks"], parts.sinks)}
    of_keys = {"key": parts.key, "value": parts.value}
    return {"query": parts.query}, of_keys, (operands, sums)


def collect_gradients(inputs, cut, one_block, sums=None, reverse=False):
    """Runs `one_block` over all blocks, and returns the gradients as `Inputs`."""
    sums = dict(sums or {})
    if cut.bias is not None:
        sums["bias"] = ops.zeros_like(cut.bias)
    if inputs.sinks is not None:
        sums["sinks"] = ops.zeros_like(inputs.sinks)
    carry = tuple(map(ops.zeros_like, inputs.operands)), sums
    dtypes, names = {"query": inputs.query.dtype}, ("key", "value")
    rows, of_keys, (operands, sums) = cut.run(one_block, dtypes, names, carry, reverse)
    bias = None
    if inputs.bias is not None:
        batch, _, length, _ = ops.shape(inputs.bias)
        bias = sums["bias"][:batch, :, :length]
    return Inputs(
        query=rows["query"],
        key=ops.cast(ops.swapaxes(of_keys["key"], 2, 3), inputs.key.dtype),
        value=ops.cast(ops.swapaxes(of_keys["value"], 2, 3), inputs.value.dtype),
        bias=bias,
        operands=operands,
        sinks=sums.get("sinks"),
    )
