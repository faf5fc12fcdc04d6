"""What all scores have in common."""

import collections
import math
import weakref

import keras
from keras import ops

from keras_sam import _initializers
from keras_sam import _validation as check
from keras_sam.backend.portable import is_portable
from keras_sam.backend.precision import matmul


@keras.saving.register_keras_serializable(package="keras_sam")
class Score(keras.layers.Layer):
    """Base class of all scores: `compare(project(query, key))`.

    Override `project`, `compare` or both, and `build(query_shape, key_shape)` if there
    are weights. What overrides `project` alone keeps the fastest kernel, because it
    still ends in a dot product. Arguments of the constructor that are numbers, strings,
    booleans or None need no `get_config`. Register your class with
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

    def __new__(cls, *args, **kwargs):
        # Keras derives a configuration from the arguments of a constructor, but not from
        # a dtype policy, which `get_config` knows anyway.
        plain = {name: value for name, value in kwargs.items() if name != "dtype"}
        return super().__new__(cls, *args, **plain)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, query_shape, key_shape):
        """Adds the weights, if the score has any."""

    def _post_build(self):  # Keras calls it after `build`
        super()._post_build()
        if not self.trainable:
            # The setter would not: setting what is set already does nothing.
            sublayers = self._flatten_layers(include_self=False, recursive=False)
            for each in (*self._trainable_variables, *sublayers):
                each.trainable = False

    def project(self, query, key):
        """Transforms all queries and keys, once a call."""
        return query, key

    def compare(self, query, key):
        """Scores every pair of a projected query and a projected key."""
        return matmul(query, ops.swapaxes(key, -1, -2))

    def call(self, query, key, projected=False):
        if not projected:
            query, key = self.project(query, key)
        return self.compare(query, key)

    def get_config(self):
        """Returns the arguments of the constructor, if all are plain values.

        A class with other arguments, such as initializers, adds them by overriding this.
        """
        arguments = {} if self._auto_config is None else self._auto_config.config
        known = super().get_config()
        return {**known, **{n: x for n, x in arguments.items() if n not in known}}

    @property
    def is_dot_product(self):
        """Whether `compare` is the plain dot product, which has a fast kernel."""
        return type(self).compare is Score.compare

    def as_function(self):
        """Returns `compare` as a pure function of weights, and the weights.

        The function takes `(weights, query, key)`, as a kernel needs that recomputes
        scores when it differentiates. The functions of two equal scores are equal, so
        that layers that differ by their weights alone share one compiled kernel.
        """
        if self.is_dot_product:
            return DotProduct(), ()
        weights = (*self.trainable_variables, *self.non_trainable_variables)
        return _PureCompare(self), tuple(ops.convert_to_tensor(v.value) for v in weights)


def heads_of(shape):
    """The axes between the batch and the rows of `(B, *heads, T, D)`."""
    return tuple(shape[1:-2])


def add_kernel(score, name, heads, rows, columns):
    """Adds one `(rows, columns)` matrix for each head."""
    check.weight_shape(f"{score!r}", (*heads, rows, columns))
    draw = _initializers.fresh(score.kernel_initializer, len(score.weights))

    def initializer(shape, dtype):
        # Drawn side by side as one wide matrix: initializers that look at the shape
        # would take the heads of (*heads, rows, columns) for places of a kernel.
        wide = draw((rows, math.prod(heads) * columns), dtype)
        return ops.reshape(
            ops.swapaxes(ops.reshape(wide, (rows, -1, columns)), 0, 1), shape
        )

    return score.add_weight(
        name=name, shape=(*heads, rows, columns), initializer=initializer
    )


def transform(tensor, kernel):
    """Returns `(B, *heads, T, D)` times `(*heads, D, units)`."""
    kernel = ops.cast(kernel, tensor.dtype)
    if tensor.shape[1:-2] == (1,):
        # One matrix for all examples. TensorFlow 2.21 fuses such a product of batches with
        # a bias that is added to it, and then crashes.
        *rows, width = ops.shape(tensor)
        product = matmul(ops.reshape(tensor, (-1, width)), kernel[0])
        return ops.reshape(product, (*rows, kernel.shape[-1]))
    if not is_portable() or len(tensor.shape) != 4:
        return matmul(tensor, kernel)
    # LiteRT (2.3) multiplies a batch of matrices and one that has none wrongly.
    heads, width, units = kernel.shape
    batch, _, rows, _ = ops.shape(tensor)
    tensor = ops.reshape(ops.swapaxes(tensor, 0, 1), (heads, -1, width))
    product = ops.reshape(matmul(tensor, kernel), (heads, batch, rows, units))
    return ops.swapaxes(product, 0, 1)


class DotProduct:
    """The dot product as a pure function; all of them are equal."""

    is_dot_product = True

    def __call__(self, weights, query, key):
        return matmul(query, ops.swapaxes(key, -1, -2))

    def __eq__(self, other):
        return type(other) is DotProduct

    def __hash__(self):
        return hash(DotProduct)

    def without_weights(self):
        """Returns itself: it refers to no layer."""
        return self


# Scores that are alive, by what makes two of them equal.
_ALIVE = collections.defaultdict(weakref.WeakSet)


class _PureCompare:
    """A score's `compare` with its weights as an argument; see `Score.as_function`."""

    is_dot_product = False

    def __init__(self, score):
        config = keras.saving.serialize_keras_object(score)
        config["config"] = {**config["config"], "name": None}
        config["build_config"] = None
        shapes = [(v.shape, v.trainable) for v in score.variables]
        self._identity = (type(score), repr((config, shapes)))
        self._score = score
        _ALIVE[self._identity].add(score)

    def __call__(self, weights, query, key):
        score = self._score
        if score is None:
            score = next(iter(_ALIVE[self._identity]))
        split = len(score.trainable_variables)
        return score.stateless_call(
            weights[:split], weights[split:], query, key, projected=True
        )[0]

    def without_weights(self):
        """Returns an equal function that does not keep the score, and so its layer, alive.

        A compiled kernel lives as long as the process. When it is traced, some equal
        score is being called, and so is alive.
        """
        other = object.__new__(_PureCompare)
        other._identity, other._score = self._identity, None
        return other

    def __eq__(self, other):
        return type(other) is _PureCompare and other._identity == self._identity

    def __hash__(self):
        return hash(self._identity)
