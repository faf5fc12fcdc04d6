"""Attention with dot products and softmax, whose gradient is written by hand.

For a slab of rows, with `s` the scores, `m` the largest and `L` the logarithm of the sum of
the exponentials, which are all that is kept of the weights (apart, because beside an `m` of
a million a sum would lose `L`)::

    w = exp(s - m - L)                     dv = w^T @ do
    o = w @ v                              ds = w * (do @ v^T - sum(do * o))
    L = log(sum(exp(s - m)))               dq = ds @ k          dk = ds^T @ q

Both add up over tiles of a few rows by a few keys, which stay in the second-level cache of
a processor between the steps. Going forward, what exponentials are taken relative to is the
largest score of a row so far; whenever it grows, what was added up before shrinks::

    m' = max(m, max(s))          o' = o exp(m - m') + exp(s - m') @ v

Where no score can be large, because no query and no key is long, m is zero instead, and
the search for the largest score is left out.

The layouts are chosen for CPUs. `w^T @ do` runs at half the speed of the other products
(the library takes the long side of `w` for the one to be summed over), so the gradients of
keys and values are gathered transposed, `do^T @ w`, and turned once at the end. The heads
are shared out over the processors, one compiled loop each.

References: Rabe and Staats, 2021 (https://arxiv.org/abs/2112.05682), section 2; Dao et
al., 2022, "FlashAttention" (https://arxiv.org/abs/2205.14135), algorithms 1 and 4, with
the loops exchanged: rows outside and keys inside, as in Dao, 2023, "FlashAttention-2"
(https://arxiv.org/abs/2307.08691), algorithm 1.
"""

import functools
import math

from keras import ops

from keras_sam.ops.compiled import on_cpu
from keras_sam.ops.precision import matmul, maximum
from keras_sam.ops.shared import share_out
from keras_sam.ops.sums import fused_sum
from keras_sam.ops.tiles import Tiles

# Exponentials of such scores are far from the largest and the smallest number, even
# a million of them added up and multiplied by values up to the second.
SMALL_SCORE = 30.0
SMALL_VALUE = 1e15
# The largest score of a row that has none yet: below any score, and so far above what does
# not count that the exponential of the difference is zero.
LOWEST = -1e15
NEVER = -1e30


@functools.lru_cache(maxsize=64)
def passes(options):
    """The forward and the backward pass, compiled once for all layers.

    See `blockwise.run`. What is kept of each row is its largest score and the logarithm of
    its sum.
    """
    forward = functools.partial(_forward, options=options)
    return share_out(forward, functools.partial(_backward, options=options))


def _forward(tensors, options):
    """Returns the output `(B, H, T, Dv)` and what is kept of the rows, `(B, H, T, 2)`."""
    problem = Tiles(tensors, options)
    small = _scores_are_small(tensors) if on_cpu() else None
    depth = ops.shape(tensors["value"])[3]

    def one_slab(slab, carry):
        query = slab.of_rows(problem.query)

        def one_tile(tile, sums):
            scores = _scores(problem, tile, query)
            largest = _largest(sums["largest"], scores, small)
            weights = ops.exp(scores - largest)
            total = ops.sum(weights, axis=-1, keepdims=True)
            if options.dropout:
                weights = weights * problem.keep(tile)
            output = matmul(weights, tile.of_key_rows(tensors["value"]))
            shrink = ops.exp(sums["largest"] - largest)
            return {
                "output": sums["output"] * shrink + output,
                "total": sums["total"] * shrink + total,
                "largest": largest,
            }

        nothing = ops.zeros_like(query[..., :1])
        lowest = nothing + LOWEST
        sums = {
            "output": ops.zeros((*slab.size[:3], depth), query.dtype),
            "total": nothing,
            "largest": lowest if small is None else ops.where(small, nothing, lowest),
        }
        sums = problem.for_each_tile(slab, one_tile, sums)
        # A row with nothing to attend to: zero over one, not over zero.
        total = ops.where(sums["total"] > 0.0, sums["total"], 1.0)
        kept = ops.concatenate([sums["largest"], ops.log(total)], axis=-1)
        return {
            "output": slab.put_rows(carry["output"], sums["output"] / total),
            "kept": slab.put_rows(carry["kept"], kept),
        }

    carry = {
        "output": problem.empty(tensors["value"]),
        "kept": ops.zeros((*problem.shape, 2), tensors["query"].dtype),
    }
    carry = problem.for_each_slab(one_slab, carry)
    return problem.cut(carry["output"]), problem.cut(carry["kept"])


