"""Normalized queries and keys."""

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam.backend.precision import wide
from keras_sam.scores.base import Score


@keras.saving.register_keras_serializable(package="keras_sam")
class QKNorm(Score):
    """Step: gives queries and keys a length of about `sqrt(D)`, times learned factors.

    ::

        "rms"      q' = q / sqrt(mean(q²) + epsilon) * (w_q + shift)
        "layer"    q' = (q - mean(q)) / sqrt(var(q) + epsilon) * (w_q + shift)

    and the same for keys with `w_k`. Each has `D` factors, which all heads share, and
    which are `1 - shift` at first.

    Args:
        norm: `"rms"` or `"layer"`.
        epsilon: Keeps a vector of zeros finite.
        shift: Added to the factors; some models learn how far they are from 1.

    Call arguments:
        As of every `keras_sam.scores.Score`; it works in a list with one.

    Example:

    >>> import keras, keras_sam
    >>> score = [keras_sam.scores.QKNorm(), "scaled_dot"]
    >>> layer = keras_sam.SelfAttention(2, score=score)
    >>> layer(keras.ops.ones((1, 5, 8))).shape
    TensorShape([1, 5, 8])

    References:
        Henry et al., 2020, "Query-Key Normalization for Transformers"
        (https://arxiv.org/abs/2010.04245); Dehghani et al., 2023, "Scaling Vision
        Transformers to 22 Billion Parameters" (https://arxiv.org/abs/2302.05442),
        section 2, with layer normalization.
    """

    role = "the norm of queries and keys"

    def __init__(
        self, norm: str = "rms", epsilon: float = 1e-6, shift: float = 0.0, **kwargs
    ):
        super().__init__(**kwargs)
        self.norm = check.one_of("norm", norm, ("rms", "layer"))
        self.epsilon = check.number("epsilon", epsilon, "a positive number")
        if self.epsilon <= 0:
            raise check.invalid("epsilon", "a positive number", epsilon)
        self.shift = check.number("shift", shift)

    def build(self, query_shape, key_shape):
        first = keras.initializers.Constant(1.0 - self.shift)
        for name, shape in (("query_scale", query_shape), ("key_scale", key_shape)):
            scale = self.add_weight(name=name, shape=(shape[-1],), initializer=first)
            setattr(self, name, scale)

    def encode(self, query, key, query_positions, key_positions):
        return self._norm(query, self.query_scale), self._norm(key, self.key_scale)

    def _norm(self, tensor, scale):
        given = tensor.dtype
        tensor = ops.cast(tensor, wide(given))
        if self.norm == "layer":
            tensor = tensor - ops.mean(tensor, axis=-1, keepdims=True)
        squares = ops.mean(ops.square(tensor), axis=-1, keepdims=True)
        scale = ops.cast(scale, tensor.dtype) + self.shift
        return ops.cast(tensor * ops.rsqrt(squares + self.epsilon) * scale, given)
