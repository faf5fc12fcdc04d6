"""How much weight each key receives: column sums of weights, by blocks of rows.

For a block of query rows, with `s` the scores, `L` the logarithm of the sum of their
exponentials and `g` the gradient of the sums, the same for all rows::

    w = exp(s - L)                 ds = w * (g - w @ g)
    received += sum_i w_ij         dq, dk, ... = the vjp of the score for ds

Softmax is differentiated by hand, the score by the backend.
"""

import functools

from keras import ops

from keras_sam import normalizers
from keras_sam.attention import chunked, reference
from keras_sam.attention.plan import Device
from keras_sam.attention.policy import DEFAULT
from keras_sam.attention.request import Constants, Inputs, Request, Sizes
from keras_sam.attention.row_blocks import RowBlocks
from keras_sam.backend.derivatives import vjp, with_gradient
from keras_sam.backend.portable import is_portable
from keras_sam.backend.precision import wide
from keras_sam.backend.xla import compiled
from keras_sam.normalizers.masking import MASKED


def column_sums(query, key, score, mask=None, policy=DEFAULT):
    """Sums the weight that each key receives from all queries.

    ::

        received_j = sum_i softmax_j(score(query, key))_ij

    Args:
        query: Float tensor `(B, H, T, D)`, projected by the score.
        key: Float tensor `(B, H, T, D)`, likewise.
        score: A built `keras_sam.scores.Score`.
        mask: Boolean `(B, T)` or None; False is padding, which neither gives nor
            receives weight.
        policy: The `Policy` that chooses between all pairs at once and blocks.

    Returns:
        The sums over queries, `(B, H, T)`, at least float32.
    """
    dtype = wide(query.dtype)
    compare, operands = score.as_function()
    query, key = ops.cast(query, dtype), ops.cast(key, dtype)
    inputs = Inputs(query, key, None, None, tuple(ops.cast(x, dtype) for x in operands))
    request = Request(compare, normalizers.Softmax())
    constants = Constants(key_mask=mask, query_mask=mask)
    plan = policy.choose_sums(request, Sizes.of(inputs), Device.current())
    if plan.kernel == "reference" or is_portable():
        return _all_pairs(inputs, constants, request)
    run_forward, run_backward = _passes(request.without_weights(), plan)

    def forward(given, constants):
        sums, kept = run_forward(_with_value(given), constants)
        return [sums], kept

    def backward(given, constants, outputs, kept, upstream):
        gradients = run_backward(_with_value(given), constants, kept, *upstream)
        return {name: getattr(gradients, name) for name in given}

    def again(given, constants, upstream):
        def sums(given):
            return [_all_pairs(_with_value(given), constants, request)]

        return vjp(sums, given, upstream)

    given = {"query": query, "key": key, "operands": inputs.operands}
    return with_gradient(forward, backward, again)(given, constants)[0]


def _with_value(given):
    return Inputs(given["query"], given["key"], None, None, given["operands"])


def _all_pairs(inputs, constants, request):
    """Returns the sums of all weights at once."""
    return ops.sum(reference.weigh(inputs, constants, request), axis=2)


@functools.lru_cache(maxsize=64)
def _passes(request, plan):
    """Returns the forward and the backward pass, compiled if the plan says so."""
    options = {"request": request, "blocks": plan.blocks}
    both = functools.partial(_forward, **options), functools.partial(_backward, **options)
    return tuple(map(compiled, both)) if plan.compiled else both


class _Blocks(RowBlocks):
    """Blocks of rows, and which of their pairs count."""

    def __init__(self, inputs, constants, request, blocks):
        super().__init__(inputs, constants, request, blocks)
        # The columns of each block: `parts` of `RowBlocks.run` are added up like these.
        self.sums = self.key[:, :, :1]
        counted = ops.ones((self.batch, 1, self.length, 1), "bool")
        if constants.query_mask is not None:
            counted = constants.query_mask[:, None, :, None]
        self.counted = self.pad(ops.cast(counted, self.query.dtype))

    def masked(self, block, scores, value):
        """Replaces the scores of keys that are padding."""
        allowed = self.allowed(block)
        return scores if allowed is None else ops.where(allowed, scores, value)

    def counted_rows(self, block):
        """Returns 1 for the rows of a block that give weight, and 0 for the others."""
        return block.of_pairs(self.counted)


def _forward(inputs, constants, *, request, blocks):
    """Returns the sums `(B, H, T)` and the log sums of the rows, `(B, H, T, 1)`."""
    cut = _Blocks(inputs, constants, request, blocks)

    def one_block(block, carry):
        given = _block_inputs(cut, block, inputs)
        scores = cut.masked(block, _scores(given, request), MASKED)
        largest = ops.max(scores, axis=-1, keepdims=True)
        weights = cut.masked(block, ops.exp(scores - largest), 0.0)
        total = ops.sum(weights, axis=-1, keepdims=True)
        total = ops.where(total > 0.0, total, 1.0)
        weights = weights * (cut.counted_rows(block) / total)
        sums = {"sums": ops.sum(weights, axis=2, keepdims=True)}
        return {"kept": largest + ops.log(total)}, sums, carry

    dtypes = {"kept": inputs.query.dtype}
    rows, sums, _ = cut.run(one_block, dtypes, ("sums",), ())
    return sums["sums"][:, :, 0], rows["kept"]


def _backward(inputs, constants, kept, upstream, *, request, blocks):
    """Returns the gradients as `Inputs`."""
    cut = _Blocks(inputs, constants, request, blocks)
    log_sums = cut.pad(kept)
    upstream = cut.pad_examples(upstream[:, :, None, :])

    def one_block(block, operands):
        given = _block_inputs(cut, block, inputs)
        scores = cut.masked(block, _scores(given, request), MASKED)
        weights = cut.masked(block, ops.exp(scores - block.of_rows(log_sums)), 0.0)
        weights = weights * cut.counted_rows(block)
        of_keys = block.of_turned_keys(upstream)
        of_row = ops.sum(weights * of_keys, axis=-1, keepdims=True)
        slopes = weights * (of_keys - of_row)
        parts = vjp(lambda given: _scores(given, request), given, slopes)
        added = zip(operands, parts["operands"], strict=True)
        operands = tuple(total + part for total, part in added)
        return {"query": parts["query"]}, {"key": parts["key"]}, operands

    dtypes = {"query": inputs.query.dtype}
    operands = tuple(map(ops.zeros_like, inputs.operands))
    rows, of_keys, operands = cut.run(one_block, dtypes, ("key",), operands)
    key = ops.swapaxes(of_keys["key"], 2, 3)
    return Inputs(rows["query"], key, None, None, operands)


def _block_inputs(cut, block, inputs):
    """Returns the query, the keys and the operands of a block, as a dictionary."""
    query, key = block.of_rows(cut.query), block.of_turned_keys(cut.key)
    return {"query": query, "key": key, "operands": inputs.operands}


def _scores(given, request):
    """Returns the scores of a block."""
    inputs = Inputs(given["query"], given["key"], None, None, given["operands"])
    return chunked.scores_of(inputs, request)
