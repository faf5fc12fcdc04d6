"""Attention for a slab of query rows: the mathematics, written once.

::

    weights = mask * normalizer(where(mask, compare(query, key) + bias, MASKED))
    output = dropout(weights) @ value

Nothing here knows layers, and heads are just one more leading axis. The law that makes
slabs possible: row `i` of every step depends on row `i` of the query only.
"""

import keras
from keras import ops

from keras_sam.ops import penalty
from keras_sam.ops.precision import matmul, maximum, wide

# What a masked score is set to. Finite, so that a row with nothing to attend to stays
# finite, and far below any real score. Only ever used in float32 or wider.
MASKED = -1e9
FLOAT16_MAX = 65504.0


def attention_weights(scores, normalizer, mask=None, bias=None, dtype=None):
    """Normalizes each row of `scores` over the keys that `mask` allows.

    Normalizing happens in float32 or wider and is cast back. Multiplying by the mask
    at the end makes a row with nothing to attend to exactly zero, never NaN.

    Args:
        scores: Float tensor `(..., T, S)`.
        normalizer: A function of float scores that works on the last axis.
        mask: Boolean tensor that broadcasts to `scores`; True is "may attend".
        bias: Float tensor that broadcasts to `scores`, added before masking.
        dtype: The dtype of the weights, that of `scores` if None.

    Returns:
        The weights, `(..., T, S)`.
    """
    dtype = dtype or keras.backend.standardize_dtype(scores.dtype)
    scores = wide_scores(scores, bias)
    if mask is None:
        return ops.cast(normalizer(scores), dtype)
    scores = ops.where(mask, scores, ops.cast(MASKED, scores.dtype))
    weights = normalizer(scores)
    return ops.cast(ops.where(mask, weights, ops.zeros_like(weights)), dtype)


def wide_scores(scores, bias=None):
    """Returns `scores + bias`, finite and in float32 or wider."""
    given = keras.backend.standardize_dtype(scores.dtype)
    scores = ops.cast(scores, wide(given))
    if given == "float16":
        # Products that ran out of the range of float16 are infinite; keep rows finite.
        scores = ops.clip(scores, -FLOAT16_MAX, FLOAT16_MAX)
    if bias is None:
        return scores
    # A bias of minus infinity is a common way to mask: keep its rows finite.
    return scores + maximum(ops.cast(bias, scores.dtype), MASKED)


def position_mask(query_positions, key_positions, causal=False, sliding_window=None):
    """Returns which keys each row may attend to by its position alone.

    ::

        causal             sliding_window=2   both
        1 . . . .          1 1 . . .          1 . . . .
        1 1 . . .          1 1 1 . .          1 1 . . .
        1 1 1 . .          . 1 1 1 .          . 1 1 . .
        1 1 1 1 .          . . 1 1 1          . . 1 1 .
        1 1 1 1 1          . . . 1 1          . . . 1 1

    Args:
        query_positions: Integer tensor `(T,)`.
        key_positions: Integer tensor `(S,)`.
        causal: Whether a row attends to keys at or before its own position only.
        sliding_window: None, or attend to keys less than so many positions away.

    Returns:
        A boolean tensor `(T, S)`, or None when everything is allowed.
    """
    if not causal and sliding_window is None:
        return None
    distance = ops.subtract(query_positions[:, None], key_positions[None, :])
    allowed = None
    if sliding_window is not None:
        allowed = ops.less(ops.abs(distance), sliding_window)
    if causal:
        allowed = both(allowed, ops.greater_equal(distance, 0))
    return allowed


def both(mask, other):
    """The logical and of two masks, where None allows everything."""
    if mask is None or other is None:
        return other if mask is None else mask
    return ops.logical_and(ops.cast(mask, "bool"), ops.cast(other, "bool"))


def add_bias(bias, other):
    """The sum of a bias, which may be None, and another one."""
    return other if bias is None else ops.add(ops.cast(bias, other.dtype), other)


def attend(
    query,
    key,
    value,
    *,
    compare,
    normalizer,
    mask=None,
    key_mask=None,
    query_mask=None,
    bias=None,
    causal=False,
    sliding_window=None,
    selective=False,
    dropout=None,
):
    """Attends with all query rows at once and returns the weights too.

    Args:
        query: Tensor `(B, H, T, D)`.
        key: Tensor `(B, H, S, D)`.
        value: Tensor `(B, H, S, Dv)`.
        compare: A function of query and key that makes the scores.
        normalizer: A function of float scores that works on the last axis.
        mask: Boolean `(B, 1 or H, T, S)`, or None; True is "may attend".
        key_mask: Boolean `(B, S)`, or None; False is padding.
        query_mask: Boolean `(B, T)`, or None; False is padding.
        bias: Float tensor that broadcasts to `(B, H, T, S)`, or None.
        causal: See `position_mask`.
        sliding_window: See `position_mask`.
        selective: Whether the first head takes off scores; see `penalty`.
        dropout: A function of the weights, or None.

    Returns:
        The output `(B, H, T, Dv)` and the weights before dropout, `(B, H, T, S)`.
    """
    if key_mask is not None:
        mask = both(mask, key_mask[:, None, None, :])
    if query_mask is not None:
        mask = both(mask, query_mask[:, None, :, None])
    positions = ops.arange(ops.shape(query)[-2]), ops.arange(ops.shape(key)[-2])
    mask = both(mask, position_mask(*positions, causal, sliding_window))
    scores = compare(query, key)
    if selective:
        logits = wide_scores(scores[:, :1], penalty.first_head(bias))
        selectable = penalty.selectable_keys(ops.shape(key)[-2], key_mask)
        selected = penalty.select(logits, mask, selectable, *positions)
        bias = add_bias(bias, -penalty.accumulate(selected))
    weights = attention_weights(scores, normalizer, mask, bias)
    weights = ops.cast(weights, value.dtype)  # scores may have a dtype of their own
    dropped = weights if dropout is None else dropout(weights)
    return matmul(dropped, value), weights
