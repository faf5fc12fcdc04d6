"""Cutting attention into slabs: sizes, slices, masks and loops, for all kernels.

A slab is some query rows, of one head or of several, with the keys that they read.
"""

import dataclasses

from keras import ops

from keras_sam.ops.attention import MASKED, both, position_mask
from keras_sam.ops.keep import keep
from keras_sam.ops.spans import plan

# Heads that have so few pairs of a row and a key together go through a slab together:
# 1 MiB of float32, what the second-level cache of a processor holds.
FEW_PAIRS = 2**18


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compiled in: kernels with equal options are compiled once."""

    block_size: int | str | None = "auto"
    causal: bool = False
    sliding_window: int | None = None
    selective: bool = False
    dropout: float = 0.0

    def with_rows(self, block_size):
        """The same options, for slabs of so many rows."""
        return dataclasses.replace(self, block_size=block_size)


@dataclasses.dataclass(frozen=True)
class Slab:
    """Where a slab is, as the first index and the size along four axes.

    The axes are the examples, the heads, the query rows, and the keys that they read.
    """

    start: tuple
    size: tuple

    def of_rows(self, tensor):
        """The rows, from `(B, H, T, depth)`."""
        size = (*self.size[:3], ops.shape(tensor)[3])
        return ops.slice(tensor, (*self.start[:3], 0), size)

    def of_keys(self, tensor):
        """The keys, from `(B, H, depth, S)`."""
        size = (*self.size[:2], ops.shape(tensor)[2], self.size[3])
        return ops.slice(tensor, (*self.start[:2], 0, self.start[3]), size)

    def of_pairs(self, tensor):
        """The pairs of a row and a key, from `(B or 1, H or 1, T or 1, S or 1)`."""
        return ops.slice(tensor, *self._pairs(tensor))

    def put_rows(self, tensor, part):
        """Returns `tensor` with other rows."""
        return ops.slice_update(tensor, (*self.start[:3], 0), part)

    def add_keys(self, tensor, part):
        """Returns `tensor` with `part` added to the keys."""
        start = (*self.start[:2], 0, self.start[3])
        return ops.slice_update(tensor, start, self.of_keys(tensor) + part)

    def add_pairs(self, tensor, part):
        """Returns `tensor` with `part`, summed to its shape, added to the pairs."""
        axes = [axis for axis, length in enumerate(tensor.shape) if length == 1]
        part = ops.sum(part, axis=axes, keepdims=True) if axes else part
        start, _ = self._pairs(tensor)
        return ops.slice_update(tensor, start, self.of_pairs(tensor) + part)

    def positions(self, axis):
        """The indices along one of the four axes."""
        return self.start[axis] + ops.arange(self.size[axis], dtype="int32")

    def _pairs(self, tensor):
        """Where the pairs are in a tensor of which some axes broadcast."""
        start, size = list(self.start), list(self.size)
        for axis, length in enumerate(tensor.shape):
            if length == 1:
                start[axis], size[axis] = 0, 1
        return start, size


class Problem:
    """One call of attention, cut into slabs.

    Args:
        tensors: A dictionary of `query`, `(B, H, T, D)`; `key`, `(B, H, S, D)`;
            `value`, `(B, H, S, Dv)`; and these or None: `bias` and `mask`, `(B or 1, H
            or 1, T or 1, S or 1)`; `key_mask`, `(B, S)`; `seed`, `(2,)`. `first_head`
            is the index of the first of these heads.
        options: `Options`.
        together: Whether all heads go through each slab, or only if they are small.
    """

    def __init__(self, tensors, options, together=False):
        self.options = options
        self.first_head = tensors["first_head"]
        self.seed = tensors["seed"]
        self.key_mask = tensors["key_mask"]
        batch, heads, self.length, _ = ops.shape(tensors["query"])
        keys = ops.shape(tensors["key"])[2]
        self.rows, self.slabs, self.groups = plan(
            self.length,
            keys,
            options.block_size,
            options.causal,
            options.sliding_window,
        )
        self.shape = (batch, heads, self.slabs * self.rows)
        if together:
            self.lead = batch, heads
        else:
            pairs = self.rows * keys
            some = (batch * heads * pairs <= FEW_PAIRS, heads * pairs <= FEW_PAIRS)
            self.lead = tuple(map(_if, some, (batch, heads), (1, 1)))
        self.query = self.pad(tensors["query"])
        # Turned, because their gradients are faster to gather so.
        self.key = ops.swapaxes(tensors["key"], 2, 3)  # (B, H, D, S)
        self.value = ops.swapaxes(tensors["value"], 2, 3)  # (B, H, Dv, S)
        self.mask = self.pad_pairs(tensors["mask"])
        self.bias = self.pad_pairs(tensors["bias"])

    def pad(self, tensor):
        """Fills up the last slab of `(B, H, T, depth)`."""
        more = self.shape[2] - self.length
        return ops.pad(tensor, ((0, 0), (0, 0), (0, more), (0, 0)))

    def pad_pairs(self, tensor):
        """Fills up the last slab of `(B or 1, H or 1, T or 1, S or 1)`, if any."""
        return tensor if tensor is None or tensor.shape[2] == 1 else self.pad(tensor)

    def cut(self, tensor):
        """Undoes `pad`."""
        return tensor[:, :, : self.length]

    def empty(self, tensor):
        """Zeros for the rows of all slabs, each as deep as in `tensor`."""
        return ops.zeros((*self.shape, ops.shape(tensor)[3]), tensor.dtype)

    def for_each_slab(self, body, carry, reverse=False):
        """Runs `carry, gathered = body(slab, key, value, carry)` for each slab.

        `carry` is a dictionary of tensors. `gathered`, another one, holds parts of the
        gradients of keys and values, which are added to those in `carry`. The slabs of
        some heads come in the order of their rows, or the last one first.
        """
        batch, heads, _ = self.shape
        examples, together = self.lead

        def one_lead(index, carry):
            columns = heads // together
            lead = index // columns * examples, index % columns * together
            for group in self.groups[::-1] if reverse else self.groups:
                carry = self._one_group(lead, group, body, carry, reverse)
            return carry

        return _loop((batch // examples) * (heads // together), one_lead, carry)

    def _one_group(self, lead, group, body, carry, reverse):
        size = (*self.lead, self.rows, group.width)

        def place(index):
            slab = group.first + (group.count - 1 - index if reverse else index)
            first_key = 0 if group.start is None else group.start(slab)
            return Slab((*lead, slab * self.rows, first_key), size)

        if group.start is not None:

            def one_slab(index, carry):
                slab = place(index)
                keys = slab.of_keys(self.key), slab.of_keys(self.value)
                carry, gathered = body(slab, *keys, carry)
                add = slab.add_keys
                return {**carry, **{n: add(carry[n], gathered[n]) for n in gathered}}

            return _loop(group.count, one_slab, carry)

        # All slabs read the same keys: slice them once, gather their gradients apart.
        shared = place(0)
        keys = {n: shared.of_keys(getattr(self, n)) for n in ("key", "value")}
        apart = {n: ops.zeros_like(keys[n]) for n in keys if n in carry}

        def one_slab(index, carry):
            carry, gathered = body(place(index), *keys.values(), carry)
            return {**carry, **{n: carry[n] + gathered[n] for n in gathered}}

        after = _loop(group.count, one_slab, {**carry, **apart})
        return {**after, **{n: shared.add_keys(carry[n], after[n]) for n in apart}}

    def allowed(self, slab):
        """Which pairs of a slab count, or None for all of them."""
        options = self.options
        allowed = None if self.mask is None else slab.of_pairs(self.mask)
        if self.key_mask is not None:
            allowed = both(allowed, slab.of_pairs(self.key_mask[:, None, None, :]))
        if options.causal or options.sliding_window is not None:
            positions = slab.positions(2), slab.positions(3)
            window = options.sliding_window
            allowed = both(allowed, position_mask(*positions, options.causal, window))
        return allowed

    def scores(self, slab, scores):
        """Adds the bias of a slab, if any, to its scores."""
        if self.bias is None:
            return scores
        return scores + ops.maximum(slab.of_pairs(self.bias), MASKED)

    def keep(self, slab):
        """What dropout multiplies the weights of a slab by."""
        batch, head, rows, keys = (slab.positions(axis) for axis in range(4))
        places = batch[:, None], self.first_head + head, rows, keys
        kept = keep(self.seed, *places, self.options.dropout)
        return ops.cast(kept, self.query.dtype)


def _if(condition, a, b):
    """The one or the other size."""
    return (
        (a if condition else b)
        if isinstance(condition, bool)
        else ops.where(condition, a, b)
    )


def _loop(count, body, carry):
    """Runs `carry = body(index, carry)`, `count` times."""
    if isinstance(count, int) and count == 1:
        return body(0, carry)
    return ops.fori_loop(0, count, body, carry)
