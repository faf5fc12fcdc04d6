"""Normalizing scores of which some are masked, finite in every dtype."""

import keras
from keras import ops

from keras_sam.backend.precision import maximum, wide

# The score of a masked pair. Finite, so that a row with nothing to attend to stays
# finite, and far below any real score. Only ever used in float32 or wider.
MASKED = -1e9
# A bias from here on down masks its pair, however it is rounded.
MASKING_BIAS = MASKED / 2
FLOAT16_MAX = 65504.0


def attention_weights(scores, normalizer, mask=None, bias=None, dtype=None, sinks=None):
    """Normalizes each row of `scores` over the keys that `mask` allows.

    Normalizing happens in float32 or wider and is cast back. Multiplying by the mask
    at the end makes a row with nothing to attend to exactly zero, never NaN.

    Args:
        scores: Float tensor `(..., T, S)`.
        normalizer: A function of float scores that works on the last axis.
        mask: Boolean tensor that broadcasts to `scores`; True is "may attend".
        bias: Float tensor that broadcasts to `scores`, added before masking. Where it is
            minus infinity, or -1e9, it masks.
        dtype: The dtype of the weights, that of `scores` if None.
        sinks: A score for each row, of a shape that broadcasts to `(..., T, 1)`, which is
            normalized with it and left out of the weights; or None.

    Returns:
        The weights, `(..., T, S)`.
    """
    dtype = dtype or keras.backend.standardize_dtype(scores.dtype)
    scores = wide_scores(scores, bias)
    mask = both(mask, unmasked(bias))
    if sinks is not None:
        normalizer = _with_sinks(normalizer, sinks)
    if mask is None:
        return ops.cast(normalizer(scores), dtype)
    scores = ops.where(mask, scores, ops.cast(MASKED, scores.dtype))
    weights = normalizer(scores)
    return ops.cast(ops.where(mask, weights, ops.zeros_like(weights)), dtype)


def _with_sinks(normalizer, sinks):
    """Returns a normalizer of rows that have one more score each."""

    def normalize(scores):
        shape = (*ops.shape(scores)[:-1], 1)
        column = ops.broadcast_to(ops.cast(sinks, scores.dtype), shape)
        return normalizer(ops.concatenate([column, scores], axis=-1))[..., 1:]

    return normalize


def wide_scores(scores, bias=None):
    """Returns `scores + bias`, finite and in float32 or wider."""
    given = keras.backend.standardize_dtype(scores.dtype)
    scores = ops.cast(scores, wide(given))
    if given == "float16":
        # Products that ran out of the range of float16 are infinite; keep rows finite.
        scores = ops.clip(scores, -FLOAT16_MAX, FLOAT16_MAX)
    if bias is None:
        return scores
    # A bias of minus infinity masks: keep its rows finite.
    return scores + maximum(ops.cast(bias, scores.dtype), MASKED)


def unmasked(bias):
    """Returns which pairs a bias does not mask, in its shape, or None for no bias.

    Minus infinity, the lowest number of a dtype and -1e9 are all common ways to mask.
    """
    return None if bias is None else ops.greater(bias, MASKING_BIAS)


def both(mask, other):
    """The logical and of two masks, where None allows everything."""
    if mask is None or other is None:
        return other if mask is None else mask
    return ops.logical_and(ops.cast(mask, "bool"), ops.cast(other, "bool"))
