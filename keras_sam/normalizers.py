"""Normalizers: how a row of scores becomes a row of weights.

A normalizer works on the last axis, and normalizes each row by itself. It is a small
frozen dataclass, so that it compares, prints and saves without further code. Your own
needs no more than that, and works wherever a built-in one does:

>>> import dataclasses
>>> import keras
>>> @keras.saving.register_keras_serializable(package="my_package")
... @dataclasses.dataclass(frozen=True)
... class Relu(Normalizer):
...     scale: float = 1.0
...
...     def __call__(self, scores):
...         return keras.ops.relu(scores) * self.scale
>>> deserialize(serialize(Relu(scale=0.5)))
Relu(scale=0.5)
"""

import dataclasses

import keras
from keras import ops

from keras_sam import _strategies, _validation
from keras_sam.ops.attention import MASKED
from keras_sam.ops.entmax import entmax


class Normalizer:
    """What normalizers share: a configuration made of the fields of a dataclass.

    Inheriting from it is a convenience: anything that can be called, is registered
    with Keras, and has `get_config` and `from_config` can serve as a normalizer.
    """

    def __call__(self, scores):
        """Returns the weights of `scores`, each row of the last axis by itself."""
        raise NotImplementedError

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def _store(self, name, value):
        """Stores a checked field; only the constructor may, the class is frozen."""
        object.__setattr__(self, name, value)


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
        return entmax(scores, alpha=1)


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
    >>> scores = keras.ops.zeros((4,))
    >>> keras.ops.convert_to_numpy(Sigmoid()(scores)).tolist()
    [0.5, 0.5, 0.5, 0.5]
    >>> keras.ops.convert_to_numpy(Sigmoid("-log(length)")(scores)).round(3).tolist()
    [0.20000000298023224, 0.20000000298023224, 0.20000000298023224, 0.20000000298023224]

    Reference: [Ramapuram et al. 2024](https://arxiv.org/abs/2409.04431), section 2.
    """

    bias: float | str | None = None

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


_strategies_by_name = _strategies.Strategies(
    argument="normalizer",
    base=None,
    known={
        "softmax": Softmax,
        "sigmoid": Sigmoid,
        "sparsemax": Sparsemax,
        "entmax": Entmax,
    },
)
get = _strategies_by_name.get
serialize = _strategies_by_name.serialize
deserialize = _strategies_by_name.deserialize
