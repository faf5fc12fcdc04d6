"""Attention of some rows to keys and values as they lie in a cache.

A step of few rows is one product with all keys as they lie in the cache, without moving or
repeating any: a query of head `h` is put where the channels of its key head are, between
zeros. That multiplies by zeros, which costs less than a copy of the cache::

    key heads 0 1 2, queries a b c of one row     keys of one slot

        a 0 0                                       k_0
        0 b 0                              times    k_1     =     a k_0, b k_1, c k_2
        0 0 c                                       k_2
"""

import dataclasses
from typing import Any, NamedTuple

from keras import ops

from keras_sam import scores
from keras_sam.attention import arguments, attend
from keras_sam.attention.penalty import accumulate, add_bias, first_head, select_allowed
from keras_sam.attention.positions import Positions
from keras_sam.attention.request import Sizes
from keras_sam.backend.precision import product
from keras_sam.normalizers.masking import attention_weights, both, unmasked, wide_scores

# Scores that leave the keys as they are, however many heads share them.
LEAVE_KEYS = (scores.Dot, scores.ScaledDot)
# So many rows of all key heads are one product with the cache as it lies.
FEW_ROWS = 64


@dataclasses.dataclass(frozen=True)
class CachedAttention:
    """What a layer asks of attention over its cache.

    Args:
        score: A built `keras_sam.scores.Score`.
        normalizer: A normalizer.
        positions: `Positions`.
        selective: Whether the first head takes off scores; see `selective`.
        block_size: See `attend`.
    """

    score: Any
    normalizer: Any
    positions: Positions
    selective: bool = False
    block_size: Any = "auto"


class Seen(NamedTuple):
    """What some rows attend to.

    Args:
        key: `(B, S, key heads, D)`.
        value: `(B, S, key heads, Dv)`.
        positions: `(1 or B, S)`, the positions of the keys.
        segments: `(B, S)`, or None.
        taken: `(B, S)`, what earlier rows took off the keys, or None.
    """

    key: Any
    value: Any
    positions: Any
    segments: Any = None
    taken: Any = None


def attend_seen(asked, query, seen, at, bias=None, first=None, whole=False):
    """Attends with rows to keys and values of which all is known.

    Args:
        asked: `CachedAttention`.
        query: `(B, H, T, D)`, encoded.
        seen: `Seen`.
        at: `Constants`, with all positions, or none where nobody looks at them.
        bias: See `attend_cached`.
        first: `Cache.first`.
        whole: Whether the weights are wanted.

    Returns:
        The output, the weights, which of them are allowed (or Nones), and
        `Cache.selected` of all keys after these rows, or None.
    """
    if asked.selective or _is_few(asked, query, seen.key):
        return attend_few(asked, query, seen, at, bias, first)
    return _attend_many(asked, query, seen, at, bias, whole)


def _attend_many(asked, query, seen, at, bias, whole):
    """Returns what `attend_seen` does, from the kernel that the policy chooses."""
    calls = []
    output = attend(
        query,
        ops.swapaxes(seen.key, 1, 2),
        ops.swapaxes(seen.value, 1, 2),
        score=asked.score,
        normalizer=asked.normalizer,
        mask=at.mask,
        bias=bias,
        pattern=asked.positions.whole,
        query_segment_ids=at.query_segments,
        key_segment_ids=at.key_segments,
        query_positions=at.query_positions,
        key_positions=at.key_positions,
        encoded=True,
        block_size=asked.block_size,
        return_attention_scores=whole,
        on_call=calls.append if whole else None,
    )
    if not whole:
        return output, None, None, None
    return *output, calls[0].allowed(), None


def attend_few(asked, query, seen, at, bias, first, limit=None):
    """Returns what `attend_seen` does, with whole rows of weights.

    Args:
        asked: See `attend_seen`.
        query: See `attend_seen`.
        seen: See `attend_seen`.
        at: See `attend_seen`.
        bias: See `attend_seen`.
        first: See `attend_seen`.
        limit: None, or a function of what each row takes off each key, `(B, T, S)`, that
            returns which keys each row still sees and what was taken off them, both
            `(B, 1, T, S)`, and what to return instead of `Cache.selected`.
    """
    batch, heads, rows, depth = ops.shape(query)
    sizes = Sizes(batch, heads, rows, ops.shape(seen.key)[1], depth)
    pairs = at.pairs(sizes)
    allowed = both(at.mask, asked.positions.allowed(pairs))
    multiply, add_up = _products(asked, query, seen)
    found, taken = multiply(), None
    modify, operands = asked.score.as_modification(0)
    if modify is not None:
        found = modify(operands, wide_scores(found), pairs)
    if seen.taken is not None:
        logits = wide_scores(found[:, :1], first_head(bias))
        first = 0 if first is None else first[:, None, None, None]
        selectable = ops.logical_and(pairs.key > first, pairs.key < pairs.query)
        selected = select_allowed(logits, allowed, selectable)
        if limit is None:
            before = seen.taken[:, None, None, :] + accumulate(selected)
            taken = seen.taken + ops.sum(selected, axis=(1, 2))
        else:
            still, before, taken = limit(selected[:, 0])
            allowed = both(allowed, still)
        bias = add_bias(bias, -before)
    weights = attention_weights(
        found, asked.normalizer, allowed, bias, sinks=arguments.sinks_of(asked.score)
    )
    output = ops.cast(add_up(weights), query.dtype)
    weights = ops.cast(weights, query.dtype)
    return output, weights, both(allowed, unmasked(bias)), taken


def _is_few(asked, query, key):
    """Returns whether rows are so few that the cache is multiplied as it lies."""
    compared = getattr(asked.score, "compared", asked.score)
    rows = query.shape[2]
    plain = type(compared) in LEAVE_KEYS and isinstance(rows, int)
    return plain and rows * key.shape[2] <= FEW_ROWS


def _products(asked, query, seen):
    """Returns the product with all keys, and that of weights with all values."""
    if not _is_few(asked, query, seen.key):
        heads = query.shape[1]
        key, value = (
            arguments.repeat_heads(ops.swapaxes(x, 1, 2), heads)
            for x in (seen.key, seen.value)
        )
        projected = asked.score.project(query, key)
        return (
            lambda: asked.score.compare(*projected),
            lambda weights: product(weights, value),
        )
    query, _ = asked.score.project(query, ops.swapaxes(seen.key[:, :1], 1, 2))
    batch, heads, rows, _ = ops.shape(query)
    slots, key_heads, depth = ops.shape(seen.key)[1:]
    own = ops.eye(key_heads, dtype=query.dtype)[:, None, :, None]  # (K, 1, K, 1)
    together = (batch, key_heads, heads // key_heads * rows)

    def multiply():
        put = ops.reshape(query, (*together, 1, depth)) * own
        put = ops.reshape(put, (batch, heads * rows, key_heads * depth))
        keys = ops.reshape(seen.key, (batch, slots, key_heads * depth))
        found = product(put, ops.swapaxes(keys, 1, 2))
        return ops.reshape(found, (batch, heads, rows, slots))

    def add_up(weights):
        values = ops.reshape(seen.value, (batch, slots, key_heads * depth))
        found = product(ops.reshape(weights, (batch, heads * rows, slots)), values)
        found = ops.reshape(found, (*together, key_heads, depth))
        found = ops.sum(found * ops.cast(own, found.dtype), axis=3)
        return ops.reshape(found, (batch, heads, rows, depth))

    return multiply, add_up
