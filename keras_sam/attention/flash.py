"""Attention with dot products and softmax, whose gradient is written by hand.

For a block of rows, with `s` the scores, `m` the largest and `L` the logarithm of the sum
of the exponentials, which are the residuals of a row (apart, because beside an `m` of a
million a sum would lose `L`)::

    w = exp(s - m - L)                     dv = w^T @ do
    o = w @ v                              ds = w * (do @ v^T - sum(do * o))
    L = log(sum(exp(s - m)))               dq = ds @ k          dk = ds^T @ q

Both add up over tiles of a few rows by a few keys, which stay in the second-level cache of
a processor between the steps. Going forward, what exponentials are taken relative to is the
largest score of a row so far; whenever it grows, what was added up before shrinks::

    m' = max(m, max(s))          o' = o exp(m - m') + exp(s - m') @ v

Where no score of a row can be large, because neither its query nor any key that it may see
is long, m is zero instead, and the search for the largest score is left out. What a row may
not see has no say in it, so that it changes no bit of the row.

The layouts are chosen for CPUs. `w^T @ do` runs at half the speed of the other products
(the library takes the long side of `w` for the one to be summed over), so the gradients of
keys and values are gathered transposed, `do^T @ w`, and turned once at the end.

References: Rabe and Staats, 2021 (https://arxiv.org/abs/2112.05682), section 2; Dao et
al., 2022, "FlashAttention" (https://arxiv.org/abs/2205.14135), algorithms 1 and 4, with
the loops exchanged: rows outside and keys inside, as in Dao, 2023, "FlashAttention-2"
(https://arxiv.org/abs/2307.08691), algorithm 1.
"""

import dataclasses
import functools
from typing import Any

from keras import ops

from keras_sam.attention.blocks import Block
from keras_sam.attention.dense import turn
from keras_sam.attention.positions import Positions, ceil, smaller
from keras_sam.attention.request import Inputs, Sizes
from keras_sam.attention.row_blocks import CutCall
from keras_sam.attention.shares import share_out
from keras_sam.attention.tile_table import TileTable
from keras_sam.backend.derivatives import value_and_vjp
from keras_sam.backend.loops import loop
from keras_sam.backend.precision import maximum, product, wide, widened
from keras_sam.backend.reductions import fused_sum
from keras_sam.backend.xla import on_cpu
from keras_sam.normalizers.masking import both, unmasked

# Exponentials of such scores are far from the largest and the smallest number, even
# a million of them added up and multiplied by values up to the second.
SMALL_SCORE = 30.0
SMALL_VALUE = 1e15
# The largest score of a row that has none yet: below any score, and so far above masked
# scores that the exponential of the difference is zero.
LOWEST = -1e15
NEVER = -1e30


@functools.lru_cache(maxsize=64)
def passes(request, plan):
    """Returns the forward and the backward pass, compiled once for all layers."""
    options = {"request": request, "blocks": plan.blocks}
    of_share = functools.partial(forward, **options), functools.partial(backward, **options)
    return share_out(*of_share, plan, keeps_rows=True)


