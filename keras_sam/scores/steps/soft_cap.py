"""Scores that stay within bounds."""

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam.scores.base import Score


@keras.saving.register_keras_serializable(package="keras_sam")
class SoftCap(Score):
    """Step: keeps scores between `-cap` and `cap`, and small ones as they are.

    ::

        s' = cap * tanh(s / cap)

    Args:
        cap: A positive number.

    Call arguments:
        As of every `keras_sam.scores.Score`; it works in a list with one.

    Example:

    >>> import keras, keras_sam
    >>> score = ["scaled_dot", keras_sam.scores.SoftCap(50.0)]
    >>> layer = keras_sam.SelfAttention(2, score=score)
    >>> layer(keras.ops.ones((1, 5, 8))).shape
    TensorShape([1, 5, 8])

    Reference:
        Gemma Team, 2024, "Gemma 2: Improving Open Language Models at a Practical Size"
        (https://arxiv.org/abs/2408.00118), section 2, "logit soft-capping".
    """

    role = "the size of scores"

    def __init__(self, cap: float = 50.0, **kwargs):
        super().__init__(**kwargs)
        self.cap = check.number("cap", cap, "a positive number")
        if self.cap <= 0:
            raise check.invalid("cap", "a positive number", cap)

    def modify(self, scores, pairs):
        return self.cap * ops.tanh(scores * (1.0 / self.cap))

    def get_config(self):
        return {**super().get_config(), "cap": self.cap}
