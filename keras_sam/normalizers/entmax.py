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

import dataclasses
import functools
import math

import keras
import numpy as np
from keras import ops

from keras_sam import _validation
from keras_sam.backend.derivatives import with_gradient
from keras_sam.backend.precision import log1p, maximum, wide
from keras_sam.normalizers.base import Normalizer
from keras_sam.normalizers.softmax import softmax

# Rounding of a sum can keep the last digit of `p` moving for ever. Newton's method
# needs log2(n) + log4(1 / epsilon) passes at most (see `_newton`), so this never binds.
MAX_PASSES = 64


@keras.saving.register_keras_serializable(package="keras_sam")
@dataclasses.dataclass(frozen=True)
class Sparsemax(Normalizer):
    """Sparsemax: the nearest point of the simplex, most of whose weights are zero.

    ::

        w = argmin_p |p - s|²,   p_i >= 0,   sum_i p_i = 1
        w_i = max(s_i - tau, 0)

    Call arguments:
        scores: Float tensor `(..., n)`.

    Masking: a masked score is a very negative one (-1e9), and its weight is zero as
    long as the row has any other.

    Output shape: that of `scores`.

    Example:

    >>> import keras
    >>> weights = Sparsemax()(keras.ops.array([0.75, 0.25, -1.0]))
    >>> keras.ops.convert_to_numpy(weights).tolist()
    [0.75, 0.25, 0.0]

    Reference: [Martins & Astudillo 2016](https://arxiv.org/abs/1602.02068), equation 2.
    """

    def __call__(self, scores):
        return entmax(scores, alpha=2)


@keras.saving.register_keras_serializable(package="keras_sam")
@dataclasses.dataclass(frozen=True)
class Entmax(Normalizer):
    """Entmax: the family between softmax and sparsemax, and beyond.

    ::

        w = argmax_p  p · s + H_alpha(p)      H_alpha: Tsallis entropy
        w_i = max((alpha - 1) · s_i - tau, 0) ^ (1 / (alpha - 1))

    Args:
        alpha: A number, at least 1. 1 is softmax, 2 is sparsemax; the larger alpha, the
            more weights are exactly zero.

    Call arguments:
        scores: Float tensor `(..., n)`.

    Masking: a masked score is a very negative one (-1e9), and its weight is zero as
    long as the row has any other.

    Output shape: that of `scores`.

    Example:

    >>> import keras
    >>> weights = Entmax(alpha=1.5)(keras.ops.array([2.0, 0.0, -1.0]))
    >>> keras.ops.convert_to_numpy(weights).tolist()
    [1.0, 0.0, 0.0]

    Reference: [Peters et al. 2019](https://arxiv.org/abs/1905.05702), section 3.
    """

    alpha: float = 1.5

    def __post_init__(self):
        expected = "a number of at least 1"
        value = _validation.number("alpha", self.alpha, expected)
        if value < 1:
            raise _validation.invalid("alpha", expected, self.alpha)
        self._store("alpha", value)

    def __call__(self, scores):
        return entmax(scores, self.alpha)


def entmax(scores, alpha=1.5):
    """Normalizes the last axis of `scores` with alpha-entmax.

    The largest weight is found by Newton's method (alpha <= 2) or by bisection
    (alpha > 2), and one more Newton step. The gradient follows from the weights, by the
    implicit function theorem, and so do the derivatives of higher order::

        s_j = w_j ^ (2 - alpha), 0 where w_j is 0
        d z_j = s_j (g_j - sum_i s_i g_i / sum_i s_i)

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

    References: [Peters et al. 2019](https://arxiv.org/abs/1905.05702), section 3, and
    proposition 2 for the gradient.
    """
    if alpha == 1:
        return softmax(scores)
    given = keras.backend.standardize_dtype(scores.dtype)
    weights = _differentiable(float(alpha))([ops.cast(scores, wide(given))], ())[0]
    return ops.cast(weights, given)


@functools.cache
def _differentiable(alpha):
    """Entmax of float32 or float64 scores, as a function that can be differentiated."""
    solve = functools.partial(_solve, alpha=alpha)
    slope = functools.partial(_gradient, alpha=alpha)
    return with_gradient(
        lambda inputs, constants: ([solve(*inputs)], ()),
        lambda inputs, constants, outputs, residuals, up: [slope(*outputs, *up)],
        # Differentiated again, the weights are once more those of the scores.
        lambda inputs, constants, up: [slope(entmax(*inputs, alpha=alpha), *up)],
    )


def _solve(scores, alpha):
    """Returns the weights of `scores`."""
    # Adding the same to all scores changes nothing. Rows may be empty.
    scores = scores - ops.max(scores, axis=-1, keepdims=True, initial=-math.inf)
    solve = _newton if alpha <= 2 else _bisection
    peak = solve(scores, alpha, 8 * float(np.finfo(_name(scores)).eps))
    peak = peak - (_total(scores, peak, alpha) - 1.0) / _slope(scores, peak, alpha)
    weights = _weights(scores, peak, alpha)
    if alpha > 2:
        # The weights begin with a vertical slope, where rounding of a score shows.
        weights = weights / ops.sum(weights, axis=-1, keepdims=True)
    return weights


def _gradient(weights, upstream, alpha):
    """Returns the gradient of the scores from the weights and their gradient."""
    if alpha == 2:
        slopes = ops.cast(weights > 0.0, weights.dtype)
    else:
        inside = weights > 0.0
        # The second `where` keeps the infinite slope of zero out of the next gradient.
        safe = ops.where(inside, weights, ops.ones_like(weights))
        slopes = ops.sqrt(safe) if alpha == 1.5 else ops.exp((2.0 - alpha) * ops.log(safe))
        slopes = ops.where(inside, slopes, ops.zeros_like(slopes))
    if alpha > 2:
        # The slope of a small weight dwarfs all others. Relative to its own gradient,
        # nothing large cancels.
        steepest = ops.equal(slopes, ops.max(slopes, axis=-1, keepdims=True, initial=0.0))
        count = ops.sum(ops.cast(steepest, weights.dtype), axis=-1, keepdims=True)
        of_steepest = ops.where(steepest, upstream, ops.zeros_like(upstream))
        upstream = upstream - ops.sum(of_steepest, axis=-1, keepdims=True) / count
    total = ops.sum(slopes, axis=-1, keepdims=True)
    scaled = slopes * upstream
    return scaled - slopes / total * ops.sum(scaled, axis=-1, keepdims=True)


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
    """Finds the largest weight for any alpha, between 1 / n and 1."""

    def halve(low, high):
        middle = 0.5 * (low + high)
        too_large = _total(scores, middle, alpha) > 1.0
        # A row that is found stays as it is, however long others take.
        found = high - low <= tolerance * high
        lower = ops.where(ops.logical_or(found, too_large), low, middle)
        return lower, ops.where(
            ops.logical_and(ops.logical_not(found), too_large), middle, high
        )

    high = ops.ones_like(scores[..., :1])
    low = high / ops.cast(ops.shape(scores)[-1], scores.dtype)
    return ops.while_loop(
        lambda low, high: ops.any(high - low > tolerance * high), halve, (low, high)
    )[1]