def forward(inputs, constants, *, request, blocks):
    """Returns the output `(B, H, T, Dv)`, and `m` and `L` of the rows, `(B, H, T, 2)`."""
    tiles = Tiles(inputs, constants, request, blocks)
    small_rows = _rows_of_small_scores(inputs, constants, request) if on_cpu() else None
    small_rows = None if small_rows is None else tiles.pad(small_rows, 1.0)
    depth, dtype = ops.shape(inputs.value)[3], inputs.query.dtype

    def narrow(tensor):
        return ops.cast(tensor, dtype)

    def one_block(block, carry):
        query = block.of_rows(tiles.query)
        small, all_small = None, None
        if small_rows is not None:
            small = block.of_rows(small_rows) > 0.0
            all_small = ops.all(small)

        def one_tile(tile, sums):
            scores = _scores(tiles, tile, query)
            if request.modify is not None:
                scores = request.modify(inputs.operands, scores, tiles.pairs(tile))
            scores = _masked(tiles, tile, scores)
            largest = _largest(sums["largest"], scores, small, all_small)
            weights = ops.exp(scores - largest)
            total = ops.sum(weights, axis=-1, keepdims=True)
            if request.dropout:
                weights = weights * tiles.dropout_mask(tile)
            output = product(weights, tile.of_keys(tiles.value_rows))
            shrink = ops.exp(sums["largest"] - largest)
            return {
                "output": sums["output"] * shrink + output,
                "total": sums["total"] * shrink + total,
                "largest": largest,
            }

        nothing = widened(ops.zeros_like(query[..., :1]))
        lowest = nothing + LOWEST
        sums = {
            "output": ops.zeros((*block.size[:3], depth), nothing.dtype),
            "total": nothing,
            "largest": lowest if small is None else ops.where(small, nothing, lowest),
        }
        if inputs.sinks is not None:  # as if a tile before the first had one more key
            sinks = nothing + block.of_pairs(inputs.sinks)
            largest = sinks if small is None else ops.where(small, nothing, sinks)
            sums["largest"], sums["total"] = largest, ops.exp(sinks - largest)
        sums = tiles.for_each_tile(block, one_tile, sums)
        # A row with nothing to attend to: zero over one, not over zero.
        total = ops.where(sums["total"] > 0.0, sums["total"], 1.0)
        kept = ops.concatenate([sums["largest"], ops.log(total)], axis=-1)
        return {
            "output": block.put_rows(carry["output"], narrow(sums["output"] / total)),
            "kept": block.put_rows(carry["kept"], kept),
        }

    carry = {"output": tiles.empty(depth, dtype), "kept": tiles.empty(2, wide(dtype))}
    carry = tiles.for_each_block(one_block, carry)
    return tiles.cut(carry["output"]), tiles.cut(carry["kept"])


def backward(inputs, constants, output, kept, upstream, *, request, blocks):
    """Returns the gradients as `Inputs`."""
    tiles = Tiles(inputs, constants, request, blocks)
    delta = fused_sum(widened(upstream) * widened(output), (3,))[..., None]
    upstream, delta = tiles.pad(upstream), tiles.pad(delta)
    # The rows that fill up the last block have no weights, whatever bias there is.
    rows_kept = tiles.pad(kept, -NEVER)

    def one_block(block, carry):
        query, d_output = block.of_rows(tiles.query), block.of_rows(upstream)
        kept, d_total = block.of_rows(rows_kept), block.of_rows(delta)
        largest, log_total = kept[..., :1], kept[..., 1:]
        turned, turned_upstream = turn(query), turn(d_output)

        def one_tile(tile, carry):
            raw = _scores(tiles, tile, query)
            modified, pull_back = raw, None
            if request.modify is not None:
                given = {"scores": raw, "operands": inputs.operands}
                modified, pull_back = value_and_vjp(
                    functools.partial(_modify, request, tiles.pairs(tile)), given
                )
            scores = _masked(tiles, tile, modified)
            weights = ops.exp(scores - largest - log_total)
            d_weights = product(d_output, tile.of_turned_keys(tiles.value))
            dropped = weights
            if request.dropout:
                factor = tiles.dropout_mask(tile)
                dropped, d_weights = weights * factor, d_weights * factor
            d_biased = d_scores = weights * (d_weights - d_total)
            if pull_back is not None:
                parts = pull_back(d_biased)
                d_scores = parts["scores"]
                of_tile = zip(carry["operands"], parts["operands"], strict=True)
                carry = {**carry, "operands": tuple(x + part for x, part in of_tile)}
            d_query = product(d_scores, tile.of_keys(tiles.key_rows))
            d_key = product(turned, d_scores)
            d_value = product(turned_upstream, dropped)
            carry = {
                **carry,
                "rows": carry["rows"] + d_query,
                "key": tile.add_turned_keys(carry["key"], d_key),
                "value": tile.add_turned_keys(carry["value"], d_value),
            }
            if "bias" in carry:
                carry["bias"] = tile.add_pairs(carry["bias"], d_biased)
            return carry

        carry = {**carry, "rows": widened(ops.zeros_like(query))}
        carry = tiles.for_each_tile(block, one_tile, carry)
        d_query = ops.cast(carry.pop("rows"), query.dtype)
        if inputs.sinks is not None:
            sinks = block.of_pairs(inputs.sinks)
            of_rows = -ops.exp(sinks - largest - log_total) * d_total
            carry["sinks"] = block.add_pairs(carry["sinks"], of_rows)
        return {**carry, "query": block.put_rows(carry["query"], d_query)}

    carry = {
        "query": ops.zeros_like(tiles.query),
        "key": widened(ops.zeros_like(tiles.key)),
        "value": widened(ops.zeros_like(tiles.value)),
    }
    if tiles.bias is not None:
        carry["bias"] = ops.zeros_like(tiles.bias)
    if inputs.sinks is not None:
        carry["sinks"] = ops.zeros_like(inputs.sinks)
    if request.modify is not None:
        carry["operands"] = tuple(map(ops.zeros_like, inputs.operands))
    carry = tiles.for_each_block(one_block, carry)
    bias = inputs.bias
    if bias is not None:
        batch, _, rows, _ = ops.shape(bias)
        bias = carry["bias"][:batch, :, :rows]
    return Inputs(
        query=tiles.cut(carry["query"]),
        key=ops.cast(turn(carry["key"])[: tiles.batch], inputs.key.dtype),
        value=ops.cast(turn(carry["value"])[: tiles.batch], inputs.value.dtype),
        bias=bias,
        operands=carry.get("operands", ()),
        sinks=carry.get("sinks"),
    )


