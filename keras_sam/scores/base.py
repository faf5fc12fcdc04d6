"""What all scores have in common."""

import inspect
import math
from typing import Any

import keras
from keras import ops
from keras.src.backend.common.variables import AutocastScope

from keras_sam import _initializers
from keras_sam import _validation as check
from keras_sam.backend.portable import target
from keras_sam.backend.precision import matmul
from keras_sam.scores.pure import DotProduct, Modification, PureCompare, PureModify


@keras.saving.register_keras_serializable(package="keras_sam")
class Score(keras.layers.Layer):
    """Base class of all scores, and of steps before and after them.

    ::

        query, key = encode(query, key, positions)       before keys are cached
        scores = compare(project(query, key))
        scores = modify(scores, pairs)                   before biases and masks

    Override `project`, `compare` or both, and `build(query_shape, key_shape)` if there
    are weights. What overrides `project` alone keeps the fastest kernel, because it
    still ends in a dot product. What overrides only `encode`, `modify` or `sinks` is a
    step, and stands in a list with one score; see `keras_sam.scores.Chain`.

    Arguments of the constructor that are numbers, strings, booleans or None need no
    `get_config`. Register your class with `keras.saving.register_keras_serializable`, so
    that models with it load.

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

    # What a list of steps may have one of only, in words, or None.
    role = None

    # A function that values go through once they are projected, or None.
    value_activation = None

    def __new__(cls, *args, **kwargs):
        # Keras derives a configuration from the arguments of a constructor, but not from
        # a dtype policy, which `get_config` knows anyway.
        plain = {name: value for name, value in kwargs.items() if name != "dtype"}
        return super().__new__(cls, *args, **plain)

    def __init__(self, **kwargs: Any):
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

    def encode(self, query, key, query_positions, key_positions):
        """Transforms queries and keys by their positions, before keys are cached.

        Args:
            query: Float tensor `(B, H, T, D)`.
            key: Float tensor `(B, key heads, S, D)`; a group of query heads may share one.
            query_positions: Integer tensor `(B or 1, T)`.
            key_positions: Integer tensor `(B or 1, S)`.
        """
        return query, key

    def project(self, query, key):
        """Transforms all queries and keys, once a call."""
        return query, key

    def fixed_scale(self, width):
        """Returns the number by which `project` multiplies queries, if that is all it does.

        A library's kernel then multiplies by it, and no query is written anew. None stands
        for any other projection.

        Args:
            width: The number of channels of a query.
        """
        return None if self._overrides("project") else 1

    def compare(self, query, key):
        """Scores every pair of a projected query and a projected key."""
        return matmul(query, ops.swapaxes(key, -1, -2))

    def modify(self, scores, pairs):
        """Returns other scores, of some pairs.

        Args:
            scores: Float tensor `(B, H, T, S)`, of float32 or wider. Kernels hand over
                those of some rows and keys at a time.
            pairs: `keras_sam.masks.Pairs`, whose tensors broadcast to the scores.
        """
        return scores

    def sinks(self):
        """Returns a score for each head, `(H,)`, that takes weight and has no value."""
        return None

    def call(self, query, key, projected=False):
        if not projected:
            query, key = self.project(query, key)
        return self.compare(query, key)

    def get_config(self):
        """Returns the arguments of the constructor, if all are plain values.

        A class with other arguments, such as initializers, adds them by overriding this.
        """
        known = super().get_config()
        if self._auto_config is None:
            return known
        # Older versions of Keras leave out what was not given to the constructor.
        parameters = inspect.signature(type(self).__init__).parameters.values()
        arguments = {x.name: x.default for x in parameters if _is_plain(x.default)}
        return {**known, **arguments, **self._auto_config.config, **known}

    @property
    def is_dot_product(self):
        """Whether `compare` is the plain dot product, which has a fast kernel."""
        return type(self).compare is Score.compare

    @property
    def has_sinks(self):
        """Whether `sinks` returns scores."""
        return self._overrides("sinks")

    @property
    def is_step(self):
        """Whether it only adds to another score."""
        return not self._overrides("project", "compare") and self._overrides(
            "encode", "modify", "sinks"
        )

    def _overrides(self, *names):
        return any(getattr(type(self), n) is not getattr(Score, n) for n in names)

    @property
    def encodes(self):
        """Whether `encode` does something."""
        return self._overrides("encode")

    @property
    def has_hooks(self):
        """Whether it does more than to compare."""
        changes = self.encodes or self.has_sinks or bool(self.modifiers())
        return changes or self.value_activation is not None

    def modifiers(self):
        """Returns the scores whose `modify` does something, in order."""
        return [self] if self._overrides("modify") else []

    def as_function(self):
        """Returns `compare` as a pure function of weights, and the weights.

        The function takes `(weights, query, key)`, as a kernel needs that recomputes
        scores when it differentiates. The functions of two equal scores are equal, so
        that layers that differ by their weights alone share one compiled kernel.
        """
        if self.is_dot_product:
            return DotProduct(), ()
        weights = (*self.trainable_variables, *self.non_trainable_variables)
        return PureCompare(self), tuple(ops.convert_to_tensor(v.value) for v in weights)

    def as_modification(self, skip):
        """Returns all of `modify` as a pure function of weights, or None, and the weights.

        The function takes `(weights, scores, pairs)`.

        Args:
            skip: The number of weights that come before its own when it is called.
        """
        pure = [PureModify(step) for step in self.modifiers()]
        if not pure:
            return None, ()
        weights = [v for step in self.modifiers() for v in step.variables]
        with AutocastScope(None):
            operands = tuple(ops.convert_to_tensor(v.value) for v in weights)
        return Modification(tuple(pure), skip), operands


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
    if target() != "litert" or len(tensor.shape) != 4 or kernel.shape[0] == 1:
        return matmul(tensor, kernel)
    # LiteRT (2.3) multiplies a batch of matrices and one that has none wrongly.
    heads, width, units = kernel.shape
    batch, _, rows, _ = ops.shape(tensor)
    tensor = ops.reshape(ops.swapaxes(tensor, 0, 1), (heads, -1, width))
    product = ops.reshape(matmul(tensor, kernel), (heads, batch, rows, units))
    return ops.swapaxes(product, 0, 1)


def _is_plain(value):
    """Returns whether Keras takes a value into a configuration by itself."""
    plain = str | int | float | bool | None
    return all(isinstance(each, plain) for each in keras.tree.flatten(value))
