"""Bilinear scores, of full and of low rank."""

from collections.abc import Callable

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam.scores.base import Score, add_kernel, heads_of, transform

register = keras.saving.register_keras_serializable(package="keras_sam")


@register
class Bilinear(Score):
    """A learned bilinear form of query and key.

    ```
    score(q, k) = q^T W k
    ```

    Args:
        kernel_initializer: For `W`.

    Reference:
        Luong et al., 2015, "Effective Approaches to Attention-based Neural Machine
        Translation" (https://arxiv.org/abs/1508.04025), eq. 8, "general".

    Example:

    >>> import numpy as np, keras_sam
    >>> score = keras_sam.scores.Bilinear()
    >>> score(np.ones((2, 3, 4)), np.ones((2, 5, 6))).shape
    TensorShape([2, 3, 5])
    """

    def __init__(self, kernel_initializer: str | Callable = "glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.kernel_initializer = check.initializer(
            "kernel_initializer", kernel_initializer
        )

    def build(self, query_shape, key_shape):
        self.kernel = add_kernel(
            self, "kernel", heads_of(query_shape), query_shape[-1], key_shape[-1]
        )

    def project(self, query, key):
        return transform(query, self.kernel), key

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@register
class LowRankBilinear(Score):
    """Low-rank bilinear pooling of query and key: a bilinear form of two factors.

    ```
    score(q, k) = p . (tanh(U q) * tanh(V k))
    ```

    Args:
        rank: Length of `p`; None is the width of the query.
        kernel_initializer: For `U`, `V` and `p`.

    Reference:
        Kim et al., 2017, "Hadamard Product for Low-rank Bilinear Pooling"
        (https://arxiv.org/abs/1610.04325), eqs. 6 and 8.

    Example:

    >>> import numpy as np, keras_sam
    >>> score = keras_sam.scores.LowRankBilinear(rank=2)
    >>> score(np.ones((2, 3, 4)), np.ones((2, 5, 6))).shape
    TensorShape([2, 3, 5])
    """

    def __init__(
        self,
        rank: int | None = None,
        kernel_initializer: str | Callable = "glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.rank = check.positive_integer("rank", rank, optional=True)
        self.kernel_initializer = check.initializer(
            "kernel_initializer", kernel_initializer
        )

    def build(self, query_shape, key_shape):
        heads = heads_of(query_shape)
        rank = self.rank or query_shape[-1]
        self.query_kernel = add_kernel(self, "query_kernel", heads, query_shape[-1], rank)
        self.key_kernel = add_kernel(self, "key_kernel", heads, key_shape[-1], rank)
        self.vector = add_kernel(self, "vector", heads, 1, rank)

    def project(self, query, key):
        # p . (a * b) = (p * a) . b, so the comparison is a plain dot product.
        query = ops.tanh(transform(query, self.query_kernel))
        key = ops.tanh(transform(key, self.key_kernel))
        return ops.multiply(query, ops.cast(self.vector, query.dtype)), key

    def get_config(self):
        return {
            **super().get_config(),
            "rank": self.rank,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
