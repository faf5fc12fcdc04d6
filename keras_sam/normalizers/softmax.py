"""Softmax."""

import dataclasses

import keras
from keras import ops

from keras_sam import _validation
from keras_sam.normalizers.base import Normalizer


@keras.saving.register_keras_serializable(package="keras_sam")
@dataclasses.dataclass(frozen=True)
class Softmax(Normalizer):
    """Softmax: weights that are positive and sum to one.

    ::

        w_i = exp(s_i / temperature) / sum_j exp(s_j / temperature)

    Args:
        temperature: A positive number. The lower it is, the more of the weight goes to
            the largest score.

    Call arguments:
        scores: Float tensor `(..., n)`.

    Masking: a masked score is a very negative one (-1e9), and its weight underflows to
    zero as long as the row has any other.

    Output shape: that of `scores`.

    Example:

    >>> import keras
    >>> from keras_sam.normalizers import Softmax
    >>> keras.ops.convert_to_numpy(Softmax()(keras.ops.zeros((2,)))).tolist()
    [0.5, 0.5]

    Reference: [Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), equation 1; the
    temperature is that of [Hinton et al. 2015](https://arxiv.org/abs/1503.02531),
    equation 1.
    """

    temperature: float = 1.0

    def __post_init__(self):
        expected = "a positive number"
        value = _validation.number("temperature", self.temperature, expected)
        if value <= 0:
            raise _validation.invalid("temperature", expected, self.temperature)
        self._store("temperature", value)

    def __call__(self, scores):
        if self.temperature != 1:
            scores = scores / self.temperature
        return softmax(scores)


def softmax(scores):
    """Returns the softmax of the last axis, also of an axis with one entry only.

    Keras warns of one entry, and rightly in most places; but a query may have just one
    key.
    """
    if scores.shape[-1] == 1:
        return ops.exp(scores - scores)  # one, or not a number
    return ops.softmax(scores, axis=-1)
