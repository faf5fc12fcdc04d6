"""Cutting attention into slabs: sizes, slices and masks, for all kernels.

A slab is some query rows of one head, or of all heads, with the keys that they read.
"""

import dataclasses
from typing import Any

from keras import ops

from keras_sam.ops.attention import MASKED, both, position_mask
from keras_sam.ops.keep import keep
from keras_sam.ops.spans import plan


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compiled in: kernels with equal options are compiled once."""

    block_size: int = 256
    causal: bool = False
    sliding_window: int | None = None
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class Slab:
    """`rows` rows from `row` and `width` keys from `start`.

    They are those of one head, `(batch, head)`, or of all where `head` is None. Slices
    of one head come without the axes for the batch and the heads.
    """

    batch: Any
    head: Any
    row: Any
    rows: Any
    start: Any
    width: Any

    def of_rows(self, tensor):
        """The rows, from `(B, H, T, depth)`."""
        return self._of(tensor, (self.row, 0), (self.rows, ops.shape(tensor)[3]))

    def of_keys(self, tensor):
        """The keys, from `(B, H, depth, S)`."""
        return self._of(tensor, (0, self.start), (ops.shape(tensor)[2], self.width))

    def of_pairs(self, tensor):
        """The pairs of a row and a key, from `(B or 1, H or 1, T or 1, S or 1)`."""
        return self._of(tensor, *self._pairs(tensor))

    def put_rows(self, tensor, part):
        """Returns `tensor` with other rows."""
        return self._put(tensor, (self.row, 0), part)

    def add_keys(self, tensor, part):
        """Returns `tensor` with `part` added to the keys."""
        return self._put(tensor, (0, self.start), self.of_keys(tensor) + part)

    def add_pairs(self, tensor, part):
        """Returns `tensor` with `part`, summed as `tensor` is, added to the pairs."""
        axes = range(4) if self.head is None else (2, 3)
        for axis in axes:
            if tensor.shape[axis] == 1:
                part = ops.sum(part, axis=axis - 4, keepdims=True)
        start, _ = self._pairs(tensor)
        return self._put(tensor, start, self.of_pairs(tensor) + part)

    def _of(self, tensor, start, size):
        lead, shape = self._lead(tensor)
        part = ops.slice(tensor, (*lead, *start), (*shape, *size))
        return part if self.head is None else part[0, 0]

    def _put(self, tensor, start, part):
        lead, _ = self._lead(tensor)
        part = ops.cast(part, tensor.dtype)
        part = part if self.head is None else part[None, None]
        return ops.slice_update(tensor, (*lead, *start), part)

    def _lead(self, tensor):
        if self.head is None:
            return (0, 0), ops.shape(tensor)[:2]
        ones = [size == 1 for size in tensor.shape[:2]]
        lead = zip(ones, (self.batch, self.head), strict=True)
        return [0 if one else index for one, index in lead], (1, 1)

    def _pairs(self, tensor):
        rows_are_one, keys_are_one = (size == 1 for size in tensor.shape[2:])
        start = 0 if rows_are_one else self.row, 0 if keys_are_one else self.start
        return start, (1 if rows_are_one else self.rows, 1 if keys_are_one else self.width)


class Problem:
    """One call of attention, cut into slabs.

    Args:
        tensors: A dictionary of `query`, `(B, H, T, D)`; `key`, `(B, H, S, D)`;
            `value`, `(B, H, S, Dv)`; and these or None: `bias` and `mask`, `(B or 1, H
            or 1, T or 1, S or 1)`; `key_mask`, `(B, S)`; `seed`, `(2,)`. `first_head`
            is the index of the first of these heads.
        options: `Options`.
    """

    def __init__(self, tensors, options):
        self.options = options
        self.first_head = tensors["first_head"]
        self.seed = tensors["seed"]
        self.key_mask = tensors["key_mask"]
        self.batch, self.heads, self.length, _ = ops.shape(tensors["query"])
        self.rows, self.slabs, self.groups = plan(
            self.length,
            ops.shape(tensors["key"])[2],
            options.block_size,
            options.causal,
            options.sliding_window,
        )
        self.query = self.pad(tensors["query"])
        # Turned, because their gradients are faster to gather so.
        self.key = ops.swapaxes(tensors["key"], 2, 3)  # (B, H, D, S)
        self.value = ops.swapaxes(tensors["value"], 2, 3)  # (B, H, Dv, S)
        self.mask = self.pad_pairs(tensors["mask"])
        self.bias = self.pad_pairs(tensors["bias"])

    def pad(self, tensor):
        """Fills up the last slab of `(B, H, T, depth)`."""
        more = self.slabs * self.rows - self.length
        return ops.pad(tensor, ((0, 0), (0, 0), (0, more), (0, 0)))

    def pad_pairs(self, tensor):
        """Fills up the last slab of `(B or 1, H or 1, T or 1, S or 1)`, if any."""
        return tensor if tensor is None or tensor.shape[2] == 1 else self.pad(tensor)

    def cut(self, tensor):
        """Undoes `pad`."""
        return tensor[:, :, : self.length]

    def empty(self, tensor):
        """Zeros for one row each, as deep as `tensor`: `(B, H, rows of slabs, depth)`."""
        depth = ops.shape(tensor)[3]
        shape = (self.batch, self.heads, self.slabs * self.rows, depth)
        return ops.zeros(shape, tensor.dtype)

    def slab(self, group, index, batch=None, head=None):
        """The slab with this index of a group."""
        slab = group.first + index
        start = 0 if group.start is None else group.start(slab)
        return Slab(batch, head, slab * self.rows, self.rows, start, group.width)

    def keys_of(self, slab):
        """The keys and values that a slab reads, turned: `(..., depth, width)`."""
        return slab.of_keys(self.key), slab.of_keys(self.value)

    def shared_keys(self, group, batch=None, head=None):
        """The same for all slabs of a group, or None where each has its own."""
        if group.start is not None:
            return None
        return self.keys_of(self.slab(group, 0, batch, head))

    def add_bias(self, scores, slab):
        """Adds the bias, if any."""
        if self.bias is None:
            return scores
        bias = ops.cast(slab.of_pairs(self.bias), scores.dtype)
        return scores + ops.maximum(bias, MASKED)

    def allowed(self, slab):
        """Which of the scores of a slab count, or None for all of them."""
        options = self.options
        allowed = None if self.mask is None else slab.of_pairs(self.mask)
        if self.key_mask is not None:
            mask = self.key_mask[:, None, None, :]
            keys = slab.of_pairs(mask)
            allowed = both(allowed, keys)
        if options.causal or options.sliding_window is not None:
            rows, keys = self.positions(slab)
            by_position = position_mask(rows, keys, options.causal, options.sliding_window)
            allowed = both(allowed, by_position)
        return allowed

    def keep(self, slab):
        """What dropout multiplies the weights of a slab by."""
        batch, head = slab.batch, slab.head
        if head is None:
            batch = ops.arange(self.batch, dtype="int32")[:, None]
            head = ops.arange(self.heads, dtype="int32")
        head = self.first_head + head
        rate = self.options.dropout
        return keep(self.seed, batch, head, *self.positions(slab), rate)

    def positions(self, slab):
        """The positions of the rows and of the keys of a slab."""
        rows = slab.row + ops.arange(slab.rows, dtype="int32")
        return rows, slab.start + ops.arange(slab.width, dtype="int32")