def _backward(tensors, options):
    """Returns the gradients of query, key and value, and of the bias if any."""
    problem = Tiles(tensors, options)
    upstream = tensors["upstream"]
    delta = fused_sum(upstream * tensors["output"], (3,))[..., None]
    upstream, delta = problem.pad(upstream), problem.pad(delta)
    # The rows that fill up the last slab have no weights, whatever bias there is.
    rows_kept = problem.pad(tensors["kept"], -NEVER)

    def one_slab(slab, carry):
        query, d_output = slab.of_rows(problem.query), slab.of_rows(upstream)
        kept, d_total = slab.of_rows(rows_kept), slab.of_rows(delta)
        largest, log_total = kept[..., :1], kept[..., 1:]
        turned, turned_upstream = _turn(query), _turn(d_output)

        def one_tile(tile, carry):
            scores = _scores(problem, tile, query)
            weights = ops.exp(scores - largest - log_total)
            d_weights = matmul(d_output, tile.of_keys(problem.value))
            dropped = weights
            if options.dropout:
                factor = problem.keep(tile)
                dropped, d_weights = weights * factor, d_weights * factor
            d_scores = weights * (d_weights - d_total)
            d_query = matmul(d_scores, tile.of_key_rows(tensors["key"]))
            d_key = matmul(turned, d_scores)
            d_value = matmul(turned_upstream, dropped)
            carry = {
                **carry,
                "rows": carry["rows"] + d_query,
                "key": tile.add_keys(carry["key"], d_key),
                "value": tile.add_keys(carry["value"], d_value),
            }
            if "bias" in carry:
                carry["bias"] = tile.add_pairs(carry["bias"], d_scores)
            return carry

        carry = {**carry, "rows": ops.zeros_like(query)}
        carry = problem.for_each_tile(slab, one_tile, carry)
        d_query = carry.pop("rows")
        return {**carry, "query": slab.put_rows(carry["query"], d_query)}

    carry = {
        "query": ops.zeros_like(problem.query),
        "key": ops.zeros_like(problem.key),
        "value": ops.zeros_like(problem.value),
    }
    if problem.bias is not None:
        carry["bias"] = ops.zeros_like(problem.bias)
    carry = problem.for_each_slab(one_slab, carry)
    gradients = {
        "query": problem.cut(carry["query"]),
        "key": _turn(carry["key"]),
        "value": _turn(carry["value"]),
    }
    if "bias" not in carry:
        return gradients
    return {**gradients, "bias": problem.cut(carry["bias"])}


def _scores(problem, tile, query):
    """The scores of a tile; those that do not count are `NEVER`."""
    scores = matmul(query, tile.of_keys(problem.key))  # (..., rows, width)
    scores = problem.scores(tile, scores)
    allowed = problem.allowed(tile)
    return scores if allowed is None else ops.where(allowed, scores, NEVER)


def _scores_are_small(tensors):
    """Whether no score can be far from zero, nor what it is multiplied by.

    No product of vectors exceeds that of their norms.
    """
    if tensors["bias"] is not None:
        return None
    longest = (_longest(tensors[name]) for name in ("query", "key"))
    largest_value = ops.max(ops.abs(tensors["value"]), initial=0.0)
    small = math.prod(longest) <= SMALL_SCORE**2
    return ops.logical_and(small, largest_value <= SMALL_VALUE)


def _longest(vectors):
    """The largest squared norm."""
    return ops.max(ops.sum(ops.square(vectors), axis=-1), initial=0.0)


def _largest(before, scores, small):
    """The largest score of each row so far, or what was there before if all are small."""

    def found():
        return maximum(before, ops.max(scores, axis=-1, keepdims=True))

    return found() if small is None else ops.cond(small, lambda: before, found)


def _turn(tensor):
    return ops.swapaxes(tensor, -1, -2)
