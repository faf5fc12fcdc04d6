"""What all kernels share that cut attention up: sizes, slices, masks and loops.

A slab is some query rows, of one head or of several, with the keys that they read.
"""

import dataclasses

from keras import ops

from keras_sam.ops.attention import MASKED, both, position_mask
from keras_sam.ops.compiled import on_cpu
from keras_sam.ops.keep import keep
from keras_sam.ops.precision import maximum

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
    """One call of attention, cut up.

    Args:
        tensors: A dictionary of `query`, `(B, H, T, D)`; `key`, `(B, H, S, D)`;
            `value`, `(B, H, S, Dv)`; and these or None: `bias` and `mask`, `(B or 1, H
            or 1, T or 1, S or 1)`; `key_mask`, `(B, S)`; `seed`, `(2,)`. `first_head`
            is the index of the first of these heads.
        options: `Options`.
        rows: How many query rows a slab has.
        slabs: How many slabs there are. Together they may have more rows than the query.
        keys: How many keys a slab has.
        together: Whether all heads go through each slab, or only if they are small.
    """

    def __init__(self, tensors, options, rows, slabs, keys, together=False):
        self.options = options
        self.first_head = tensors["first_head"]
        self.seed = tensors["seed"]
        self.key_mask = tensors["key_mask"]
        self.rows, self.slabs = rows, slabs
        batch, heads, self.length, _ = ops.shape(tensors["query"])
        self.shape = (batch, heads, slabs * rows)
        if together or not on_cpu():
            self.lead = batch, heads
        else:
            pairs = rows * keys
            some = (batch * heads * pairs <= FEW_PAIRS, heads * pairs <= FEW_PAIRS)
            self.lead = tuple(map(_if, some, (batch, heads), (1, 1)))
        self.query = self.pad(tensors["query"])
        # Turned, because so they and their gradients are faster to multiply.
        self.key = ops.swapaxes(tensors["key"], 2, 3)  # (B, H, D, S)
        self.value = ops.swapaxes(tensors["value"], 2, 3)  # (B, H, Dv, S)
        self.mask = self.pad_pairs(tensors["mask"])
        self.bias = self.pad_pairs(tensors["bias"])

    def pad(self, tensor, value=0.0):
        """Fills up the last slab of `(B, H, T, depth)`."""
        more = self.shape[2] - self.length
        margin = ((0, 0), (0, 0), (0, more), (0, 0))
        return ops.pad(tensor, margin, constant_values=value)

    def pad_pairs(self, tensor):
        """Fills up the last slab of `(B or 1, H or 1, T or 1, S or 1)`, if any."""
        return tensor if tensor is None or tensor.shape[2] == 1 else self.pad(tensor)

    def cut(self, tensor):
        """Undoes `pad`."""
        return tensor[:, :, : self.length]

    def empty(self, tensor):
        """Zeros for the rows of all slabs, each as deep as in `tensor`."""
        return ops.zeros((*self.shape, ops.shape(tensor)[3]), tensor.dtype)

    def for_each_lead(self, body, carry):
        """Runs `carry = body(lead, carry)` for the heads that go together.

        `lead` is the index of the first example and of the first head of them.
        """
        batch, heads, _ = self.shape
        examples, together = self.lead
        columns = heads // together

        def one_lead(index, carry):
            return body((index // columns * examples, index % columns * together), carry)

        return loop(0, (batch // examples) * columns, one_lead, carry)

    def allowed(self, slab, by_position=True):
        """Which pairs of a slab count, or None for all of them."""
        options = self.options
        allowed = None if self.mask is None else slab.of_pairs(self.mask)
        if self.key_mask is not None:
            allowed = both(allowed, slab.of_pairs(self.key_mask[:, None, None, :]))
        if by_position and (options.causal or options.sliding_window is not None):
            positions = slab.positions(2), slab.positions(3)
            window = options.sliding_window
            allowed = both(allowed, position_mask(*positions, options.causal, window))
        return allowed

    def scores(self, slab, scores):
        """Adds the bias of a slab, if any, to its scores."""
        if self.bias is None:
            return scores
        return scores + maximum(slab.of_pairs(self.bias), MASKED)

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


def loop(first, last, body, carry):
    """Runs `carry = body(index, carry)` for each index from `first` to before `last`."""
    if isinstance(first, int) and isinstance(last, int) and last - first <= 1:
        return body(first, carry) if last > first else carry
    return ops.fori_loop(first, last, body, carry)
