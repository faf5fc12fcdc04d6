"""What selective attention takes off the scores of some rows; see `selective`."""

from keras import ops

from keras_sam.backend.indices import indices
from keras_sam.backend.precision import cumsum


def selectable_keys(length, key_mask=None):
    """Returns which keys can be selected: all but the first that is not padding.

    Args:
        length: The number of keys `S`.
        key_mask: Boolean tensor `(B, S)`, or None; False is padding.

    Returns:
        A boolean tensor `(B or 1, 1, 1, S)`.
    """
    if key_mask is None:
        return ops.expand_dims(ops.greater(indices(length), 0), (0, 1, 2))
    so_far = ops.cumsum(ops.cast(key_mask, "int32"), axis=-1)
    return ops.expand_dims(ops.greater(so_far, 1), (1, 2))


def select(logits, allowed, selectable, query_positions, key_positions):
    """Returns how much each row takes off each key, for the rows after it.

    Args:
        logits: Float tensor `(B, 1, rows, keys)`, of the head that selects.
        allowed: Boolean tensor that broadcasts to the logits of all heads.
        selectable: Boolean tensor `(B or 1, 1, 1 or rows, keys)`.
        query_positions: Integer tensor `(rows,)`.
        key_positions: Integer tensor `(keys,)`.

    Returns:
        `S`, `(B, 1, rows, keys)`.
    """
    before = ops.less(key_positions[None, :], query_positions[:, None])
    return select_allowed(logits, allowed, ops.logical_and(selectable, before))


def select_allowed(logits, allowed, selectable):
    """Returns what `select` does, where `selectable` knows the order of positions too."""
    selectable = ops.logical_and(selectable, first_head(allowed))
    return ops.where(selectable, ops.relu(logits), ops.zeros_like(logits))


def accumulate(selected):
    """Sums up over the rows before each row, with the same shape."""
    sums = cumsum(selected[..., :-1, :], axis=-2)
    return ops.concatenate([ops.zeros_like(selected[..., :1, :]), sums], axis=-2)


def first_head(tensor):
    """Returns the first head of a tensor that broadcasts to `(B, H, T, S)`, or None."""
    return tensor if tensor is None or len(tensor.shape) < 4 else tensor[:, :1]


def add_bias(bias, other):
    """Returns the sum of a bias, which may be None, and another one."""
    return other if bias is None else ops.cast(bias, other.dtype) + other
