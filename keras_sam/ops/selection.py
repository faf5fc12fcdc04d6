"""Hard selection: keeping the k largest scores of each row, with a gradient."""

import keras
import numpy as np
from keras import ops


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
        scores = ops.where(mask, scores, ops.full_like(scores, -np.inf))
    # Sorting is stable, so sorting the order itself gives each entry's rank.
    ranks = ops.argsort(ops.argsort(ops.negative(scores), axis=-1), axis=-1)
    kept = ops.less(ranks, ops.cast(k, ranks.dtype))
    return kept if mask is None else ops.logical_and(kept, mask)


def keep(weights, kept):
    """Keeps the marked weights, renormalized, with a straight-through gradient.

    ::

        forward     hard_j = kept_j max(w_j, tiny) / sum_i kept_i max(w_i, tiny)
        backward    d hard = d w

    The estimator is that of Bengio et al., 2013 (https://arxiv.org/abs/1308.3432),
    section 4: what is not kept learns as if it were, or nothing would ever enter the
    selection. The floor `tiny`, the smallest normal number of the dtype, makes sure
    that what is kept has weight, however small its score.

    Args:
        weights: Non-negative float tensor `(..., n)`.
        kept: Boolean tensor `(..., n)`.

    Returns:
        A tensor like `weights`. A row of which nothing is kept is zero.
    """
    dtype = keras.backend.standardize_dtype(weights.dtype)
    tiny = {"float64": 2.3e-308, "float16": 6.2e-05}.get(dtype, 1.2e-38)
    hard = ops.where(kept, ops.maximum(weights, tiny), ops.zeros_like(weights))
    hard = ops.divide_no_nan(hard, ops.sum(hard, axis=-1, keepdims=True))
    # The difference is exactly zero; it only carries the gradient.
    through = ops.subtract(weights, ops.stop_gradient(weights))
    return ops.add(ops.stop_gradient(hard), through)