def _scores(tiles, tile, query):
    """Returns the scores of a tile, `(..., rows, width)`."""
    return product(query, tile.of_turned_keys(tiles.key))


def _modify(request, pairs, given):
    """Returns what the steps of a score make of it, from scores and operands."""
    return request.modify(given["operands"], given["scores"], pairs)


def _masked(tiles, tile, scores):
    """Adds the bias to the scores of a tile; those that do not count are `NEVER`."""
    allowed = tiles.allowed(tile)
    if tiles.bias is not None:
        bias = tile.of_pairs(tiles.bias)
        scores, allowed = scores + bias, both(allowed, unmasked(bias))
    return scores if allowed is None else ops.where(allowed, scores, NEVER)


def _rows_of_small_scores(inputs, constants, request):
    """Returns 1 for each row of which no score, nor any value, is far from zero.

    No product of vectors exceeds that of their norms. A row is judged by what it sees
    alone: all keys, or those up to its own position.

    Returns:
        A tensor `(B, H, T, 1)` or, where rows see other keys than those, None.
    """
    positions = request.positions
    if request.modify is not None:
        return None
    if not (positions.is_simple and constants.in_a_row):
        return None
    if inputs.bias is not None or constants.mask is not None:
        return None
    if positions.sliding_window is not None:
        return None
    query = ops.sum(ops.square(inputs.query), axis=-1, keepdims=True)
    key = ops.sum(ops.square(inputs.key), axis=-1, keepdims=True)
    value = ops.max(ops.abs(inputs.value), axis=-1, keepdims=True, initial=0.0)
    if positions.causal:
        lengths = query.shape[2], key.shape[2]
        if None in lengths or lengths[0] > lengths[1]:
            return None
        key, value = (_largest_so_far(x)[:, :, : lengths[0]] for x in (key, value))
    else:
        key, value = (ops.max(x, axis=2, keepdims=True, initial=0.0) for x in (key, value))
    small = ops.logical_and(query * key <= SMALL_SCORE**2, value <= SMALL_VALUE)
    if inputs.sinks is not None:
        small = ops.logical_and(small, ops.abs(inputs.sinks) <= SMALL_SCORE)
    return ops.cast(small, inputs.query.dtype)


def _largest_so_far(tensor):
    """Returns the largest number up to each row of `(B, H, S, 1)`, none below zero."""
    length, step = tensor.shape[2], 1
    while step < length:
        before = ops.pad(tensor[:, :, :-step], ((0, 0), (0, 0), (step, 0), (0, 0)))
        tensor, step = maximum(tensor, before), 2 * step
    return tensor


def _largest(before, scores, small, all_small):
    """Returns the largest score of each row so far; that of small rows is left at zero."""

    def found():
        return maximum(before, ops.max(scores, axis=-1, keepdims=True))

    if small is None:
        return found()
    return ops.cond(all_small, lambda: before, lambda: ops.where(small, before, found()))


