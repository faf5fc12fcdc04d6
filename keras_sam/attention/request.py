"""One call of attention: what is asked, apart from and beside its tensors."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_sam import normalizers
from keras_sam.attention.positions import Positions
from keras_sam.backend.precision import wide

ALL_PAIRS = Positions()


@dataclasses.dataclass(frozen=True)
class Request:
    """What a call of attention computes; equal requests share compiled kernels.

    Args:
        score: A function `(operands, query, key) -> (B, H, rows, S)` with a property
            `is_dot_product`, from `Score.as_function`.
        normalizer: A function of float scores that works on the last axis.
        positions: `Positions`.
        selective: Whether the first head takes off scores; see `selective`.
        dropout: The share of weights to drop, in [0, 1).
    """

    score: Callable
    normalizer: Callable
    positions: Positions = ALL_PAIRS
    selective: bool = False
    dropout: float = 0.0

    @property
    def is_softmax_of_dot_products(self):
        """Whether the gradient is known by hand, as `dense` and `flash` need."""
        plain = self.normalizer == normalizers.Softmax()
        return self.score.is_dot_product and plain and not self.selective

    def with_normalizer(self, normalizer):
        """Returns the same request with another normalizer."""
        return dataclasses.replace(self, normalizer=normalizer)

    def without_weights(self):
        """Returns an equal request that keeps no layer alive; see `Score.as_function`."""
        return dataclasses.replace(self, score=self.score.without_weights())


class Inputs(NamedTuple):
    """The tensors of a call that have a gradient.

    Args:
        query: `(B, H, T, D)`.
        key: `(B, H, S, D)`. The kernels `library` and `pallas` also take fewer heads, each
            of which a group of query heads shares.
        value: `(B, as key, S, Dv)`.
        bias: `(B or 1, H or 1, T or 1, S or 1)`, or None.
        operands: A tuple of tensors, the weights of the score.
    """

    query: Any
    key: Any
    value: Any
    bias: Any = None
    operands: tuple = ()

    def repeated(self):
        """Returns the same with as many heads of keys as of queries."""
        groups = self.query.shape[1] // self.key.shape[1]
        if groups == 1:
            return self
        key, value = (ops.repeat(x, groups, axis=1) for x in (self.key, self.value))
        return self._replace(key=key, value=value)

    def widened(self):
        """Returns the same in float32, or float64, in which sums are computed."""
        dtype = wide(self.query.dtype)
        tensors = (None if x is None else ops.cast(x, dtype) for x in self[:4])
        return Inputs(*tensors, tuple(ops.cast(x, dtype) for x in self.operands))


class Constants(NamedTuple):
    """The tensors of a call that have no gradient.

    Args:
        mask: Boolean `(B or 1, H or 1, T or 1, S or 1)`, or None; True is "may attend".
        key_mask: Boolean `(B, S)`, or None; False is padding.
        query_mask: Boolean `(B, T)`, or None; False is padding.
        seed: Integers `(2,)` for dropout, or None.
        example_offset: The index of the first of these examples, for dropout.
        head_offset: The index of the first of these heads, for dropout.
    """

    mask: Any = None
    key_mask: Any = None
    query_mask: Any = None
    seed: Any = None
    example_offset: Any = 0
    head_offset: Any = 0


class Sizes(NamedTuple):
    """The sizes of a call: integers, or integer tensors where they are unknown yet."""

    batch: Any
    heads: Any
    rows: Any
    keys: Any
    depth: Any

    @classmethod
    def of(cls, inputs):
        """Returns the sizes of `Inputs`."""
        batch, heads, rows, depth = ops.shape(inputs.query)
        return cls(batch, heads, rows, ops.shape(inputs.key)[2], depth)


class Traits(NamedTuple):
    """What a choice of kernel depends on beside the request, the sizes and the device.

    Args:
        dtype: The dtype of the query, a string.
        value_depth: The channels of a value.
        mask: The shape of `Constants.mask`, or None.
        bias: The shape of `Inputs.bias`, or None.
        key_mask: Whether there is one.
    """

    dtype: str = "float32"
    value_depth: Any = None
    mask: tuple | None = None
    bias: tuple | None = None
    key_mask: bool = False

    @classmethod
    def of(cls, inputs, constants):
        """Returns the traits of `Inputs` and `Constants`."""

        def shape(tensor):
            return None if tensor is None else tuple(tensor.shape)

        return cls(
            keras.backend.standardize_dtype(inputs.query.dtype),
            inputs.value.shape[3],
            shape(constants.mask),
            shape(inputs.bias),
            constants.key_mask is not None,
        )
