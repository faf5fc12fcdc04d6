"""Entmax: normalizing scores into weights of which many are exactly zero.

Entmax with an exponent alpha lies on a line: alpha = 1 is softmax, alpha = 2 is
sparsemax, and the larger alpha, the sparser the weights. All of them have one form.
With `z` the scores less their maximum, and `p` the largest weight of the row::

    w_i = p · [1 + (alpha - 1) · z_i / p^(alpha - 1)]_+ ^ (1 / (alpha - 1))

    alpha = 2:      w_i = [p + z_i]_+
    alpha = 1.5:    w_i = [sqrt(p) + z_i / 2]_+ ²
    alpha -> 1:     w_i = p · exp(z_i)

which is `[(alpha - 1) · z_i - tau]_+ ^ (1 / (alpha - 1))` with `tau = -p^(alpha - 1)`.
Only `p` is unknown: it makes the row sum to one. Looking for `p` and not for `tau`
keeps every alpha accurate, for `p` is between `1 / n` and 1 whatever alpha is, and
the form above has no small difference of large numbers when alpha is near 1.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_sam.ops.precision import maximum, wide

# Rounding of a sum can keep the last digit of `p` moving for ever. Newton's method
# needs log2(n) + log4(1 / epsilon) passes at most (see `_newton`), so this never binds.
MAX_PASSES = 64


def entmax(scores, alpha=1.5):
    """Normalizes the last axis of `scores` with alpha-entmax.

    The largest weight is found by Newton's method (alpha <= 2) or by bisection
    (alpha > 2), out of sight of automatic differentiation. One more Newton step, with
    a constant slope, is then differentiated: it changes the value by no more than
    rounding, and its derivative is the one that the implicit function theorem gives.

    For a row of `n` scores Newton's method takes at most `log2(n) + log4(1 / epsilon)`
    passes over it (usually about eight), and bisection `log2(n) + log2(1 / epsilon)`;
    sorting, of which a compiler for CPUs makes little, is not needed.

    Args:
        scores: Float tensor `(..., n)`. float16 and bfloat16 are computed in float32.
        alpha: A number, at least 1.

    Returns:
        The weights, `(..., n)`, in the dtype of `scores`. Each row sums to one.

    Example:

    >>> import keras
    >>> scores = keras.ops.array([1.0, 0.9, -3.0])
    >>> keras.ops.convert_to_numpy(entmax(scores, alpha=2)).round(2).tolist()
    [0.550000011920929, 0.44999998807907104, 0.0]

    Reference: [Peters et al. 2019](https://arxiv.org/abs/1905.05702), section 3.
    """
    if alpha == 1:
        return _softmax(scores)
    given = keras.backend.standardize_dtype(scores.dtype)
    dtype = wide(given)
    scores = ops.cast(scores, dtype)
    # Adding the same to all scores changes nothing, so the maximum needs no gradient.
    scores = scores - ops.stop_gradient(
        ops.max(scores, axis=-1, keepdims=True, initial=-math.inf)  # rows may be empty
    )

    solve = _newton if alpha <= 2 else _bisection
    fixed = ops.stop_gradient(scores)
    tolerance = 8 * float(np.finfo(dtype).eps)
    peak = ops.stop_gradient(solve(fixed, alpha, tolerance))
    slope = ops.stop_gradient(_slope(fixed, peak, alpha))
    peak = peak - (_total(scores, peak, alpha) - 1.0) / slope
    weights = _weights(scores, peak, alpha)
    if alpha > 2:
        # The weights begin with a vertical slope, where rounding of a score shows.
        weights = weights / ops.stop_gradient(ops.sum(weights, axis=-1, keepdims=True))
    return ops.cast(weights, given)


def _softmax(scores):
    """Returns the softmax of the last axis, also where it has one entry only.

    Keras warns then, and rightly in most places; but a query may have just one key.
    """
    if scores.shape[-1] == 1:
        return 0.0 * scores + 1.0
    return ops.softmax(scores, axis=-1)


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
    return inside, ops.log1p(ratio) / power


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

    def step(peak, _):
        lower = peak - (_total(scores, peak, alpha) - 1.0) / _slope(scores, peak, alpha)
        return lower, ops.any(lower < (1.0 - tolerance) * peak)

    return ops.while_loop(
        lambda peak, falling: falling,
        step,
        (ops.ones_like(scores[..., :1]), ops.convert_to_tensor(True)),
        maximum_iterations=MAX_PASSES,
    )[0]


def _bisection(scores, alpha, tolerance):
    """Finds the largest weight for any alpha, between 1 / n and 1."""

    def halve(low, high):
        middle = 0.5 * (low + high)
        too_large = _total(scores, middle, alpha) > 1.0
        return ops.where(too_large, low, middle), ops.where(too_large, middle, high)

    high = ops.ones_like(scores[..., :1])
    low = high / ops.cast(ops.shape(scores)[-1], scores.dtype)
    return ops.while_loop(
        lambda low, high: ops.any(high - low > tolerance * high), halve, (low, high)
    )[1]
