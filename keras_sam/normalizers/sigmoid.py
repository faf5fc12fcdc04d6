"""Sigmoid, and its approximation by three straight lines."""

import dataclasses
from typing import ClassVar

import keras
from keras import ops

from keras_sam import _validation
from keras_sam.normalizers.base import Normalizer
from keras_sam.normalizers.masking import MASKED


@keras.saving.register_keras_serializable(package="keras_sam")
@dataclasses.dataclass(frozen=True)
class Sigmoid(Normalizer):
    """Sigmoid: each weight by itself, between zero and one, of any sum.

    ::

        w_i = 1 / (1 + exp(-(s_i + bias)))

    Args:
        bias: None, a number to add to all scores, or `"-log(length)"`. The last makes
            the weights of a row sum to about one at first, as those of softmax do, and
            is what the paper recommends.

    Call arguments:
        scores: Float tensor `(..., n)`.

    Masking: the weight of a masked score (-1e9) is zero. The length in `"-log(length)"`
    is the number of scores of the row that are not masked, so padding never changes a
    result, and a causal row counts the positions that it sees.

    Output shape: that of `scores`.

    Example:

    >>> import keras
    >>> from keras_sam.normalizers import Sigmoid
    >>> scores = keras.ops.zeros((4,))
    >>> keras.ops.convert_to_numpy(Sigmoid()(scores)).tolist()
    [0.5, 0.5, 0.5, 0.5]
    >>> keras.ops.convert_to_numpy(Sigmoid("-log(length)")(scores)).round(3).tolist()
    [0.20000000298023224, 0.20000000298023224, 0.20000000298023224, 0.20000000298023224]

    Reference: [Ramapuram et al. 2024](https://arxiv.org/abs/2409.04431), section 2.
    """

    bias: float | str | None = None
    shares_a_sum: ClassVar[bool] = False

    def __post_init__(self):
        if self.bias is None or self.bias == "-log(length)":
            return
        expected = 'a number, "-log(length)" or None'
        self._store("bias", _validation.number("bias", self.bias, expected))

    def __call__(self, scores):
        if self.bias == "-log(length)":
            unmasked = ops.cast(scores > MASKED / 2, "int32")
            length = ops.maximum(ops.sum(unmasked, axis=-1, keepdims=True), 1)
            scores = scores - ops.log(ops.cast(length, scores.dtype))
        elif self.bias is not None:
            scores = scores + self.bias
        return ops.sigmoid(scores)


@keras.saving.register_keras_serializable(package="keras_sam")
@dataclasses.dataclass(frozen=True)
class HardSigmoid(Normalizer):
    """Sigmoid of three straight lines: each weight by itself, from zero to one.

    ::

        w_i = min(max(s_i / 6 + 1 / 2, 0), 1)

    It needs no exponential. Scores beyond 3 and -3 have the weights 1 and 0, and no
    gradient.

    Call arguments:
        scores: Float tensor `(..., n)`.

    Masking: the weight of a masked score (-1e9) is zero.

    Output shape: that of `scores`.

    Example:

    >>> import keras
    >>> from keras_sam.normalizers import HardSigmoid
    >>> scores = keras.ops.convert_to_tensor([-4.0, 0.0, 1.5, 4.0])
    >>> keras.ops.convert_to_numpy(HardSigmoid()(scores)).tolist()
    [0.0, 0.5, 0.75, 1.0]

    Reference: [Howard et al. 2019](https://arxiv.org/abs/1905.02244), section 5.2.
    """

    shares_a_sum: ClassVar[bool] = False

    def __call__(self, scores):
        # PyTorch cannot differentiate its own function twice.
        return ops.clip(scores / 6.0 + 0.5, 0.0, 1.0)
