"""Scores: how well does each query fit each key?

A score is a small layer of two steps. `project` runs once a call and may transform
queries and keys; `compare` runs for every slab of query rows and makes the scores,
`(..., T, d)` against `(..., S, d)` to `(..., T, S)`. By default `project` changes
nothing and `compare` is the dot product, which is what all scores here but `Additive`
end in. The law: row `i` of the scores depends on row `i` of the query only.

Weights are learned for each head, by which a score means: for each combination of the
axes between the batch and the rows.
"""

import math

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam._strategies import Strategies

register = keras.saving.register_keras_serializable(package="keras_sam")


@register
class Score(keras.layers.Layer):
    """Base class of all scores: `compare(project(query, key))`.

    Override `project`, `compare` or both, and `build(query_shape, key_shape)` if there
    are weights. What overrides `project` alone keeps the fastest kernel, because it
    still ends in a dot product. Register your class with
    `keras.saving.register_keras_serializable`, so that models with it load.

    Call arguments:
        query: Tensor `(..., T, D)`.
        key: Tensor `(..., S, D)`.
        projected: Whether both have been through `project` already.

    Output shape:
        `(..., T, S)`.

    Example:

    >>> import keras, keras_sam
    >>> @keras.saving.register_keras_serializable(package="example")
    ... class NegativeDistance(keras_sam.scores.Score):
    ...     def compare(self, query, key):
    ...         difference = query[..., :, None, :] - key[..., None, :, :]
    ...         return -keras.ops.sum(keras.ops.square(difference), axis=-1)
    >>> layer = keras_sam.SelfAttention(num_heads=2, score=NegativeDistance())
    >>> layer(keras.ops.ones((1, 3, 4))).shape
    TensorShape([1, 3, 4])
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, query_shape, key_shape):
        """Adds the weights, if the score has any."""

    def project(self, query, key):
        """Transforms all queries and keys, once a call."""
        return query, key

    def compare(self, query, key):
        """Scores every pair of a projected query and a projected key."""
        return ops.matmul(query, ops.swapaxes(key, -1, -2))

    def call(self, query, key, projected=False):
        if not projected:
            query, key = self.project(query, key)
        return self.compare(query, key)

    def get_config(self):
        # Keras refuses to derive a configuration from a constructor that was given a
        # dtype policy object; a class that overrides this method is taken at its word.
        return super().get_config()

    @property
    def is_dot_product(self):
        """Whether `compare` is the plain dot product, which has a fast kernel."""
        return type(self).compare is Score.compare


@register
class Dot(Score):
    """The dot product of query and key.

    ```
    score(q, k) = q . k
    ```

    Example:

    >>> import numpy as np, keras_sam
    >>> score = keras_sam.scores.Dot()
    >>> float(score(np.array([[[1.0, 2.0]]]), np.array([[[3.0, 4.0]]]))[0, 0, 0])
    11.0

    Reference:
        Luong et al., 2015, "Effective Approaches to Attention-based Neural Machine
        Translation" (https://arxiv.org/abs/1508.04025), eq. 8, "dot".
    """


@register
class ScaledDot(Score):
    """The dot product of query and key, scaled.

    ```
    score(q, k) = scale * (q . k),    scale = 1 / sqrt(D) unless given
    ```

    Args:
        scale: A number, or None for `1 / sqrt(D)`.

    Example:

    >>> import numpy as np, keras_sam
    >>> score = keras_sam.scores.ScaledDot()
    >>> float(score(np.ones((1, 1, 4)), np.ones((1, 1, 4)))[0, 0, 0])
    2.0

    Reference:
        Vaswani et al., 2017, "Attention Is All You Need"
        (https://arxiv.org/abs/1706.03762), eq. 1.
    """

    def __init__(self, scale=None, **kwargs):
        super().__init__(**kwargs)
        self.scale = None if scale is None else check.number("scale", scale)

    def project(self, query, key):
        # The query is scaled, not the scores: T x D numbers instead of T x S, and
        # products stay inside the range of float16.
        scale = 1 / math.sqrt(query.shape[-1]) if self.scale is None else self.scale
        return ops.multiply(query, ops.cast(scale, query.dtype)), key

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@register
class Cosine(Score):
    """The cosine of the angle between query and key, over a learned temperature.

    ```
    score(q, k) = (q . k) / (|q| |k| temperature),    temperature >= min_temperature
    ```

    Swin Transformer V2 clamps the temperature where it is used, and a temperature that
    has run past the clamp gets no gradient and stays there for good. Here the bound is
    a constraint on the variable: the optimizer puts it back, and it goes on learning.
    A query or key of length zero scores zero, with a finite gradient.

    Args:
        temperature: The temperature that learning starts from.
        min_temperature: The smallest that learning may reach.

    Example:

    >>> import numpy as np, keras_sam
    >>> score = keras_sam.scores.Cosine(temperature=0.5)
    >>> round(float(score(np.ones((1, 1, 4)), np.ones((1, 1, 4)))[0, 0, 0]), 5)
    2.0

    Reference:
        Liu et al., 2022, "Swin Transformer V2" (https://arxiv.org/abs/2111.09883),
        eq. 2, without its position bias.
    """

    def __init__(self, temperature=0.1, min_temperature=0.01, **kwargs):
        super().__init__(**kwargs)
        positive = "a positive number"
        self.min_temperature = check.number("min_temperature", min_temperature, positive)
        if self.min_temperature <= 0:
            raise check.invalid("min_temperature", positive, min_temperature)
        expected = f"a number of at least `min_temperature` ({min_temperature})"
        self.temperature = check.number("temperature", temperature, expected)
        if self.temperature < self.min_temperature:
            raise check.invalid("temperature", expected, temperature)

    def build(self, query_shape, key_shape):
        # The logarithm is what is learned, so that a step is a factor.
        self.log_temperature = self.add_weight(
            name="log_temperature",
            shape=(*_heads(query_shape), 1, 1),
            initializer=keras.initializers.Constant(math.log(self.temperature)),
            constraint=_AtLeast(math.log(self.min_temperature)),
        )

    def project(self, query, key):
        temperature = ops.exp(ops.cast(self.log_temperature, query.dtype))
        return ops.divide(_unit(query), temperature), _unit(key)

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "min_temperature": self.min_temperature,
        }


@register
class Additive(Score):
    """A one-layer network of query and key.

    ```
    score(q, k) = v . tanh(W_q q + W_k k + b)
    ```

    The projections are done once for all rows. The `(T, S, units)` hidden layer is made
    for one slab of rows at a time, and inside a compiled function not even for that.

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
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, query_shape, key_shape):
        heads = _heads(query_shape)
        units = self.units or query_shape[-1]
        self.query_kernel = _add_kernel(self, "query_kernel", heads, query_shape[-1], units)
        self.key_kernel = _add_kernel(self, "key_kernel", heads, key_shape[-1], units)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(*heads, 1, units), initializer="zeros"
            )
        self.vector = _add_kernel(self, "vector", heads, units, 1)

    def project(self, query, key):
        query = ops.matmul(query, ops.cast(self.query_kernel, query.dtype))
        if self.bias is not None:
            query = ops.add(query, ops.cast(self.bias, query.dtype))
        return query, ops.matmul(key, ops.cast(self.key_kernel, key.dtype))

    def compare(self, query, key):
        hidden = ops.tanh(query[..., :, None, :] + key[..., None, :, :])
        vector = ops.cast(self.vector, hidden.dtype)[..., None, :, :]
        return ops.squeeze(ops.matmul(hidden, vector), axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


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

    def __init__(self, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, query_shape, key_shape):
        self.kernel = _add_kernel(
            self, "kernel", _heads(query_shape), query_shape[-1], key_shape[-1]
        )

    def project(self, query, key):
        return ops.matmul(query, ops.cast(self.kernel, query.dtype)), key

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

    def __init__(self, rank=None, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.rank = check.positive_integer("rank", rank, optional=True)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, query_shape, key_shape):
        heads = _heads(query_shape)
        rank = self.rank or query_shape[-1]
        self.query_kernel = _add_kernel(self, "query_kernel", heads, query_shape[-1], rank)
        self.key_kernel = _add_kernel(self, "key_kernel", heads, key_shape[-1], rank)
        self.vector = _add_kernel(self, "vector", heads, 1, rank)

    def project(self, query, key):
        # p . (a * b) = (p * a) . b, so the comparison is a plain dot product.
        query = ops.tanh(ops.matmul(query, ops.cast(self.query_kernel, query.dtype)))
        key = ops.tanh(ops.matmul(key, ops.cast(self.key_kernel, key.dtype)))
        return ops.multiply(query, ops.cast(self.vector, query.dtype)), key

    def get_config(self):
        return {
            **super().get_config(),
            "rank": self.rank,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_sam", name="AtLeast")
class _AtLeast(keras.constraints.Constraint):
    """Keeps a variable from falling below a bound."""

    def __init__(self, minimum):
        self.minimum = minimum

    def __call__(self, value):
        return ops.maximum(value, ops.cast(self.minimum, value.dtype))

    def get_config(self):
        return {"minimum": self.minimum}


def _heads(shape):
    """The axes between the batch and the rows of `(B, *heads, T, D)`."""
    return tuple(shape[1:-2])


def _add_kernel(score, name, heads, rows, columns):
    """Adds one `(rows, columns)` matrix for each head."""

    def initializer(shape, dtype):
        # Drawn side by side as one wide matrix: initializers that look at the shape
        # would take the heads of (*heads, rows, columns) for places of a kernel.
        wide = score.kernel_initializer((rows, math.prod(heads) * columns), dtype)
        return ops.reshape(
            ops.swapaxes(ops.reshape(wide, (rows, -1, columns)), 0, 1), shape
        )

    return score.add_weight(
        name=name, shape=(*heads, rows, columns), initializer=initializer
    )


def _unit(vectors):
    """Scales vectors to length one; a vector of zeros stays zero, gradient too."""
    wide = ops.cast(vectors, "float32")
    squares = ops.sum(ops.square(wide), axis=-1, keepdims=True)
    is_zero = ops.less(squares, 1e-12)
    inverse = ops.rsqrt(ops.where(is_zero, ops.ones_like(squares), squares))
    inverse = ops.where(is_zero, ops.zeros_like(inverse), inverse)
    return ops.cast(ops.multiply(wide, inverse), vectors.dtype)


_strategies = Strategies(
    "score",
    Score,
    {
        "dot": Dot,
        "scaled_dot": ScaledDot,
        "cosine": Cosine,
        "additive": Additive,
        "bilinear": Bilinear,
        "low_rank_bilinear": LowRankBilinear,
    },
)
get = _strategies.get
serialize = _strategies.serialize
deserialize = _strategies.deserialize
