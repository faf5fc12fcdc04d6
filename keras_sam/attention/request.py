"""One call of attention: what is asked, apart from and beside its tensors."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_sam import normalizers
from keras_sam.attention.positions import Positions
from keras_sam.backend.indices import indices
from keras_sam.backend.precision import wide
from keras_sam.masks import pairs as masks

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
        modify: A function `(operands, scores, pairs) -> scores`, from
            `Score.as_modification`, or None.
        sinks: Whether `Inputs` have sinks.
        scale: What the kernel `library` multiplies dot products by. All other kernels get
            queries that are scaled already.
    """

    score: Callable
    normalizer: Callable
    positions: Positions = ALL_PAIRS
    selective: bool = False
    dropout: float = 0.0
    modify: Callable | None = None
    sinks: bool = False
    scale: float = 1.0

    @property
    def is_softmax_of_dot_products(self):
        """Whether the gradient is known by hand, as `dense` needs."""
        return self.has_tiles and self.modify is None and not self.sinks

    @property
    def has_tiles(self):
        """Whether rows can be computed by tiles of keys, as `flash` does."""
        plain = self.normalizer == normalizers.Softmax()
        return self.score.is_dot_product and plain and not self.selective

    @property
    def is_bare(self):
        """Whether no step changes its scores, and no mask but causality and a window."""
        return self.modify is None and not self.sinks and self.positions.is_simple

    @property
    def is_plain(self):
        """Whether it is what all libraries have: softmax, causality and a window."""
        return self.is_softmax_of_dot_products and self.is_bare

    def with_normalizer(self, normalizer):
        """Returns the same request with another normalizer."""
        return dataclasses.replace(self, normalizer=normalizer)

    def without_weights(self):
        """Returns an equal request that keeps no layer alive; see `Score.as_function`."""
        modify = None if self.modify is None else self.modify.without_weights()
        score = self.score.without_weights()
        return dataclasses.replace(self, score=score, modify=modify)


class Inputs(NamedTuple):
    """The tensors of a call that have a gradient.

    Args:
        query: `(B, H, T, D)`.
        key: `(B, H, S, D)`. The kernels `library` and `pallas` also take fewer heads, each
            of which a group of query heads shares.
        value: `(B, as key, S, Dv)`.
        bias: `(B or 1, H or 1, T or 1, S or 1)`, or None.
        operands: A tuple of tensors, the weights of the score and of `Request.modify`.
        sinks: `(1, H, 1, 1)`, a score that takes weight and has no value, or None.
    """

    query: Any
    key: Any
    value: Any
    bias: Any = None
    operands: tuple = ()
    sinks: Any = None

    def repeated(self):
        """Returns the same with as many heads of keys as of queries."""
        groups = self.query.shape[1] // self.key.shape[1]
        if groups == 1:
            return self
        key, value = (ops.repeat(x, groups, axis=1) for x in (self.key, self.value))
        return self._replace(key=key, value=value)

    def scaled(self, scale):
        """Returns the same with queries that are multiplied by a number."""
        return self if scale == 1 else self._replace(query=self.query * scale)

    def widened(self):
        """Returns the same in float32, or float64, in which sums are computed."""
        dtype = wide(self.query.dtype)

        def widen(tensor):
            return None if tensor is None else ops.cast(tensor, dtype)

        operands = tuple(map(widen, self.operands))
        return Inputs(*map(widen, self[:4]), operands, widen(self.sinks))


class Constants(NamedTuple):
    """The tensors of a call that have no gradient.

    Args:
        mask: Boolean `(B or 1, H or 1, T or 1, S or 1)`, or None; True is "may attend".
        key_mask: Boolean `(B, S)`, or None; False is padding.
        query_mask: Boolean `(B, T)`, or None; False is padding.
        seed: Integers `(2,)` for dropout, or None.
        example_offset: The index of the first of these examples.
        head_offset: The index of the first of these heads.
        query_segments: Integers `(B, T)`, the segments of the rows, or None.
        key_segments: Integers `(B, S)`, the segments of the keys, or None.
        query_positions: Integers `(B or 1, T)`, or None: then they are 0, 1, ...
        key_positions: Integers `(B or 1, S)`, or None where `query_positions` is. A
            negative one is an empty slot of a cache, which no row sees.
    """

    mask: Any = None
    key_mask: Any = None
    query_mask: Any = None
    seed: Any = None
    example_offset: Any = 0
    head_offset: Any = 0
    query_segments: Any = None
    key_segments: Any = None
    query_positions: Any = None
    key_positions: Any = None

    @property
    def in_a_row(self):
        """Whether positions are 0, 1, ..., so that a kernel can plan with them."""
        return self.key_positions is None

    def pairs(self, sizes):
        """Returns the `keras_sam.masks.Pairs` of a whole call, of some `Sizes`."""
        batch, heads, rows, keys, _ = sizes
        query, key = self.query_positions, self.key_positions
        if self.in_a_row:
            query, key = indices(rows)[None], indices(keys)[None]
        example = self.example_offset + indices(batch)
        head = self.head_offset + indices(heads)
        return masks.Pairs(
            example=example[:, None, None, None],
            head=head[None, :, None, None],
            query=of_rows(query),
            key=of_keys(key),
            query_length=rows,
            key_length=keys,
            query_segments=of_rows(self.query_segments),
            key_segments=of_keys(self.key_segments),
            in_a_row=self.in_a_row,
        )


def of_rows(tensor):
    """Makes `(B, T)`, or None, a tensor over pairs."""
    return None if tensor is None else tensor[:, None, :, None]


def of_keys(tensor):
    """Makes `(B, S)`, or None, a tensor over pairs."""
    return None if tensor is None else tensor[:, None, None, :]


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
        in_a_row: `Constants.in_a_row`.
    """

    dtype: str = "float32"
    value_depth: Any = None
    mask: tuple | None = None
    bias: tuple | None = None
    key_mask: bool = False
    in_a_row: bool = True

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
            constants.in_a_row,
        )
