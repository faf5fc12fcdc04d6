"""Counter-based dropout of attention weights.

The mask is a hash of (seed, example, head, row, key). So any block of it can be made
again, in the backward pass as in the forward pass, whatever the blocks. The hash is
integer arithmetic, which compiles into the arithmetic around it.
"""

from keras import ops


def dropout_mask(seed, example, head, rows, keys, rate):
    """Returns the factors of dropout: 0, or `1 / (1 - rate)`.

    Args:
        seed: Integer tensor `(2,)`.
        example: Indices of examples, of a shape that broadcasts with that of `head`.
        head: Indices of heads.
        rows: The indices of the rows, `(T,)`.
        keys: The indices of the keys, `(S,)`.
        rate: The share of weights to drop, in [0, 1).

    Returns:
        A float32 tensor `(..., T, S)`, where `...` is the shape of `example` and `head`.
    """
    seed = ops.cast(seed, "int32")
    state = _mix(_mix(_mix(seed[0]) ^ seed[1]) + ops.cast(example, "int32"))
    state = _mix(state + ops.cast(head, "int32"))[..., None]
    by_row = _mix(_mix(ops.cast(rows, "int32") + 1) + state)
    by_key = _mix(_mix(ops.cast(keys, "int32")) ^ state)
    bits = _mix(by_row[..., :, None] + by_key[..., None, :])
    threshold = round(rate * 2**31)
    kept = ops.greater_equal(bits & 0x7FFFFFFF, threshold)
    return ops.where(kept, 1.0 / (1.0 - rate), 0.0)


def _mix(bits):
    """Scrambles 32-bit integers: each bit of a result depends on all of `bits`."""
    bits = (bits ^ _shift(bits, 16)) * 0x7FEB352D
    bits = (bits ^ _shift(bits, 15)) * -2073254261  # 0x846CA68B, signed
    return bits ^ _shift(bits, 16)


def _shift(bits, by):
    """Shifts right as unsigned integers are shifted."""
    return ops.right_shift(bits, by) & ((1 << (32 - by)) - 1)
