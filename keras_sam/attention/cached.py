"""Attention of new rows over what a cache remembers, and the cache after it.

Rows of a step attend to all slots, whose positions are given. Where new rows could take
the slots of keys that other new rows still see, which happens in a ring, they attend to the
old slots and the new keys side by side, and are written afterwards.
"""

from keras import ops

from keras_sam.attention import arguments, attend
from keras_sam.attention.cache import LATEST, Cache
from keras_sam.attention.request import Constants
from keras_sam.attention.slots import Seen, attend_seen


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
        None if segments is None else ops.cast(segments, "int32"),
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
