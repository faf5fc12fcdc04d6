"""The sizes and the position of a block: some rows of some heads, and their keys."""

import dataclasses

from keras import ops

from keras_sam.attention.positions import ceil, larger, smaller

# Blocks of fewer rows spend their time on the gradients of keys.
MIN_ROWS = 64


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How large blocks are, for any sizes of a call.

    Args:
        pairs: The number of pairs of a row and a key that a block has at most, if it has
            `MIN_ROWS` rows or more.
        rows: The largest number of rows, or None for as many as there is room for.
        together: Whether all heads go through a block together, as the weights of a score
            need, because they may belong to one head each.
        keys: The number of keys of a tile, where blocks are cut into tiles.
        in_place: Whether a part of a tensor can be written in place, as compiled
            loops do. In a plain graph TensorFlow compiles a program for it instead, for
            each shape.
    """

    pairs: int
    rows: int | None = None
    together: bool = False
    keys: int | None = None
    in_place: bool = True

    def sizes(self, sizes):
        """Returns the rows, the examples and the heads of a block.

        They are integers, or integer tensors where a size is unknown yet. No product of
        unknown sizes is taken, which could run over an int32.

        Args:
            sizes: `Sizes`.
        """
        batch, heads, length, keys, _ = sizes
        keys = keys if self.keys is None else smaller(keys, self.keys)
        room = larger(self.pairs // larger(keys, 1), 1)  # rows of one head
        if self.rows is not None:
            rows = smaller(self.rows, larger(length, 1))
        else:
            rows = larger(room // heads if self.together else room, MIN_ROWS)
            rows = smaller(rows, larger(length, 1))
        group = larger(room // rows, 1)  # heads of all examples
        if self.together:
            together = heads
        else:
            together = 1
            for divisor in (n for n in range(2, heads + 1) if heads % n == 0):
                together = _if(group >= divisor, divisor, together)
        examples = larger(smaller(group // heads, batch), 1)
        # Equal shares of the batch, so that few examples fill up the last block.
        examples = larger(ceil(batch, ceil(batch, examples)), 1)
        return rows, examples, together


def _if(condition, a, b):
    """Returns the one or the other size."""
    if isinstance(condition, bool):
        return a if condition else b
    return ops.where(condition, a, b)


@dataclasses.dataclass(frozen=True)
class Block:
    """The position of a block, as the first index and the size along four axes.

    The axes are the examples, the heads, the query rows, and the keys that they read.
    """

    start: tuple
    size: tuple
    in_place: bool = True

    def of_rows(self, tensor):
        """Returns the rows, from `(B, H, T, depth)`."""
        size = (*self.size[:3], ops.shape(tensor)[3])
        return ops.slice(tensor, (*self.start[:3], 0), size)

    def of_keys(self, tensor):
        """Returns the keys, from `(B, H, S, depth)`."""
        size = (*self.size[:2], self.size[3], ops.shape(tensor)[3])
        return ops.slice(tensor, (*self.start[:2], self.start[3], 0), size)

    def of_turned_keys(self, tensor):
        """Returns the keys, from `(B, H, depth, S)`."""
        size = (*self.size[:2], ops.shape(tensor)[2], self.size[3])
        return ops.slice(tensor, (*self.start[:2], 0, self.start[3]), size)

    def of_pairs(self, tensor):
        """Returns the pairs, from `(B or 1, H or 1, T or 1, S or 1)`."""
        return ops.slice(tensor, *self._pairs(tensor))

    def put_rows(self, tensor, part):
        """Returns `tensor` with other rows."""
        return ops.slice_update(tensor, (*self.start[:3], 0), part)

    def add_turned_keys(self, tensor, part):
        """Returns `tensor` with `part` added to the keys."""
        return self.add_at(tensor, part, (*self.start[:2], 0, self.start[3]))

    def add_pairs(self, tensor, part):
        """Returns `tensor` with `part`, summed to its shape, added to the pairs."""
        start, _ = self._pairs(tensor)
        return self.add_at(tensor, sum_to_shape(part, tensor.shape), start)

    def add_at(self, tensor, part, start):
        """Returns `tensor` with `part` added from the indices `start` on."""
        if self.in_place:
            old = ops.slice(tensor, start, ops.shape(part))
            return ops.slice_update(tensor, start, old + part)
        sizes = zip(start, ops.shape(tensor), ops.shape(part), strict=True)
        for axis, (first, length, size) in enumerate(sizes):
            if isinstance(length, int) and isinstance(size, int) and length == size:
                continue
            margin = [(0, length - size if axis == other else 0) for other in range(4)]
            part = ops.pad(part, margin)
            if not isinstance(first, int) or first != 0:
                part = ops.roll(part, first, axis)
        return tensor + part

    def positions(self, axis):
        """Returns the indices along one of the four axes."""
        return self.start[axis] + ops.arange(self.size[axis], dtype="int32")

    def _pairs(self, tensor):
        """Returns the first indices and sizes in a tensor whose axes may broadcast."""
        start, size = list(self.start), list(self.size)
        for axis, length in enumerate(tensor.shape):
            if length == 1:
                start[axis], size[axis] = 0, 1
        return start, size


def sum_to_shape(part, shape):
    """Sums a tensor over the axes along which `shape` broadcasts."""
    axes = [axis for axis, length in enumerate(shape) if length == 1]
    return ops.sum(part, axis=axes, keepdims=True) if axes else part
