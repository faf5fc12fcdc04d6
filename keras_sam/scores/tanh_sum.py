"""The additive score without projections of its own."""

from collections.abc import Callable

import keras
from keras import ops

from keras_sam import _initializers
from keras_sam import _validation as check
from keras_sam.scores.additive import additive_scores
from keras_sam.scores.base import Score, heads_of

VECTORS = (None, "one", "each")


@keras.saving.register_keras_serializable(package="keras_sam")
class TanhSum(Score):
    """The additive score of queries and keys as they are.

    ```
    score(q, k) = v . tanh(scale * (q + k))
    ```

    `keras.layers.AdditiveAttention` has this score with `vector="each"` (`use_scale=True`)
    or None, and `keras.layers.Attention(score_mode="concat")` with `vector="one"`.

    Args:
        vector: What each head learns: `"each"` number of `v`, or `"one"` number that is
            repeated. None is a vector of ones.
        learn_scale: Whether each head learns its scale, which is 1 otherwise.
        initializer: For `v` with `vector="each"`. Everything else starts at one.

    Reference:
        Bahdanau et al., 2015, "Neural Machine Translation by Jointly Learning to Align
        and Translate" (https://arxiv.org/abs/1409.0473), appendix A.1.2, without the
        projections.

    Example:

    >>> import numpy as np, keras_sam
    >>> score = keras_sam.scores.TanhSum()
    >>> score(np.ones((2, 3, 4)), np.ones((2, 5, 4))).shape
    TensorShape([2, 3, 5])
    """

    def __init__(
        self,
        vector: str = "each",
        learn_scale: bool = False,
        initializer: str | Callable = "glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vector = check.one_of("vector", vector, VECTORS)
        self.learn_scale = check.boolean("learn_scale", learn_scale)
        self.initializer = check.initializer("initializer", initializer)

    def build(self, query_shape, key_shape):
        heads = heads_of(query_shape)
        self.scale = self.kernel = None
        if self.learn_scale:
            self.scale = self.add_weight(
                name="scale", shape=(*heads, 1, 1), initializer="ones"
            )
        if self.vector is not None:
            each = self.vector == "each"
            self.kernel = self.add_weight(
                name="vector",
                shape=(*heads, query_shape[-1] if each else 1),
                initializer=_initializers.fresh(self.initializer) if each else "ones",
            )

    def project(self, query, key):
        if self.scale is None:
            return query, key
        scale = ops.cast(self.scale, query.dtype)
        return ops.multiply(query, scale), ops.multiply(key, scale)

    def compare(self, query, key):
        vector = self.kernel
        if vector is None:
            vector = ops.ones((query.shape[-1],), query.dtype)
        return additive_scores(query, key, vector)

    def get_config(self):
        return {
            **super().get_config(),
            "vector": self.vector,
            "learn_scale": self.learn_scale,
            "initializer": keras.initializers.serialize(self.initializer),
        }
