"""Attention with dot products and softmax, whose gradient is written by hand.

For a slab of rows, with `s` the scores and `L` the logarithm of the sum of their
exponentials, which is all that is kept of the weights::

    w = exp(s - L)                         dv = w^T @ do
    o = w @ v                              ds = w * (do @ v^T - sum(do * o))
    L = log(sum(exp(s)))                   dq = ds @ k          dk = ds^T @ q

The layouts are chosen for CPUs. `w^T @ do` runs at a third of the speed of the other
products (the library takes the long side of `w` for the one to be summed over), so the
gradients of keys and values are gathered transposed, `do^T @ w`, and turned once at the
end. One head after the other, a slab stays in the cache between the steps; the heads
are shared out over the processors, one compiled loop each.

References: Rabe and Staats, 2021 (https://arxiv.org/abs/2112.05682), section 2; Dao et
al., 2022, "FlashAttention" (https://arxiv.org/abs/2205.14135), algorithm 4, here with
slabs of whole rows.
"""

import functools

from keras import ops

from keras_sam.ops.attention import MASKED
from keras_sam.ops.products import matmul
from keras_sam.ops.shared import share_out
from keras_sam.ops.slabs import Problem


@functools.lru_cache(maxsize=64)
def passes(options):
    """The forward and the backward pass, compiled once for all layers.

    See `blockwise.run`. What is kept of each row is the logarithm of its sum.
    """
    forward = functools.partial(_forward, options=options)
    return share_out(forward, functools.partial(_backward, options=options))


def _forward(tensors, options):
    """Returns the output `(B, H, T, Dv)` and the log sums `(B, H, T, 1)`."""
    problem = Problem(tensors, options)

    def one_slab(slab, key, value, carry):
        query = slab.of_rows(problem.query)
        scores, allowed = _scores(problem, slab, query, key)
        largest = ops.max(scores, axis=-1, keepdims=True)
        weights = _zero(ops.exp(scores - largest), allowed)
        total = ops.sum(weights, axis=-1, keepdims=True)
        if allowed is not None:
            # A row with nothing to attend to: zero over one, not over zero.
            total = ops.where(total > 0.0, total, 1.0)
        if options.dropout:
            weights = weights * problem.keep(slab)
        output = matmul(weights, _turn(value)) / total
        log_sum = largest + ops.log(total)
        return {
            "output": slab.put_rows(carry["output"], output),
            "log_sums": slab.put_rows(carry["log_sums"], log_sum),
        }, {}

    carry = {
        "output": problem.empty(tensors["value"]),
        "log_sums": problem.empty(tensors["query"][..., :1]),
    }
    carry = problem.for_each_slab(one_slab, carry)
    return problem.cut(carry["output"]), problem.cut(carry["log_sums"])


def _backward(tensors, options):
    """Returns the gradients of query, key and value, and of the bias if any."""
    problem = Problem(tensors, options)
    upstream = tensors["upstream"]
    delta = ops.sum(upstream * tensors["output"], axis=-1, keepdims=True)
    upstream, delta = problem.pad(upstream), problem.pad(delta)
    log_sums = problem.pad(tensors["kept"])

    def one_slab(slab, key, value, carry):
        query, d_output = slab.of_rows(problem.query), slab.of_rows(upstream)
        scores, allowed = _scores(problem, slab, query, key)
        weights = _zero(ops.exp(scores - slab.of_rows(log_sums)), allowed)
        d_weights = matmul(d_output, value)
        dropped = weights
        if options.dropout:
            kept = problem.keep(slab)
            dropped, d_weights = weights * kept, d_weights * kept
        d_scores = weights * (d_weights - slab.of_rows(delta))
        d_query = matmul(d_scores, _turn(key))
        carry = {**carry, "query": slab.put_rows(carry["query"], d_query)}
        if "bias" in carry:
            carry["bias"] = slab.add_pairs(carry["bias"], d_scores)
        return carry, {
            "key": matmul(_turn(query), d_scores),
            "value": matmul(_turn(d_output), dropped),
        }

    carry = {name: getattr(problem, name) for name in ("query", "key", "value", "bias")}
    carry = {n: ops.zeros_like(x) for n, x in carry.items() if x is not None}
    carry = problem.for_each_slab(one_slab, carry)
    gradients = {
        "query": problem.cut(carry["query"]),
        "key": _turn(carry["key"]),
        "value": _turn(carry["value"]),
    }
    if "bias" not in carry:
        return gradients
    return {**gradients, "bias": problem.cut(carry["bias"])}


def _scores(problem, slab, query, key):
    """The scores of a slab, and which of them count (None for all of them)."""
    scores = problem.scores(slab, matmul(query, key))  # (..., rows, width)
    allowed = problem.allowed(slab)
    return (scores if allowed is None else ops.where(allowed, scores, MASKED)), allowed


def _zero(weights, allowed):
    """Zero where a weight is not allowed."""
    return weights if allowed is None else ops.where(allowed, weights, 0.0)


def _turn(tensor):
    return ops.swapaxes(tensor, -1, -2)
