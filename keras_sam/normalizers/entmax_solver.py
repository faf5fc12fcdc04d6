"""Finding the weights of entmax: Newton's method up to alpha = 2, and bisection beyond."""

import keras
import numpy as np
from keras import ops

from keras_sam.backend.precision import log1p, maximum, minimum
from keras_sam.backend.reductions import largest

# Rounding of a sum can keep the last digit of `p` moving for ever. Newton's method
# needs log2(n) + log4(1 / epsilon) passes at most (see `_newton`), so this never binds.
MAX_PASSES = 64

# The least of the numbers that `_bisection` looks for; a smaller one would be zero.
LEAST_REACH = 1e-30


def solve(scores, alpha):
    """Returns the weights of `scores`, for any alpha larger than 1."""
    # Adding the same to all scores changes nothing. Rows may be empty.
    scores = scores - largest(scores, -1, keepdims=True)
    epsilon = float(np.finfo(_name(scores)).eps)
    if alpha > 2:
        return _bisection(scores, alpha, epsilon)
    peak = _newton(scores, alpha, 8 * epsilon)
    peak = peak - (_total(scores, peak, alpha) - 1.0) / _slope(scores, peak, alpha)
    return _weights(scores, peak, alpha)


def _name(tensor):
    return keras.backend.standardize_dtype(tensor.dtype)


def _weights(scores, peak, alpha):
    """Returns the weights of `scores`, whose maximum is 0, given the largest weight."""
    if alpha == 2:
        return ops.relu(scores + peak)
    if alpha == 1.5:
        return ops.square(ops.relu(0.5 * scores + ops.sqrt(peak)))
    inside, log_ratio = _log_ratio(scores, peak, alpha)
    return ops.where(inside, peak * ops.exp(log_ratio), ops.zeros_like(scores))


def _log_ratio(scores, peak, alpha):
    """Returns where the weights are not zero, and there `log(weight / peak)`."""
    power = alpha - 1.0
    # p^-(alpha - 1) is kept below 1e18: no such score but the maximum has weight then,
    # and an infinity would make its 0 a NaN.
    # (`ops.power` would make float64 float32 on torch.)
    scale = maximum(peak, 10.0 ** (-18.0 / power)) ** -power
    ratio = power * scores * scale
    inside = ratio > -1.0
    # The second `where` keeps the infinite slope at the edge out of the gradient.
    ratio = ops.where(inside, ratio, ops.zeros_like(ratio))
    return inside, log1p(ratio) / power


def _total(scores, peak, alpha):
    """Returns the sum of each row of weights: 1 when `peak` is right."""
    return ops.sum(_weights(scores, peak, alpha), axis=-1, keepdims=True)


def _slope(scores, peak, alpha):
    """Returns the derivative of the total, which is at least 1.

    ::

        d total / d p = sum_i (w_i / p) ^ (2 - alpha)      over the w_i that are not 0
    """
    if alpha == 2:
        terms = ops.cast(scores + peak > 0.0, scores.dtype)
    elif alpha == 1.5:
        root = ops.sqrt(peak)
        terms = ops.relu(0.5 * scores + root) / root
    else:
        inside, log_ratio = _log_ratio(scores, peak, alpha)
        terms = ops.exp((2.0 - alpha) * log_ratio)
        terms = ops.where(inside, terms, ops.zeros_like(terms))
    return ops.sum(terms, axis=-1, keepdims=True)


def _newton(scores, alpha, tolerance):
    """Finds the largest weight for alpha <= 2, where the total is convex in it.

    Newton's method then falls from 1 to the root and never beyond it. Each pass makes
    `(total - 1) · slope` at least four times smaller, and that is below `n²` at first.
    For sparsemax each pass is one of Michelot (1986): the last support is exact.
    """

    def step(peak, falling):
        lower = peak - (_total(scores, peak, alpha) - 1.0) / _slope(scores, peak, alpha)
        # A row that has come to rest stays there, however long others take.
        fell = ops.logical_and(falling, lower < (1.0 - tolerance) * peak)
        return ops.where(falling, lower, peak), fell

    peak = ops.ones_like(scores[..., :1])
    return ops.while_loop(
        lambda peak, falling: ops.any(falling),
        step,
        (peak, peak > 0.0),
        maximum_iterations=MAX_PASSES,
    )[0]


def _bisection(scores, alpha, tolerance):
    """Returns the weights of `scores`, whose maximum is 0, for alpha > 2.

    ::

        w_i = ((alpha - 1) · max(s_i + reach, 0)) ^ (1 / (alpha - 1))

    A weight begins with a vertical slope, where the rounding of a number shows: added to a
    score of nearly the same size, `reach` is exact. The weights are those between the last
    two numbers that `reach` may be, with a sum of one.
    """
    power = alpha - 1.0

    def weights(reach):
        inside = scores + reach
        positive = inside > 0.0
        # The second `where` keeps the infinite slope at the edge out of the gradient.
        inside = ops.where(positive, power * inside, ops.ones_like(inside))
        return ops.where(positive, ops.exp(ops.log(inside) / power), ops.zeros_like(scores))

    def total(reach):
        return ops.sum(weights(reach), axis=-1, keepdims=True)

    def halve(low, high):
        middle = 0.5 * (low + high)
        too_large = total(middle) > 1.0
        # A row that is found stays as it is, however long others take.
        found = high - low <= tolerance * high
        lower = ops.where(ops.logical_or(found, too_large), low, middle)
        return lower, ops.where(
            ops.logical_and(ops.logical_not(found), too_large), middle, high
        )

    # All weights are equal at the least reach, and there is but one at the largest.
    count = maximum(ops.cast(ops.shape(scores)[-1], scores.dtype), 1.0)
    least = maximum(ops.exp(-power * ops.log(count)), LEAST_REACH)
    high = ops.ones_like(scores[..., :1]) / power
    low, high = ops.while_loop(
        lambda low, high: ops.any(high - low > tolerance * high),
        halve,
        (high * least, high),
    )
    below, above = weights(low), weights(high)
    missing = 1.0 - ops.sum(below, axis=-1, keepdims=True)
    added = ops.sum(above - below, axis=-1, keepdims=True)
    share = missing / ops.where(added > 0.0, added, ops.ones_like(added))
    share = minimum(maximum(share, 0.0), 1.0)
    found = below + share * (above - below)
    return found / ops.sum(found, axis=-1, keepdims=True)
