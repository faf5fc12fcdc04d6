"""Selective attention within a budget of keys, and how many keys it needs.

::

    M_i     = sum over the keys j that row i may attend to of  1 - min(F_ij, 1)
    loss    = weight * max over rows of M_i / (number of rows)

`F`, what earlier rows took off a key, only ever grows. A key with a large one has next to
no weight for all later rows, so its slot of a cache can go to another. Within a budget of
`K` slots each row, before it attends, takes the slot of the key with the largest `F`: an
empty slot comes first, and of equal keys the oldest. The first key stays, which is never
selected; keys that no later row sees, behind the end of a window, leave before all others.
The loss counts the keys that are not taken off, softly, and so teaches to select.

Reference: Leviathan et al., 2024, "Selective Attention Improves Transformer"
(https://arxiv.org/abs/2410.02703), the sections on pruning the context and on the loss,
where the weight is divided by the number of layers.
"""

from keras import ops

from keras_sam.attention import reference
from keras_sam.attention.cache import LATEST
from keras_sam.attention.penalty import accumulate, first_head, select, selectable_keys
from keras_sam.attention.request import Sizes
from keras_sam.backend import loops
from keras_sam.normalizers.masking import both, unmasked, wide_scores


def needed_keys(call):
    """Returns how many keys each row of a selective call needs, softly counted.

    It makes one matrix of all pairs, of the head that selects.

    Args:
        call: A `recorded.Call`.

    Returns:
        `M`, float32 `(B, T)`, zero for padding; and the number of rows, `(B or 1,)`.
    """
    inputs, constants, request = call.inputs, call.constants, call.request
    sizes = Sizes.of(inputs)
    mask = reference.pair_mask(constants, request, sizes)
    query, key = inputs.query, inputs.key
    if request.score.is_dot_product and request.modify is None:
        query, key = query[:, :1], key[:, :1]
    scores = request.score(inputs.operands, query, key)
    if request.modify is not None:
        scores = request.modify(
            inputs.operands, wide_scores(scores), constants.pairs(sizes)
        )
    bias = first_head(inputs.bias)
    rows, keys = ops.shape(query)[-2], ops.shape(key)[-2]
    positions = ops.arange(0, rows), ops.arange(0, keys)
    selectable = selectable_keys(keys, constants.key_mask)
    logits = wide_scores(scores[:, :1], bias)
    taken = accumulate(select(logits, mask, selectable, *positions))
    needed = 1 - ops.minimum(ops.cast(taken, "float32"), 1)
    seen = first_head(both(mask, unmasked(bias)))
    needed = ops.sum(ops.where(seen, needed, ops.zeros_like(needed)), axis=-1)[:, 0]
    if constants.query_mask is None:
        return needed, ops.reshape(ops.cast(rows, "float32"), (1,))
    real = ops.cast(constants.query_mask, "float32")
    return needed * real, ops.maximum(ops.sum(real, axis=-1), 1)


def memory_loss(call):
    """Returns the mean over examples of `max M_i / (number of rows)`, a scalar.

    Args:
        call: A `recorded.Call` of a selective request.
    """
    needed, rows = needed_keys(call)
    return ops.mean(ops.max(needed, axis=-1) / rows)


def leaving(taken, positions, first, oldest=None, alive=None):
    """Returns which key leaves its slot for the next row, one in each row, `(B, S)`.

    Args:
        taken: `F`, float `(B, S)`.
        positions: Integers `(B, S)`, negative in an empty slot.
        first: Integers `(B,)`, the position of the key that stays.
        oldest: Integers `(B,)`, the first position that the next row sees, or None. Keys
            before it leave first.
        alive: Boolean `(B, S)`, which keys are in a slot; None is all.
    """
    rank = ops.where(ops.equal(positions, first[:, None]), -1.0, taken)
    useful = positions >= (0 if oldest is None else ops.maximum(oldest, 0)[:, None])
    rank = ops.where(useful, rank, float("inf"))
    rank = rank if alive is None else ops.where(alive, rank, -2.0)
    worst = ops.equal(rank, ops.max(rank, axis=1, keepdims=True))
    chosen = ops.argmin(ops.where(worst, positions, LATEST), axis=1)
    columns = ops.arange(ops.shape(taken)[1], dtype="int32")[None]
    return ops.equal(columns, ops.cast(chosen, "int32")[:, None])


def within_budget(selected, taken, positions, first, back=None):
    """Decides which keys each new row still sees, and what stays in the slots after them.

    Args:
        selected: Float `(B, T, K + T)`, what each row takes off each key, of those in the
            slots and then of the new rows themselves.
        taken: Float `(B, K)`, what all rows before took off the keys in the slots.
        positions: Integers `(B, K + T)` of all these keys. A negative one is an empty slot,
            or a row that is padding and takes none.
        first: Integers `(B,)`, the position of the key that stays in any case.
        back: How many positions back a row sees, or None.

    Returns:
        seen: Boolean `(B, T, K + T)`.
        penalty: `F` of each row, `(B, T, K + T)`.
        kept: Integers `(B, K)`, which of the `K + T` keys are in the slots afterwards.
        taken: `(B, K)`, what is taken off those.
    """
    slots, new = taken.shape[1], ops.shape(selected)[1]
    columns = ops.arange(slots + new, dtype="int32")[None]
    alive = ops.broadcast_to(columns < slots, ops.shape(positions))
    nothing = ops.zeros_like(selected[:, 0, slots:])
    taken = ops.concatenate([taken, nothing], axis=1)

    def row(index, carry):
        alive, taken = carry
        position = ops.take(positions, slots + index, axis=1)
        oldest = None if back is None else position - back
        leaves = leaving(taken, positions, first, oldest, alive)
        enters = ops.equal(columns, slots + index)
        changed = ops.logical_or(ops.logical_and(alive, ~leaves), enters)
        alive = ops.where(position[:, None] >= 0, changed, alive)
        found = {"seen": alive, "penalty": taken}
        return found, (alive, taken + ops.take(selected, index, axis=1))

    dtypes = {"seen": "bool", "penalty": taken.dtype}
    found, (alive, taken) = loops.stack(row, new, (alive, taken), dtypes)
    seen, penalty = (ops.swapaxes(found[name], 0, 1) for name in ("seen", "penalty"))
    # Those that stay, in the order of their columns.
    order = ops.where(alive, columns, columns + slots + new)
    kept = ops.sort(order, axis=1)[:, :slots]
    return seen, penalty, kept, ops.take_along_axis(taken, kept, axis=1)
