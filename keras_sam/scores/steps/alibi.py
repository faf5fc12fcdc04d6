"""Linear biases by distance."""

import keras
import numpy as np
from keras import ops

from keras_sam import _validation as check
from keras_sam.scores.base import Score


@keras.saving.register_keras_serializable(package="keras_sam")
class ALiBi(Score):
    """Step: takes off scores in proportion to the distance, at another rate in each head.

    ::

        s' = s - scale * m_h |i - j|,      m_h = 2 ^ (-8 h / H)      for h = 1, ..., H

    Where `H` is no power of two, the slopes are those of the next lower power of two, and
    after them every other one of those of the next higher.

    Args:
        scale: A number to multiply the slopes by.

    Call arguments:
        As of every `keras_sam.scores.Score`; it works in a list with one.

    Example:

    >>> import keras, keras_sam
    >>> score = ["scaled_dot", keras_sam.scores.ALiBi()]
    >>> layer = keras_sam.SelfAttention(2, causal=True, score=score)
    >>> layer(keras.ops.ones((1, 5, 8))).shape
    TensorShape([1, 5, 8])

    Reference:
        Press et al., 2022, "Train Short, Test Long: Attention with Linear Biases Enables
        Input Length Extrapolation" (https://arxiv.org/abs/2108.12409), section 3.
    """

    role = "a bias by position"

    def __init__(self, scale: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = check.number("scale", scale)

    def build(self, query_shape, key_shape):
        self.slopes = self.scale * slopes(query_shape[1])

    def modify(self, scores, pairs):
        slopes = ops.convert_to_tensor(self.slopes, dtype=scores.dtype)
        slopes = ops.take(slopes, pairs.head)
        distance = ops.cast(ops.abs(pairs.query - pairs.key), scores.dtype)
        return scores - slopes * distance

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


def slopes(heads):
    """Returns the slope of each head, a float64 array."""
    power = 2 ** int(np.log2(heads))
    found = 2.0 ** (-8 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-4 * np.arange(1, 2 * power + 1, 2) / power)
    return np.concatenate([found, between])[:heads]
