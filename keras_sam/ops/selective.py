"""Selective attention slab by slab, for any score and any normalizer; see `penalty`.

What the rows before a slab take off each key, `F`, is one row of numbers that is handed
on from slab to slab. Its gradient `G`, what the rows after a slab lose by it, is handed
back from slab to slab::

    forward    F_t+1 = F_t + (sum over rows of S_t)         output_t = f(F_t, S_t, ...)
    backward   G_t = G_t+1 + d output_t / d F_t             and each row of S_t has the
                                                            gradient G_t+1 as well
Going backward needs each `F_t` again. A first pass keeps them, one row of keys for each
slab of rows; it needs nothing but the head that selects where scores are dot products.
All heads go through a slab together, because they all lose the same.
"""

import functools

from keras import ops

from keras_sam.ops import any_score
from keras_sam.ops.attention import add_bias, wide_scores
from keras_sam.ops.compiled import compiled, graph, vjp
from keras_sam.ops.penalty import accumulate, first_head, select
from keras_sam.ops.slabs import Slabs


@functools.lru_cache(maxsize=64)
def passes(compare, normalizer, options):
    """The forward and the backward pass, compiled once for all layers.

    See `blockwise.run`. Nothing is kept of a row. There are two more tensors:
    `query_mask`, `(B, T)` or None, and `selectable`, from `penalty.selectable_keys`.
    """
    static = {"compare": compare, "normalizer": normalizer, "options": options}
    forward = functools.partial(_forward, **static)
    backward = functools.partial(_backward, **static)
    return graph(compiled(forward)), graph(compiled(backward))


def _forward(tensors, compare, normalizer, options):
    problem = _Problem(tensors, options)

    def one_slab(slab, key, value, carry):
        inputs = problem.inputs(slab, key, value, slab.of_pairs(carry["before"]))
        output, total = _attend_slab(inputs, problem, slab, compare, normalizer)
        return {
            "output": slab.put_rows(carry["output"], output),
            "before": slab.add_pairs(carry["before"], total),
        }, {}

    carry = {"output": problem.empty(tensors["value"]), "before": problem.nothing}
    output = problem.cut(problem.for_each_slab(one_slab, carry)["output"])
    return output, ops.zeros_like(tensors["query"][..., :1])


def _backward(tensors, compare, normalizer, options):
    problem = _Problem(tensors, options)
    upstream = problem.pad(tensors["upstream"])
    all_before = _first_pass(tensors, compare, options)

    def one_slab(slab, key, value, carry):
        def attend_slab(inputs):
            return _attend_slab(inputs, problem, slab, compare, normalizer)

        before = ops.slice(all_before, *problem.row_of(slab))
        inputs = problem.inputs(slab, key, value, before)
        lost = slab.of_pairs(carry["before"])
        parts = vjp(attend_slab, inputs, (slab.of_rows(upstream), lost))
        carry, gathered = any_score.add_gradients(carry, slab, parts)
        lost = slab.add_pairs(carry["before"], parts["before"])
        return {**carry, "before": lost}, gathered

    carry = any_score.no_gradients(problem, problem.operands)
    carry["before"] = problem.nothing
    carry = problem.for_each_slab(one_slab, carry, reverse=True)
    return any_score.gradients_of(problem, carry)


def _first_pass(tensors, compare, options):
    """Returns `F_t` of each slab for the keys that it reads, `(B, 1, slabs, width)`."""
    if compare is None:
        names = "query", "key", "value", "mask", "bias"
        tensors = {**tensors, **{name: first_head(tensors[name]) for name in names}}
    problem = _Problem(tensors, options)

    def one_slab(slab, key, value, carry):
        before = slab.of_pairs(carry["before"])
        inputs = problem.inputs(slab, key, value, before)
        selected = problem.selected(inputs, slab, any_score.scores_of(inputs, compare))
        total = ops.sum(selected, axis=-2, keepdims=True)
        place, _ = problem.row_of(slab)
        return {
            "all": ops.slice_update(carry["all"], place, before),
            "before": slab.add_pairs(carry["before"], total),
        }, {}

    widest = problem.groups[-1].width
    every = ops.zeros((problem.shape[0], 1, problem.slabs, widest), problem.key.dtype)
    return problem.for_each_slab(one_slab, {"all": every, "before": problem.nothing})["all"]


def _attend_slab(inputs, problem, slab, compare, normalizer):
    """The output of a slab, and what its rows together take off each key."""
    scores = any_score.scores_of(inputs, compare)
    selected = problem.selected(inputs, slab, scores)
    taken = inputs["before"] + accumulate(selected)
    bias = add_bias(inputs.get("bias"), -taken)
    output = any_score.attend_scored(scores, bias, inputs, problem, slab, normalizer)
    return output, ops.sum(selected, axis=-2, keepdims=True)


class _Problem(Slabs):
    """One call of selective attention, cut into slabs."""

    def __init__(self, tensors, options):
        super().__init__({"first_head": 0, **tensors}, options, together=True)
        self.operands = any_score.operands_of(tensors)
        self.selectable = tensors["selectable"]
        selecting = tensors["query_mask"]
        if selecting is not None:
            selecting = self.pad(selecting[:, None, :, None])
        self.selecting = selecting
        self.nothing = ops.zeros_like(self.key[:, :1, :1])  # (B, 1, 1, S)

    def inputs(self, slab, key, value, before):
        """What a slab may be differentiated by."""
        inputs = any_score.inputs_of(self, slab, key, value, self.operands)
        return {**inputs, "before": before}

    def selected(self, inputs, slab, scores):
        """How much each row of a slab takes off each key, `(B, 1, rows, width)`."""
        selectable = slab.of_pairs(self.selectable)
        if self.selecting is not None:
            selectable = ops.logical_and(selectable, slab.of_pairs(self.selecting))
        logits = wide_scores(scores[:, :1], first_head(inputs.get("bias")))
        positions = slab.positions(2), slab.positions(3)
        return select(logits, self.allowed(slab), selectable, *positions)

    def row_of(self, slab):
        """Where a slab is in `(B, 1, slabs, width)`: first indices and sizes."""
        batch, _, _, width = slab.size
        return (0, 0, slab.start[2] // self.rows, 0), (batch, 1, 1, width)
