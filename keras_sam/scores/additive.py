"""The additive score, which no dot product can stand for."""

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam.ops.additive_scores import additive_scores
from keras_sam.ops.precision import matmul
from keras_sam.scores.base import Score, add_kernel, heads_of


@keras.saving.register_keras_serializable(package="keras_sam")
class Additive(Score):
    """A one-layer network of query and key.

    ```
    score(q, k) = v . tanh(W_q q + W_k k + b)
    ```

    The projections are done once for all rows. The `(T, S, units)` hidden layer is
    never all there: it is made a few units at a time, in the backward pass once more.

    Args:
        units: Width of the hidden layer; None is the width of the query.
        use_bias: Whether there is a `b`.
        kernel_initializer: For `W_q`, `W_k` and `v`.

    Reference:
        Bahdanau et al., 2015, "Neural Machine Translation by Jointly Learning to Align
        and Translate" (https://arxiv.org/abs/1409.0473), appendix A.1.2. It has no `b`,
        which is an addition of later implementations.

    Example:

    >>> import numpy as np, keras_sam
    >>> score = keras_sam.scores.Additive(units=8)
    >>> score(np.ones((2, 3, 4)), np.ones((2, 5, 4))).shape
    TensorShape([2, 3, 5])
    """

    def __init__(
        self,
        units=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units = check.positive_integer("units", units, optional=True)
        self.use_bias = check.boolean("use_bias", use_bias)
        self.kernel_initializer = check.initializer(
            "kernel_initializer", kernel_initializer
        )

    def build(self, query_shape, key_shape):
        heads = heads_of(query_shape)
        units = self.units or query_shape[-1]
        self.query_kernel = add_kernel(self, "query_kernel", heads, query_shape[-1], units)
        self.key_kernel = add_kernel(self, "key_kernel", heads, key_shape[-1], units)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(*heads, 1, units), initializer="zeros"
            )
        self.vector = add_kernel(self, "vector", heads, units, 1)

    def project(self, query, key):
        query = matmul(query, ops.cast(self.query_kernel, query.dtype))
        if self.bias is not None:
            query = ops.add(query, ops.cast(self.bias, query.dtype))
        return query, matmul(key, ops.cast(self.key_kernel, key.dtype))

    def compare(self, query, key):
        return additive_scores(query, key, ops.squeeze(self.vector, axis=-1))

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
