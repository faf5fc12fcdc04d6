"""Attention over chosen axes of sequences, images and volumes.

::

    (B, frames, height, width, C), attention over height and width:

    inputs    (B * frames, height * width, C)
    weights   (B * frames, H, T, S)  ->  (B, frames, H, T, S)

Axes that are not attended over are *free*: each of their indices is an example of its own.
"""

import dataclasses
import math

from keras import ops

from keras_sam import _validation as check


@dataclasses.dataclass(frozen=True)
class Axes:
    """The axes of an input `(B, ..., C)`.

    Args:
        shape: Shape of the input, as far as it is known.
        attended: The axes with the positions, positive and in rising order.
    """

    shape: tuple
    attended: tuple

    @classmethod
    def of(cls, shape, attention_axes, where):
        """Checks `attention_axes` against `shape`; `where` names the layer in messages."""
        shape, rank = tuple(shape), len(shape)
        if attention_axes is None:
            return cls(shape, tuple(range(1, rank - 1)))
        given = attention_axes if isinstance(attention_axes, tuple) else (attention_axes,)
        axes = tuple(sorted(axis + rank if axis < 0 else axis for axis in given))
        if not set(axes) <= set(range(1, rank - 1)) or len(set(axes)) < len(axes):
            raise ValueError(
                "`attention_axes` must be different axes between batch and channels, in "
                f"{where}. Received: attention_axes={attention_axes}, for a tensor of "
                f"shape {shape}"
            )
        return cls(shape, axes)

    @property
    def free(self):
        """The axes between batch and channels that are not attended over."""
        return tuple(a for a in range(1, len(self.shape) - 1) if a not in self.attended)

    @property
    def free_sizes(self):
        return tuple(self.shape[axis] for axis in self.free)

    @property
    def sizes(self):
        """The sizes of the attended axes."""
        return tuple(self.shape[axis] for axis in self.attended)

    @property
    def grid(self):
        """The sizes of the attended axes, or None for a plain sequence."""
        return self.sizes if len(self.attended) > 1 else None

    @property
    def length(self):
        """How many positions there are, or None."""
        return None if None in self.sizes else math.prod(self.sizes)

    @property
    def flat_shape(self):
        """The shape that `flatten` brings a tensor into."""
        sizes = (self.shape[0], *self.free_sizes)
        batch = None if None in sizes else math.prod(sizes)
        return batch, self.length, self.shape[-1]

    def flatten(self, tensor):
        """Brings a tensor `(B, ..., C)` into the shape `(B', T, C)`."""
        if len(self.shape) == 3:
            return tensor
        shape = ops.shape(tensor)
        batch = math.prod(shape[axis] for axis in (0, *self.free))
        length = -1 if self.length is None else self.length
        return ops.reshape(self._free_first(tensor), (batch, length, *shape[-1:]))

    def flatten_mask(self, mask):
        """Brings a padding mask `(B, ...)` into the shape `(B', T)`."""
        if mask is None or len(self.shape) == 3:
            return mask
        return self.flatten(ops.expand_dims(mask, -1))[..., 0]

    def restore(self, outputs, tensor):
        """Brings outputs `(B', T, ...)` into the axes of `tensor`, which was flattened."""
        if len(self.shape) == 3:
            return outputs
        shape, channels = ops.shape(tensor), tuple(outputs.shape[2:])
        order = (0, *self.free, *self.attended)
        outputs = ops.reshape(outputs, (*(shape[axis] for axis in order), *channels))
        if not self.free:
            return outputs
        back = sorted(range(len(order)), key=order.__getitem__)
        rest = range(len(order), len(order) + len(channels))
        return ops.transpose(outputs, (*back, *rest))

    def restore_weights(self, weights, tensor):
        """Brings weights `(B', H, T, S)` into the shape `(B, *free, H, T, S)`."""
        if not self.free:
            return weights
        shape = ops.shape(tensor)
        batch = (shape[axis] for axis in (0, *self.free))
        return ops.reshape(weights, (*batch, *ops.shape(weights)[1:]))

    def _free_first(self, tensor):
        if not self.free:
            return tensor
        return ops.transpose(tensor, (0, *self.free, *self.attended, len(self.shape) - 1))


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The shapes that a mask or a bias over pairs of positions may have.

    They are `(B, *free, H, T, S)`, where sizes may be 1 and leading ones be missing, so
    `(T, S)`, `(B, T, S)` and, without free axes, `(B, H, T, S)`. Instead of `T` and `S`
    there may be the sizes of all their axes, as in `keras.layers.MultiHeadAttention`.

    Args:
        query: The `Axes` of the queries.
        key: The `Axes` of the keys.
        num_heads: The number of heads.
    """

    query: Axes
    key: Axes
    num_heads: int

    def check(self, name, tensor, where):
        """Refuses a tensor that has none of the shapes."""
        if tensor is None or self._match(_shape(tensor)) is not None:
            return
        pairs = self.query.length, self.key.length
        free = "".join(f"{size}, " for size in self.query.free_sizes)
        raise ValueError(
            f"`{name}` must have the shape (batch, {free}{pairs[0]}, {pairs[1]}) or "
            f"(batch, {free}{self.num_heads}, {pairs[0]}, {pairs[1]}), where a size may be "
            f"1 and the first sizes may be missing, in {where}. "
            f"Received: {name}.shape={_shape(tensor)}"
        )

    def flatten(self, tensor, query, key):
        """Brings a mask or bias into the shape `(B' or 1, H or 1, T or 1, S or 1)`.

        Args:
            tensor: Of one of the shapes, or None.
            query, key: The inputs, whose sizes may be known only now.
        """
        if tensor is None:
            return None
        tensor = ops.convert_to_tensor(tensor)
        leading, rows, keys = self._match(_shape(tensor))
        if len(rows) + len(keys) > 2:  # the sizes of all axes: to T and S
            rows = tuple(ops.shape(query)[axis] for axis in self.query.attended)
            keys = tuple(ops.shape(key)[axis] for axis in self.key.attended)
            given = ops.shape(tensor)[:leading]
            tensor = ops.broadcast_to(tensor, (*given, *rows, *keys))
            tensor = ops.reshape(tensor, (*given, math.prod(rows), math.prod(keys)))
        count = len(self._leading)
        for _ in range(count - leading):
            tensor = ops.expand_dims(tensor, leading)
        if not self.query.free:
            return tensor
        if tuple(tensor.shape[: count - 1]) == (1,) * (count - 1):
            return ops.squeeze(tensor, tuple(range(count - 2)))
        batch = tuple(ops.shape(query)[axis] for axis in (0, *self.query.free))
        shape = ops.shape(tensor)
        tensor = ops.broadcast_to(tensor, (*batch, *shape[-3:]))
        return ops.reshape(tensor, (math.prod(batch), *shape[-3:]))

    @property
    def _leading(self):
        return (self.query.shape[0], *self.query.free_sizes, self.num_heads)

    def _match(self, shape):
        """Returns how many sizes lead, those of rows and those of keys, or None."""
        flat = (self.query.length,), (self.key.length,)
        for rows, keys in (flat, (self.query.sizes, self.key.sizes)):
            leading = len(shape) - len(rows) - len(keys)
            if not 0 <= leading <= len(self._leading):
                continue
            expected = (*self._leading[:leading], *rows, *keys)
            if check.fits(shape, expected, broadcast=True):
                return leading, rows, keys
        return None


def _shape(tensor):
    """The shape of a tensor, an array or a list."""
    if hasattr(tensor, "shape"):
        return tuple(tensor.shape)
    return tuple(ops.convert_to_tensor(tensor).shape)
