"""Hard selection: keeping the k largest scores of each row, with a gradient."""

import fractions
import math

import keras
import numpy as np
from keras import ops

from keras_sam.backend.indices import indices
from keras_sam.backend.precision import maximum

# The smallest weight that still is one: float16 has smaller ones than its normal ones.
_SMALLEST = {"float64": 2.3e-308, "float16": 6e-08}


def count_of(top_k, count):
    """How many of `count` parts `top_k` is, rounded up, in exact integer arithmetic.

    Args:
        top_k: A number of parts, or a share of them in (0, 1), which is taken for the
            simple fraction that it stands for: 0.07 of 100 are 7.
        count: How many parts there are, an integer or a tensor of int32.
    """
    if isinstance(top_k, int):
        return top_k
    # Of such a size that neither product below runs out of int32.
    largest = int(math.sqrt(2**30 / max(top_k, 2**-30)))
    share = fractions.Fraction(top_k).limit_denominator(largest)
    share = max(share, fractions.Fraction(1, largest))
    rounds, rest = count // share.denominator, count % share.denominator
    # Rounded up by the sum, because ONNX and others divide negative integers otherwise.
    above = (rest * share.numerator + share.denominator - 1) // share.denominator
    return rounds * share.numerator + above


def top_k_mask(scores, k, mask=None):
    """Marks the `k` largest scores of each row; the earlier of two equal ones wins.

    Args:
        scores: Float tensor `(..., n)`.
        k: Integer, or an integer tensor that broadcasts to `(..., 1)`.
        mask: Boolean tensor that broadcasts to `scores`; False is never marked.

    Returns:
        A boolean tensor `(..., n)` with `k` True in each row, or as many as `mask` has
        if those are fewer.
    """
    if mask is not None:
        mask = ops.broadcast_to(ops.cast(mask, "bool"), ops.shape(scores))
        # A scalar: elsewhere tf2onnx makes a sum of products of it, which are NaN.
        scores = ops.where(mask, scores, ops.cast(-np.inf, scores.dtype))
    k = k if isinstance(k, int) else ops.cast(k, "int32")
    least = _largest(scores, k)  # (..., 1)
    above = ops.greater(scores, least)
    equal = ops.equal(scores, least)
    if mask is not None:
        equal = ops.logical_and(equal, mask)
    marked = ops.sum(ops.cast(above, "int32"), axis=-1, keepdims=True)
    # Added, because OpenVINO computes a number minus a sum of integers wrongly.
    marked = marked + ops.cumsum(ops.cast(equal, "int32"), axis=-1)
    early = ops.less_equal(marked, k)
    return ops.logical_or(above, ops.logical_and(equal, early))


def _largest(scores, k):
    """The k-th largest score of each row, or minus infinity where there are fewer."""
    length = scores.shape[-1]
    if isinstance(k, int) and isinstance(length, int) and 0 < k <= length:
        return ops.top_k(scores, k)[0][..., -1:]  # half the time of sorting
    one_more = [(0, 0)] * (len(scores.shape) - 1) + [(1, 0)]
    ascending = ops.pad(ops.sort(scores, axis=-1), one_more, constant_values=-np.inf)
    length = ops.shape(scores)[-1]
    k = ops.minimum(k, length)
    at = ops.minimum(length + 1 - k, length)  # of none the largest: nothing is above
    # The largest of those up to `at`: PyTorch converts no `take_along_axis` to ONNX.
    up_to = ops.less_equal(indices(length + 1), at)
    found = ops.where(up_to, ascending, ops.cast(-np.inf, scores.dtype))
    return ops.max(found, axis=-1, keepdims=True)


def keep(weights, kept, dtype=None):
    """Keeps the marked weights, renormalized, with a straight-through gradient.

    ::

        forward     hard_j = kept_j max(w_j, tiny) / sum_i kept_i max(w_i, tiny)
        backward    d hard = d w

    The estimator is that of Bengio et al., 2013 (https://arxiv.org/abs/1308.3432),
    section 4: what is not kept learns as if it were, or nothing would ever enter the
    selection. The floor `tiny`, the smallest positive number of the dtype that can be
    relied on, makes sure that what is kept has weight, however small its score.

    Args:
        weights: Non-negative float tensor `(..., n)`.
        kept: Boolean tensor `(..., n)`.
        dtype: The dtype of the result, that of `weights` if None.

    Returns:
        A tensor like `weights`. A row of which nothing is kept is zero.
    """
    wide = keras.backend.standardize_dtype(weights.dtype)
    dtype = dtype or wide
    tiny = _SMALLEST.get(wide, 1.2e-38)
    hard = ops.where(kept, maximum(weights, tiny), ops.zeros_like(weights))
    hard = ops.divide_no_nan(hard, ops.sum(hard, axis=-1, keepdims=True))
    if dtype != wide:  # what underflows there, too, is to have weight
        tiny = _SMALLEST.get(dtype, 1.2e-38)
        hard = ops.where(kept, maximum(hard, tiny), hard)
    # The difference is exactly zero; it only carries the gradient. (`+`, because `ops.add`
    # takes what an empty batch has for a bias.)
    through = ops.subtract(weights, ops.stop_gradient(weights))
    return ops.cast(ops.stop_gradient(hard) + through, dtype)


def gather_kept(tensor, kept, k):
    """Drops what is not kept.

    Args:
        tensor: Tensor `(B, T, C)`.
        kept: Boolean tensor `(B, T)`, with at most `k` True in each row.
        k: An integer, or an integer tensor.

    Returns:
        What is kept, in its order, `(B, k, C)`, and where it was, `(B, k)`. Zeros at
        position -1 fill up rows of which fewer are kept.
    """
    # Kept ones sort before the others, and both by position.
    order = ops.argsort(ops.cast(ops.logical_not(kept), "int32"), axis=-1)[:, :k]
    found = ops.take_along_axis(kept, order, axis=1)
    selected = ops.take_along_axis(tensor, order[:, :, None], axis=1)
    selected = ops.where(found[:, :, None], selected, ops.zeros_like(selected))
    return selected, ops.where(found, ops.cast(order, "int32"), -1)
