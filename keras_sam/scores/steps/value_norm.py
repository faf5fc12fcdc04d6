"""Normalized values."""

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam.backend.precision import wide
from keras_sam.scores.base import Score


@keras.saving.register_keras_serializable(package="keras_sam")
class ValueNorm(Score):
    """Step: gives the values of each head a length of about `sqrt(D)`.

    ::

        v' = v / sqrt(mean(v²) + epsilon)

    It changes no score; it stands in the list with the norm of queries and keys because
    models have both. Layers without projections refuse it.

    Args:
        epsilon: Keeps a vector of zeros finite.

    Call arguments:
        As of every `keras_sam.scores.Score`; it works in a list with one.

    Example:

    >>> import keras, keras_sam
    >>> steps = [keras_sam.scores.QKNorm(), keras_sam.scores.ValueNorm(), "dot"]
    >>> layer = keras_sam.SelfAttention(2, score=steps)
    >>> layer(keras.ops.ones((1, 5, 8))).shape
    TensorShape([1, 5, 8])

    Reference:
        Zhang and Sennrich, 2019, "Root Mean Square Layer Normalization"
        (https://arxiv.org/abs/1910.07467), eq. 4; of values it is in the code of Gemma
        3n (https://ai.google.dev/gemma/docs/gemma-3n).
    """

    role = "the norm of values"
    is_step = True

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = check.number("epsilon", epsilon, "a positive number")
        if self.epsilon <= 0:
            raise check.invalid("epsilon", "a positive number", epsilon)

    @property
    def value_activation(self):
        return self._norm

    def _norm(self, value):
        given = value.dtype
        value = ops.cast(value, wide(given))
        squares = ops.mean(ops.square(value), axis=-1, keepdims=True)
        return ops.cast(value * ops.rsqrt(squares + self.epsilon), given)

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}
