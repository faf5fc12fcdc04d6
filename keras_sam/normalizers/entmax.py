"""Entmax: normalizing scores into weights of which many are exactly zero.

Entmax with an exponent alpha lies on a line: alpha = 1 is softmax, alpha = 2 is
sparsemax, and the larger alpha, the sparser the weights. All of them have one form.
With `z` the scores less their maximum, and `p` the largest weight of the row::

    w_i = p · [1 + (alpha - 1) · z_i / p^(alpha - 1)]_+ ^ (1 / (alpha - 1))

    alpha = 2:      w_i = [p + z_i]_+
    alpha = 1.5:    w_i = [sqrt(p) + z_i / 2]_+ ²
    alpha -> 1:     w_i = p · exp(z_i)

which is `[(alpha - 1) · z_i - tau]_+ ^ (1 / (alpha - 1))` with `tau = -p^(alpha - 1)`.
Only `p` is unknown: it makes the row sum to one. Up to alpha = 2, looking for `p` and
not for `tau` keeps every alpha accurate: `p` is between `1 / n` and 1 whatever alpha is,
and the form above has no small difference of large numbers when alpha is near 1. Beyond 2,
where weights rise steeply from zero, it is `tau` that is looked for.
"""

import dataclasses
import functools

import keras
from keras import ops

from keras_sam import _validation
from keras_sam.backend.derivatives import with_gradient
from keras_sam.backend.precision import wide
from keras_sam.normalizers.base import Normalizer
from keras_sam.normalizers.entmax_solver import solve
from keras_sam.normalizers.softmax import softmax


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
    >>> from keras_sam.normalizers import Sparsemax
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
    >>> from keras_sam.normalizers import Entmax
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

    The largest weight is found by Newton's method (alpha <= 2), or the threshold by
    bisection (alpha > 2). The gradient follows from the weights, by the
    implicit function theorem, and so do the derivatives of higher order::

        s_j = w_j ^ (2 - alpha), 0 where w_j is 0
        d z_j = s_j (g_j - sum_i s_i g_i / sum_i s_i)

    For a row of `n` scores Newton's method takes at most `log2(n) + log4(1 / epsilon)`
    passes over it (usually about eight), and bisection at most
    `(alpha - 1) log2(n) + log2(1 / epsilon)` (usually about twenty-five);
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
    run = functools.partial(solve, alpha=alpha)
    slope = functools.partial(_gradient, alpha=alpha)
    return with_gradient(
        lambda inputs, constants: ([run(*inputs)], ()),
        lambda inputs, constants, outputs, residuals, up: [slope(*outputs, *up)],
        # Differentiated again, the weights are once more those of the scores.
        lambda inputs, constants, up: [slope(entmax(*inputs, alpha=alpha), *up)],
    )


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
