"""Scores that are a dot product, of the vectors or of their directions."""

import math

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam.backend.precision import wide
from keras_sam.scores.base import Score, heads_of

register = keras.saving.register_keras_serializable(package="keras_sam")


@register
class Dot(Score):
    """The dot product of query and key.

    ```
    score(q, k) = q . k
    ```

    Example:

    >>> import numpy as np, keras_sam
    >>> score = keras_sam.scores.Dot()
    >>> float(score(np.array([[[1.0, 2.0]]]), np.array([[[3.0, 4.0]]]))[0, 0, 0])
    11.0

    Reference:
        Luong et al., 2015, "Effective Approaches to Attention-based Neural Machine
        Translation" (https://arxiv.org/abs/1508.04025), eq. 8, "dot".
    """


@register
class ScaledDot(Score):
    """The dot product of query and key, scaled.

    ```
    score(q, k) = scale * (q . k),    scale = 1 / sqrt(D) unless given
    ```

    Args:
        scale: A number, or None for `1 / sqrt(D)`.
        learn_scale: Whether each head learns its scale, starting from `scale`.

    Example:

    >>> import numpy as np, keras_sam
    >>> score = keras_sam.scores.ScaledDot()
    >>> float(score(np.ones((1, 1, 4)), np.ones((1, 1, 4)))[0, 0, 0])
    2.0

    Reference:
        Vaswani et al., 2017, "Attention Is All You Need"
        (https://arxiv.org/abs/1706.03762), eq. 1.
    """

    def __init__(self, scale: float | None = None, learn_scale: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.scale = None if scale is None else check.number("scale", scale)
        self.learn_scale = check.boolean("learn_scale", learn_scale)

    def build(self, query_shape, key_shape):
        self.learned_scale = None
        if self.learn_scale:
            self.learned_scale = self.add_weight(
                name="scale",
                shape=(*heads_of(query_shape), 1, 1),
                initializer=keras.initializers.Constant(self._scale(query_shape[-1])),
            )

    def _scale(self, width):
        return 1 / math.sqrt(width) if self.scale is None else self.scale

    def fixed_scale(self, width):
        is_own = type(self).project is not ScaledDot.project
        return None if self.learn_scale or is_own else self._scale(width)

    def project(self, query, key):
        if self.learn_scale:
            return ops.multiply(query, ops.cast(self.learned_scale, query.dtype)), key
        # The query is scaled, not the scores: T x D numbers instead of T x S, and
        # products stay inside the range of float16.
        # (`ops.multiply` would round the scale to float32 on PyTorch.)
        return query * self._scale(query.shape[-1]), key

    def get_config(self):
        config = {"scale": self.scale, "learn_scale": self.learn_scale}
        return {**super().get_config(), **config}


@register
class Cosine(Score):
    """The cosine of the angle between query and key, over a learned temperature.

    ```
    score(q, k) = (q . k) / (|q| |k| temperature),    temperature >= min_temperature
    ```

    Swin Transformer V2 clamps the temperature where it is used, and a temperature that
    has run past the clamp gets no gradient and stays there for good. Here the bound is
    a constraint on the variable: the optimizer puts it back, and it goes on learning.
    A query or key of length zero scores zero, with a finite gradient.

    Args:
        temperature: The temperature that learning starts from.
        min_temperature: The smallest that learning may reach.

    Example:

    >>> import numpy as np, keras_sam
    >>> score = keras_sam.scores.Cosine(temperature=0.5)
    >>> round(float(score(np.ones((1, 1, 4)), np.ones((1, 1, 4)))[0, 0, 0]), 5)
    2.0

    Reference:
        Liu et al., 2022, "Swin Transformer V2" (https://arxiv.org/abs/2111.09883),
        eq. 2, without its position bias.
    """

    def __init__(self, temperature: float = 0.1, min_temperature: float = 0.01, **kwargs):
        super().__init__(**kwargs)
        positive = "a positive number"
        self.min_temperature = check.number("min_temperature", min_temperature, positive)
        if self.min_temperature <= 0:
            raise check.invalid("min_temperature", positive, min_temperature)
        expected = f"a number of at least `min_temperature` ({min_temperature})"
        self.temperature = check.number("temperature", temperature, expected)
        if self.temperature < self.min_temperature:
            raise check.invalid("temperature", expected, temperature)

    def build(self, query_shape, key_shape):
        # The logarithm is what is learned, so that a step is a factor.
        self.log_temperature = self.add_weight(
            name="log_temperature",
            shape=(*heads_of(query_shape), 1, 1),
            initializer=keras.initializers.Constant(math.log(self.temperature)),
            constraint=_AtLeast(math.log(self.min_temperature)),
        )

    def project(self, query, key):
        temperature = ops.exp(ops.cast(self.log_temperature, query.dtype))
        return ops.divide(_unit(query), temperature), _unit(key)

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "min_temperature": self.min_temperature,
        }


@keras.saving.register_keras_serializable(package="keras_sam", name="AtLeast")
class _AtLeast(keras.constraints.Constraint):
    """Keeps a variable from falling below a bound."""

    def __init__(self, minimum):
        self.minimum = minimum

    def __call__(self, value):
        return ops.maximum(value, self.minimum)

    def get_config(self):
        return {"minimum": self.minimum}


def _unit(vectors):
    """Scales vectors to length one; a vector of zeros stays zero, gradient too."""
    dtype = vectors.dtype
    vectors = ops.cast(vectors, wide(dtype))
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    is_zero = ops.less(squares, 1e-12)
    inverse = ops.rsqrt(ops.where(is_zero, ops.ones_like(squares), squares))
    inverse = ops.where(is_zero, ops.zeros_like(inverse), inverse)
    return ops.cast(ops.multiply(vectors, inverse), dtype)