@dataclasses.dataclass(frozen=True)
class Tile(Block):
    """The position of a tile.

    The tile before it has read the keys before `unread`. Of a tile that is `whole`, no
    pair is masked by its position.
    """

    unread: Any = 0
    whole: bool = False


class Tiles(CutCall):
    """A call of attention, cut into blocks of rows, and those into tiles of keys.

    A row of tiles ends where its rows see no further key, and begins where they see the
    first. With other masks than these a table lists the tiles of each row; see
    `tile_table`::

        all keys            causal              causal, sliding window
        1 1 2 2 3 3 4 4     1 1 . . . . . .     1 1 . . . . . .
        1 1 2 2 3 3 4 4     1 1 . . . . . .     1 1 . . . . . .
        1 1 2 2 3 3 4 4     1 1 2 2 . . . .     1 1 2 2 . . . .
        1 1 2 2 3 3 4 4     1 1 2 2 . . . .     1 1 2 2 . . . .
        1 1 2 2 3 3 4 4     1 1 2 2 3 3 . .     . . 1 1 2 2 . .
        1 1 2 2 3 3 4 4     1 1 2 2 3 3 . .     . . 1 1 2 2 . .

    Args:
        inputs: `Inputs`.
        constants: `Constants`.
        request: `Request`.
        blocks: `Blocks`, with the number of keys of a tile.
    """

    def __init__(self, inputs, constants, request, blocks):
        sizes = Sizes.of(inputs)
        rows, examples, heads = blocks.sizes(sizes)
        self.rows, self.blocks, _ = Positions().plan(sizes.rows, sizes.keys, rows)
        super().__init__(inputs, constants, request, self.rows * self.blocks, examples)
        self.width = smaller(self.key_length, blocks.keys)
        self.lead = examples, heads
        self.table = None
        if not (request.positions.is_simple and self.in_a_row):
            pairs = self.all_pairs()
            of_tiles = request.positions, self.rows, self.width, self.lead
            self.table = TileTable(pairs, *of_tiles)

    def empty(self, depth, dtype):
        """Returns zeros for all rows, of a depth."""
        shape = (self.all_examples, self.heads, self.all_rows, depth)
        return ops.zeros(shape, dtype)

    def for_each_block(self, body, carry):
        """Runs `carry = body(block, carry)` for each block of rows, with all keys."""
        examples, heads = self.lead
        columns = self.heads // heads
        size = (*self.lead, self.rows, self.key_length)

        def one_lead(index, carry):
            lead = index // columns * examples, index % columns * heads

            def one_block(number, carry):
                return body(Block((*lead, number * self.rows, 0), size), carry)

            return loop(0, self.blocks, one_block, carry)

        return loop(0, self.all_examples // examples * columns, one_lead, carry)

    def for_each_tile(self, block, body, carry):
        """Runs `carry = body(tile, carry)` for each tile that rows of a block may see.

        The tiles that are whole, and need no mask, come before those at an edge.
        """
        first_row, length, width = block.start[2], self.key_length, self.width
        order = None

        def one_tile(index, carry, whole):
            unread = (index if order is None else order[index]) * width
            start = unread if whole else smaller(unread, length - width)
            size = (*block.size[:3], width)
            tile = Tile((*block.start[:3], start), size, unread=unread, whole=whole)
            return body(tile, carry)

        if self.table is None:
            span = first_row, first_row + self.rows - 1, length
            first, whole, end = self.request.positions.span(*span)
            first, whole, end = first // width, whole // width, ceil(end, width)
        else:
            number = first_row // self.rows
            order, whole, end = self.table.row(block.start[:2], number)
            first = 0
        of_whole = functools.partial(one_tile, whole=True)
        carry = loop(first, whole, of_whole, carry)
        at_edge = functools.partial(one_tile, whole=False)
        return loop(whole, end, at_edge, carry)

    def allowed(self, tile):
        """Returns which pairs of a tile count, or None for all of them."""
        allowed = super().allowed(tile, by_position=not tile.whole)
        rest = self.key_length % self.width
        if tile.whole or (isinstance(rest, int) and rest == 0):
            return allowed
        # The last tile begins early, so that it is as wide as the others.
        return both(allowed, tile.positions(3) >= tile.unread)
