"""Selective attention: what positions take off the scores of those after them.

::

    S_ij = relu(logits_ij)  of the first head, 0 where row i may not select key j
    F_ij = sum over rows k < i of S_kj          (a row selects for the rows after it)

A row selects among the keys before itself that it may attend to, but never the first
key: what begins a sequence stays in sight. Heads are axis 1; all of them lose the same.

By blocks of rows, what the rows before a block take off each key, `F`, is one row of
numbers that is handed on from block to block. Its gradient `G`, what the rows after a
block lose by it, is handed back from block to block::

    forward    F_t+1 = F_t + (sum over rows of S_t)         output_t = f(F_t, S_t, ...)
    backward   G_t = G_t+1 + d output_t / d F_t             and each row of S_t has the
                                                            gradient G_t+1 as well
Going backward needs each `F_t` again. A first pass keeps them, one row of keys for each
block of rows; it needs nothing but the head that selects where scores are dot products.
All heads go through a block together, because they all lose the same.

Reference: Leviathan et al., 2024, "Selective Attention Improves Transformer"
(https://arxiv.org/abs/2410.02703), section 3.
"""

import functools

from keras import ops

from keras_sam.attention import chunked
from keras_sam.attention.penalty import (
    accumulate,
    add_bias,
    first_head,
    select,
    selectable_keys,
)
from keras_sam.attention.request import Inputs
from keras_sam.attention.row_blocks import RowBlocks
from keras_sam.attention.shares import share_out
from keras_sam.backend.derivatives import vjp
from keras_sam.normalizers.masking import wide_scores


@functools.lru_cache(maxsize=64)
def passes(request, plan):
    """Returns the forward and the backward pass, compiled once if the plan says so."""
    options = {"request": request, "blocks": plan.blocks}
    both = functools.partial(forward, **options), functools.partial(backward, **options)
    return share_out(*both, plan)


def forward(inputs, constants, *, request, blocks):
    """Returns the output `(B, H, T, Dv)`, and no residuals."""
    cut = _SelectiveBlocks(inputs, constants, request, blocks)

    def one_block(block, before):
        given = cut.inputs_of(block, inputs, block.of_pairs(before))
        output, total = _attend_block(cut, block, given)
        return {"output": output}, {}, block.add_pairs(before, total)

    dtypes = {"output": inputs.query.dtype}
    rows, _, _ = cut.run(one_block, dtypes, carry=cut.nothing)
    return rows["output"], ()


def backward(inputs, constants, output, residuals, upstream, *, request, blocks):
    """Returns the gradients as `Inputs`."""
    cut = _SelectiveBlocks(inputs, constants, request, blocks)
    upstream = cut.pad(upstream)
    all_before = _first_pass(cut, inputs)

    def one_block(block, carry):
        def attend(tensors):
            return _attend_block(cut, block, tensors)

        operands, sums = carry
        before = ops.slice(all_before, *cut.row_of(block))
        given = cut.inputs_of(block, inputs, before)
        lost = block.of_pairs(sums["before"])
        parts = vjp(attend, given, (block.of_rows(upstream), lost))
        of_before = block.add_pairs(sums["before"], parts.pop("before"))
        rows, of_keys, (operands, sums) = chunked.add_gradients(
            cut, block, Inputs(**parts), (operands, sums)
        )
        return rows, of_keys, (operands, {**sums, "before": of_before})

    sums = {"before": cut.nothing}
    return chunked.collect_gradients(inputs, cut, one_block, sums, reverse=True)


def _first_pass(cut, inputs):
    """Returns `F_t` of each block for the keys that it reads, `(B, 1, blocks, width)`."""

    def one_block(block, carry):
        every, before = carry
        row = block.of_pairs(before)
        given = cut.inputs_of(block, inputs, row)
        if cut.request.score.is_dot_product:
            given |= {name: given[name][:, :1] for name in ("query", "key")}
        selected = cut.selected(block, given, cut.scores(given))
        total = ops.sum(selected, axis=-2, keepdims=True)
        every = block.add_at(every, row, cut.row_of(block)[0])
        return {}, {}, (every, block.add_pairs(before, total))

    widest = cut.groups[-1].width
    shape = (cut.all_examples, 1, cut.blocks, widest)
    every = ops.zeros(shape, inputs.query.dtype)
    return cut.run(one_block, {}, carry=(every, cut.nothing))[2][0]


def _attend_block(cut, block, given):
    """Returns the output of a block, and what its rows together take off each key."""
    scores = cut.scores(given)
    selected = cut.selected(block, given, scores)
    taken = given["before"] + accumulate(selected)
    bias = add_bias(given.get("bias"), -taken)
    output = chunked.attend_scored(cut, block, given["value"], scores, bias)
    return output, ops.sum(selected, axis=-2, keepdims=True)


class _SelectiveBlocks(RowBlocks):
    """One call of selective attention, cut into blocks of rows."""

    def __init__(self, inputs, constants, request, blocks):
        super().__init__(inputs, constants, request, blocks)
        selectable = selectable_keys(self.key_length, constants.key_mask)
        if selectable.shape[0] != 1:
            selectable = self.pad_examples(selectable)
        self.selectable = selectable
        selecting = constants.query_mask
        if selecting is not None:
            selecting = self.pad(selecting[:, None, :, None])
        self.selecting = selecting
        self.nothing = ops.zeros_like(self.key[:, :1, :1])  # (B, 1, 1, S)

    def inputs_of(self, block, inputs, before):
        """Returns a dictionary of what a block is differentiated by."""
        given = chunked.block_inputs(self, block, inputs)
        present = {name: x for name, x in given._asdict().items() if x is not None}
        return {**present, "before": before}

    def scores(self, given):
        """Returns the scores of a block, without the bias."""
        names = "query", "key", "value", "operands"
        inputs = Inputs(**{name: given[name] for name in names})
        return chunked.scores_of(inputs, self.request)

    def selected(self, block, given, scores):
        """Returns what each row of a block takes off each key, `(B, 1, rows, width)`."""
        selectable = block.of_pairs(self.selectable)
        if self.selecting is not None:
            selectable = ops.logical_and(selectable, block.of_pairs(self.selecting))
        logits = wide_scores(scores[:, :1], first_head(given.get("bias")))
        positions = block.positions(2), block.positions(3)
        return select(logits, self.allowed(block), selectable, *positions)

    def row_of(self, block):
        """Returns first indices and sizes of a block in `(B, 1, blocks, width)`."""
        examples, _, _, width = block.size
        start = (block.start[0], 0, block.start[2] // self.rows, 0)
        return start, (examples, 1, 1, width)
