"""Seeing a tensor as parts: positions, features, or slices along an axis."""

import dataclasses
import math

from keras import ops

from keras_sam import _validation as check
from keras_sam.backend.precision import wide
from keras_sam.layers._masks import without_padding


@dataclasses.dataclass(frozen=True)
class Parts:
    """Where the `T` parts of an input of some shape are.

    Parts are seen as `(B, T, R, D)`: `R` other positions, with `D` channels each.

    Args:
        shape: Shape of the input.
        axis: The axis of the parts, positive; None is all positions.
    """

    shape: tuple
    axis: int | None

    @classmethod
    def of(cls, shape, axis, name):
        """Checks `axis` against `shape`; `name` is the layer's, for the message."""
        shape = tuple(shape)
        rank = len(shape)
        where = f"in SelectiveAttention {name!r}"
        features = axis is not None and rank and axis in (-1, rank - 1)
        if rank < (2 if features else 3) or shape[-1] is None:
            raise ValueError(
                "`inputs` must have the shape (batch, ..., channels) with known channels "
                f"(or, with axis=-1, (batch, channels)), {where}. "
                f"Received: inputs.shape={shape}"
            )
        if axis is None or (rank == 3 and axis in (1, -2)):
            return cls(shape, None)
        if not -rank < axis < rank or axis == 0:
            raise ValueError(
                f"`axis` must be None or an axis of `inputs` after the batch, {where}. "
                f"Received: axis={axis}, inputs.shape={shape}"
            )
        return cls(shape, axis % rank)

    @property
    def are_features(self):
        """Whether the parts are the channels."""
        return self.axis == len(self.shape) - 1

    @property
    def length(self):
        """The number of parts, or None."""
        sizes = self.shape[1:-1] if self.axis is None else (self.shape[self.axis],)
        return None if None in sizes else math.prod(sizes)

    @property
    def width(self):
        """The number of channels `D` of a part."""
        return 1 if self.are_features else self.shape[-1]

    @property
    def grid(self):
        """The sizes behind `T`, or None for a plain sequence."""
        return self.shape[1:-1] if self.axis is None and len(self.shape) > 3 else None

    def check_mask(self, mask):
        """Returns `mask` if it fits, or raises."""
        expected = self.shape if len(self.shape) == 2 else self.shape[:-1]
        if mask is not None and not check.fits(mask.shape, expected):
            raise ValueError(
                f"`mask` must have the shape {expected}. "
                f"Received: mask.shape={tuple(mask.shape)}"
            )
        return mask

    def without_padding(self, inputs, mask):
        """Returns the inputs with zeros for padding, which may be no number at all."""
        if mask is not None and len(self.shape) == 2:
            return ops.where(mask, inputs, ops.zeros_like(inputs))
        return without_padding(inputs, mask)

    def describe(self, inputs, mask):
        """Returns the mean of each part, `(B, T, D)`, and which parts count, `(B, T)`.

        Padding has to be zero; see `without_padding`.
        """
        parts = self._split(inputs)
        if mask is None:
            return ops.mean(parts, axis=2), None
        mask = self._split_mask(inputs, mask)  # (B, T, R)
        # In float32, as in `ops.mean`: a sum of halves may be larger than any of them.
        dtype = wide(parts.dtype)
        share = ops.expand_dims(ops.cast(mask, dtype), -1)
        count = ops.maximum(ops.sum(share, axis=2), 1)
        mean = ops.sum(ops.cast(parts, dtype) * share, axis=2) / count
        return ops.cast(mean, parts.dtype), ops.any(mask, axis=2)

    def pooled_shape(self, num_heads):
        """The shape of what `pool` returns."""
        others = () if self.axis is None else self._others(self.shape)
        return (self.shape[0], *others, num_heads * self.width)

    def pooled_mask(self, mask):
        """The mask of what `pool` returns, or None."""
        if mask is None or self.axis is None or len(self.shape) == 2:
            return None
        if self.are_features:
            return mask
        return ops.any(ops.cast(mask, "bool"), axis=self.axis)

    def pool(self, inputs, weights):
        """Sums the parts up by weights `(B, H, T)`: `(B, ..., H D)`."""
        pooled = ops.einsum("bht,btrd->brhd", weights, self._split(inputs))
        shape = ops.shape(inputs)
        others = () if self.axis is None else self._others(shape)
        return ops.reshape(pooled, (shape[0], *others, weights.shape[1] * self.width))

    def scale(self, inputs, factors):
        """Multiplies each part by its factor; `factors` is `(B, T)`."""
        shape = list(ops.shape(inputs))
        if self.axis is None:
            shape[-1] = 1
        else:
            shape = [size if i in (0, self.axis) else 1 for i, size in enumerate(shape)]
        return ops.multiply(inputs, ops.reshape(factors, shape))

    def _others(self, shape):
        return tuple(shape[i] for i in range(1, len(shape) - 1) if i != self.axis)

    def _split(self, inputs):
        shape = ops.shape(inputs)
        if self.axis is None:
            return ops.reshape(inputs, (shape[0], -1, 1, shape[-1]))
        moved = ops.moveaxis(inputs, self.axis, 1)
        return ops.reshape(moved, (shape[0], shape[self.axis], -1, self.width))

    def _split_mask(self, inputs, mask):
        shape = ops.shape(inputs)
        mask = ops.cast(mask, "bool")
        if self.axis is None:
            return ops.reshape(mask, (shape[0], -1, 1))
        if self.are_features and len(shape) > 2:
            mask = ops.reshape(mask, (shape[0], 1, -1))
            return ops.repeat(mask, shape[-1], axis=1)
        moved = ops.moveaxis(mask, self.axis, 1)
        return ops.reshape(moved, (shape[0], shape[self.axis], -1))
