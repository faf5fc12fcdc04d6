"""Selective attention over a cache in which positions compete for the slots.

A single row takes a slot and then attends to all slots. Several rows at once attend to the
slots and to one another; which keys each of them still sees is decided row by row, so that
the results are those of the same rows one at a time.
"""

from keras import ops

from keras_sam.attention.budget import leaving, within_budget
from keras_sam.attention.cache import Cache
from keras_sam.attention.cached import encoded, first_position, in_order
from keras_sam.attention.request import Constants
from keras_sam.attention.slots import Seen, attend_few


def attend_pruned(asked, query, key, value, cache, step, *, segments=None, whole=False):
    """Attends with new rows to a cache and to themselves, and keeps what is needed.

    Args:
        asked: `CachedAttention`, selective.
        query: `(B, H, T, D)`, not encoded yet.
        key: `(B, T, key heads, D)`, not encoded yet.
        value: `(B, T, key heads, D)`.
        cache: `Cache`, with `kept`.
        step: `cache.Step`.
        segments: Integers `(B, T)`, or None.
        whole: Whether the weights are wanted.

    Returns:
        The output `(B, H, T, D)`, the weights `(B, H, T, keys)`, which of them are
        allowed, and the new `Cache`. Without `whole`, weights and allowed are None. Their
        keys are those in the slots, and the rows of this step if it has several, in the
        order of positions.
    """
    query, new = encoded(asked, query, key, value, cache, step)
    cache = cache._replace(first=first_position(cache, step))
    rows = ops.broadcast_to(
        step.query_positions, (ops.shape(cache.kept)[0], ops.shape(query)[2])
    )
    segments = None if segments is None else ops.cast(segments, "int32")
    new = Cache(new, None, segments, None, None, rows)
    attend = _attend_one if query.shape[2] == 1 else _attend_several
    output, weights, allowed, every, cache = attend(asked, query, new, cache, step)
    if not whole:
        return output, None, None, cache
    order = ops.argsort(every, axis=1)
    weights, allowed = (in_order(x, order) for x in (weights, allowed))
    return output, weights, allowed, cache


def _attend_one(asked, query, new, cache, step):
    """The same for one row, which is written before it attends."""
    back = asked.positions.reach()[0]
    oldest = None if back is None else new.kept[:, 0] - back
    enters = leaving(cache.selected, cache.kept, cache.first, oldest)
    enters = ops.logical_and(enters, new.kept >= 0)

    def written(old, new):
        shape = (1, 1, -1, 1, 1) if len(old.shape) == 5 else (1, -1)
        batch = ops.shape(old)[0]
        return ops.where(ops.reshape(enters, (batch, *shape[1:])), new, old)

    nothing = ops.zeros_like(cache.selected)
    cache = _replaced(cache, new, written)
    cache = cache._replace(selected=ops.where(enters, nothing, cache.selected))
    found = _attend(asked, query, new.segments, cache, step, cache.selected)
    output, weights, allowed, taken = found
    return output, weights, allowed, cache.kept, cache._replace(selected=taken)


def _attend_several(asked, query, new, cache, step):
    """The same for rows that are written after they attended."""

    def joined(old, new):
        return ops.concatenate([old, new], axis=2 if len(old.shape) == 5 else 1)

    every = _replaced(cache, new, joined)

    def limit(selected):
        found = within_budget(
            selected, cache.selected, every.kept, cache.first, asked.positions.reach()[0]
        )
        seen, penalty, *left = found
        return seen[:, None], penalty[:, None], left

    output, weights, allowed, (kept, taken) = _attend(
        asked, query, new.segments, every, step, cache.selected, limit
    )

    def chosen(tensor, _):
        wide = len(tensor.shape) == 5
        index = kept[:, None, :, None, None] if wide else kept
        return ops.take_along_axis(tensor, index, axis=2 if wide else 1)

    cache = _replaced(every, new, chosen)._replace(selected=taken)
    return output, weights, allowed, every.kept, cache


def _attend(asked, query, segments, cache, step, taken, limit=None):
    key, value = cache.keys_values[:, 0], cache.keys_values[:, 1]
    at = Constants(
        query_segments=segments,
        key_segments=cache.segments,
        query_positions=step.query_positions,
        key_positions=cache.kept,
    )
    seen = Seen(key, value, cache.kept, cache.segments, taken)
    return attend_few(asked, query, seen, at, None, cache.first, limit)


def _replaced(cache, new, function):
    """Returns a `Cache` of `function(old, new)` for each tensor with slots."""
    names = "keys_values", "segments", "kept"
    found = {
        name: function(getattr(cache, name), getattr(new, name))
        for name in names
        if getattr(cache, name) is not None
    }
    return cache._replace(**found)
