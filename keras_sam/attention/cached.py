"""Attention of new rows over what a cache remembers, and the cache after it.

Rows of a step attend to all slots, whose positions are given. Where new rows could take
the slots of keys that other new rows still see, which happens in a ring, they attend to the
old slots and the new keys side by side, and are written afterwards.

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

from keras_sam.attention import LEAVE_KEYS, arguments, attend
from keras_sam.attention.cache import LATEST, Cache
from keras_sam.attention.penalty import accumulate, add_bias, first_head, select_allowed
from keras_sam.attention.positions import Positions
from keras_sam.attention.request import Constants, Sizes
from keras_sam.backend.precision import product
from keras_sam.normalizers.masking import attention_weights, both, unmasked, wide_scores

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


def attend_cached(
    asked,
    query,
    key,
    value,
    cache,
    step,
    *,
    mask=None,
    bias=None,
    segments=None,
    whole=False,
):
    """Attends with new rows to a cache and to themselves, and writes them into it.

    Args:
        asked: `CachedAttention`.
        query: `(B, H, T, D)`, not encoded yet.
        key: `(B, T, key heads, D)`, not encoded yet.
        value: `(B, T, key heads, D)`.
        cache: `Cache`.
        step: `cache.Step`.
        mask: Boolean `(B or 1, H or 1, T or 1, S or 1)`, or None. Not for a ring.
        bias: Float tensor of the same sizes, or None. Not for a ring.
        segments: Integers `(B, T)`, or None.
        whole: Whether the weights are wanted.

    Returns:
        The output `(B, H, T, D)`, the weights `(B, H, T, keys)`, which of them are
        allowed, and the new `Cache`. Without `whole`, weights and allowed are None. Their
        keys are in the order of positions: those of a full cache are its slots, and those
        of a ring end with the last row.
    """
    query, new = encoded(asked, query, key, value, cache, step)
    new = Cache(
        new,
        None if cache.positions is None else step.query_positions,
        segments,
        None if cache.selected is None else ops.zeros_like(step.query_positions, "float32"),
    )
    cache = cache._replace(first=first_position(cache, step))
    plain = mask is None and bias is None and not whole and not asked.selective
    if step.is_first and plain:
        output = _attend_first(asked, query, new, step)
        return output, None, None, _written(cache, new, step)
    if step.overwrites_nothing_read:
        cache = _written(cache, new, step)
        seen = _seen(cache, step.positions_after(cache.positions))
    else:
        seen = _side_by_side(cache, new, step)
    at = Constants(
        mask=arguments.boolean(mask),
        query_segments=segments,
        key_segments=seen.segments,
        query_positions=step.query_positions,
        key_positions=seen.positions,
    )
    output, weights, allowed, taken = attend_seen(
        asked, query, seen, at, bias, cache.first, whole
    )
    if step.overwrites_nothing_read:
        cache = cache._replace(selected=taken)
    else:
        if taken is not None:
            cache = cache._replace(selected=taken[:, : step.slots])
            new = new._replace(selected=taken[:, step.slots :])
        cache = _written(cache, new, step)
    if not whole:
        return output, None, None, cache
    if step.ring:
        order = ops.argsort(seen.positions, axis=1)
        weights, allowed = (in_order(x, order) for x in (weights, allowed))
    return output, weights, allowed, cache


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


def encoded(asked, query, key, value, cache, step):
    """Returns encoded queries, and keys and values as a cache has them.

    Args:
        asked: See `attend_cached`.
        query: See `attend_cached`.
        key: See `attend_cached`.
        value: See `attend_cached`.
        cache: See `attend_cached`.
        step: See `attend_cached`.
    """
    if asked.score.encodes:
        at = step.query_positions
        query, key = asked.score.encode(query, ops.swapaxes(key, 1, 2), at, at)
        key = ops.swapaxes(key, 1, 2)
    return query, ops.cast(ops.stack([key, value], axis=1), cache.keys_values.dtype)


def first_position(cache, step):
    """Returns the first position of each example that is not padding, or None."""
    if cache.first is None:
        return None
    at = step.query_positions
    return ops.minimum(cache.first, ops.min(ops.where(at < 0, LATEST, at), axis=1))


def _written(cache, new, step):
    """Returns a cache with new rows in it, both as `Cache`."""
    found = {"keys_values": step.write(cache.keys_values, new.keys_values)}
    if cache.positions is not None:
        found["positions"] = step.positions_after(cache.positions)
    for name in ("segments", "selected"):
        if getattr(cache, name) is not None:
            found[name] = step.write(getattr(cache, name), getattr(new, name))
    return cache._replace(**found)


def _seen(cache, positions):
    """Returns all slots of a cache as `Seen`."""
    key, value = cache.keys_values[:, 0], cache.keys_values[:, 1]
    return Seen(key, value, positions, cache.segments, cache.selected)


def _side_by_side(cache, new, step):
    """Returns the slots of a cache and new rows behind them as `Seen`."""
    slots = _seen(cache, step.positions_before(cache.positions))
    rows = _seen(new, step.query_positions)
    batch = ops.shape(cache.keys_values)[0]

    def join(old, new):
        if old is None:
            return None
        if len(old.shape) == 2:
            old, new = (ops.broadcast_to(x, (batch, ops.shape(x)[1])) for x in (old, new))
        return ops.concatenate([old, new], axis=1)

    return Seen(*map(join, slots, rows))


def in_order(tensor, order):
    """Returns a tensor over pairs whose keys are in an order `(1 or B, S)`."""
    batch, heads, rows, _ = ops.shape(tensor)
    shape = (batch, heads, rows, ops.shape(order)[1])
    order = ops.broadcast_to(order[:, None, None, :], shape)
    return ops.take_along_axis(tensor, order, axis=3)


def _attend_first(asked, query, new, step):
    """Returns the output of the first rows of all, which see one another only."""
    return attend(
        query,
        ops.swapaxes(new.keys_values[:, 0], 1, 2),
        ops.swapaxes(new.keys_values[:, 1], 1, 2),
        score=asked.score,
        normalizer=asked.normalizer,
        query_mask=step.mask,
        key_mask=step.mask,
        pattern=asked.positions.whole,
        query_segment_ids=new.segments,
        encoded=True,
        block_size=asked.block_size,
    )


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
