"""Cutting attention into blocks of query rows, each with the keys that it reads.

A block has `examples` examples, `heads` heads and `rows` rows. Blocks of the same
examples and heads follow one another, so that the gradients of their keys and values add
up in a tensor of their own.
"""

import dataclasses

import keras
from keras import ops

from keras_sam.attention.dropout import dropout_mask
from keras_sam.attention.positions import ceil, larger, smaller
from keras_sam.attention.request import Sizes
from keras_sam.backend.loops import stack
from keras_sam.backend.precision import maximum
from keras_sam.normalizers.masking import MASKED, both

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
            if not isinstance(first, int):
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


class CutCall:
    """A call of attention whose rows are filled up to whole blocks.

    Args:
        inputs: `Inputs`.
        constants: `Constants`.
        request: `Request`.
        rows: The number of rows that all blocks have together.
        examples: The number of examples of a block.
    """

    def __init__(self, inputs, constants, request, rows, examples=1):
        self.request, self.constants = request, constants
        self.batch, self.heads, self.length, self.key_length, _ = Sizes.of(inputs)
        self.all_rows = rows
        self.all_examples = ceil(self.batch, examples) * examples
        more = self.all_examples - self.batch
        self.uneven = not isinstance(more, int) or more > 0
        self.query = self.pad(inputs.query)
        self.key_rows = self.pad_examples(inputs.key)
        self.value_rows = None if inputs.value is None else self.pad_examples(inputs.value)
        # Turned, because so they and their gradients are faster to multiply.
        self.key = ops.swapaxes(self.key_rows, 2, 3)  # (B, H, D, S)
        if inputs.value is not None:
            self.value = ops.swapaxes(self.value_rows, 2, 3)  # (B, H, Dv, S)
        self.mask = self.pad_pairs(constants.mask)
        self.bias = self.pad_pairs(inputs.bias)
        key_mask = constants.key_mask
        if key_mask is not None:
            key_mask = self.pad_examples(key_mask[:, None, None, :])
        self.key_mask = key_mask

    def pad(self, tensor, value=0.0):
        """Fills up `(B, H, T, depth)` to whole blocks."""
        more = self.all_rows - self.length
        tensor = self.pad_examples(tensor, value)
        if isinstance(more, int) and more == 0:
            return tensor
        margin = ((0, 0), (0, 0), (0, more), (0, 0))
        return ops.pad(tensor, margin, constant_values=value)

    def pad_examples(self, tensor, value=0.0):
        """Fills up the examples of a tensor of four axes to whole blocks."""
        if not self.uneven:
            return tensor
        margin = ((0, self.all_examples - self.batch), (0, 0), (0, 0), (0, 0))
        return _pad(tensor, margin, value)

    def pad_pairs(self, tensor):
        """Fills up `(B or 1, H or 1, T or 1, S or 1)`, or None, to whole blocks."""
        if tensor is None:
            return None
        if tensor.shape[2] != 1:
            margin = ((0, 0), (0, 0), (0, self.all_rows - self.length), (0, 0))
            tensor = _pad(tensor, margin)
        return tensor if tensor.shape[0] == 1 else self.pad_examples(tensor)

    def cut(self, tensor):
        """Undoes `pad`."""
        return tensor[: self.batch, :, : self.length]

    def allowed(self, block, by_position=True):
        """Returns which pairs of a block count, or None for all of them."""
        allowed = None if self.mask is None else block.of_pairs(self.mask)
        if self.key_mask is not None:
            allowed = both(allowed, block.of_pairs(self.key_mask))
        if by_position:
            positions = block.positions(2), block.positions(3)
            allowed = both(allowed, self.request.positions.allowed(*positions))
        return allowed

    def add_bias(self, block, scores):
        """Adds the bias of a block, if any, to its scores."""
        if self.bias is None:
            return scores
        return scores + maximum(block.of_pairs(self.bias), MASKED)

    def dropout_mask(self, block):
        """Returns the factors of dropout for the weights of a block."""
        example, head, rows, keys = (block.positions(axis) for axis in range(4))
        example = self.constants.example_offset + example[:, None]
        at = example, self.constants.head_offset + head, rows, keys
        mask = dropout_mask(self.constants.seed, *at, self.request.dropout)
        return ops.cast(mask, self.query.dtype)


class RowBlocks(CutCall):
    """A call of attention, cut into blocks of rows that read all their keys at once.

    Args:
        inputs: `Inputs`.
        constants: `Constants`.
        request: `Request`.
        blocks: `Blocks`.
    """

    def __init__(self, inputs, constants, request, blocks):
        sizes = Sizes.of(inputs)
        rows, examples, heads = blocks.sizes(sizes)
        plan = request.positions.plan(sizes.rows, sizes.keys, rows)
        self.rows, self.blocks, self.groups = plan
        super().__init__(inputs, constants, request, self.rows * self.blocks, examples)
        self.lead = examples, heads
        self.in_place = blocks.in_place

    def run(self, body, dtypes, keys=(), carry=(), reverse=False):
        """Runs `rows, parts, carry = body(block, carry)` for each block.

        The blocks of some heads come in the order of their rows, or the last one first.

        Args:
            body: Returns the dictionary `rows` of tensors `(examples, heads, rows,
                depth)`; `parts`, which adds up over the blocks that read the same keys,
                in the shape of `(examples, heads, depth, keys)`; and `carry`.
            dtypes: A dictionary of the dtypes of `rows`.
            keys: The names of the tensors that `parts` are like, `"key"` or `"value"`.
            carry: A structure of tensors that goes from block to block.
            reverse: Whether the last block of some heads comes first.

        Returns:
            A dictionary of all rows, `(B, H, T, depth)`; one of all parts, `(B, H,
            depth, S)`; and the last carry.
        """
        examples, heads = self.lead
        columns = self.heads // heads

        def one_lead(index, carry):
            lead = index // columns * examples, index % columns * heads
            sums = {name: self._zeros_of_lead(getattr(self, name)) for name in keys}
            pieces = []
            for group in self.groups[::-1] if reverse else self.groups:
                state = sums, carry
                rows, (sums, carry) = self._one_group(
                    lead, group, body, dtypes, state, reverse
                )
                pieces.append(rows)
            pieces = pieces[::-1] if reverse else pieces
            joined = {n: _concatenate([piece[n] for piece in pieces]) for n in dtypes}
            return {**joined, **sums}, carry

        of_keys = dict.fromkeys(keys, self.query.dtype)
        count = ceil(self.batch, examples) * columns
        stacked, carry = stack(one_lead, count, carry, {**dtypes, **of_keys}, parallel=2)
        whole = {name: self._join_leads(x) for name, x in stacked.items()}
        rows = {name: self.cut(whole[name]) for name in dtypes}
        return rows, {name: whole[name][: self.batch] for name in keys}, carry

    def _one_group(self, lead, group, body, dtypes, state, reverse):
        size = (*self.lead, self.rows, group.width)

        def one_block(index, state):
            sums, carry = state
            number = group.count - 1 - index if reverse else index
            first_row = (group.first + number) * self.rows
            start = *lead, first_row, group.first_key(first_row)
            block = Block(start, size, self.in_place)
            rows, parts, carry = body(block, carry)
            if self.request.positions.allow_all:
                return rows, ({n: sums[n] + parts[n] for n in sums}, carry)
            own = dataclasses.replace(block, start=(0, 0, *start[2:]))
            sums = {n: own.add_turned_keys(sums[n], parts[n]) for n in sums}
            return rows, (sums, carry)

        stacked, state = stack(one_block, group.count, state, dtypes)
        return {n: self._join_rows(x, reverse) for n, x in stacked.items()}, state

    def _zeros_of_lead(self, tensor):
        _, _, depth, length = ops.shape(tensor)
        return ops.zeros((*self.lead, depth, length), tensor.dtype)

    def _join_rows(self, tensor, reverse):
        """Makes `(blocks, examples, heads, rows, depth)` into `(.., .., T, depth)`."""
        if reverse:
            tensor = ops.flip(tensor, axis=0)
        blocks, *_, depth = ops.shape(tensor)
        if isinstance(blocks, int) and blocks == 1:
            return tensor[0]
        shape = (*self.lead, blocks * self.rows, depth)
        return ops.reshape(ops.moveaxis(tensor, 0, 2), shape)

    def _join_leads(self, tensor):
        """Makes `(leads, examples, heads, rows, depth)` into `(B, H, rows, depth)`."""
        leads, *_, rows, depth = ops.shape(tensor)
        if isinstance(leads, int) and leads == 1:
            return tensor[0]
        examples, heads = self.lead
        columns = self.heads // heads
        shape = (leads // columns, columns, examples, heads, rows, depth)
        tensor = ops.transpose(ops.reshape(tensor, shape), (0, 2, 1, 3, 4, 5))
        shape = (leads // columns * examples, self.heads, rows, depth)
        return ops.reshape(tensor, shape)


def _pad(tensor, margin, value=0.0):
    is_boolean = keras.backend.standardize_dtype(tensor.dtype) == "bool"
    return ops.pad(tensor, margin, constant_values=False if is_boolean else value)


def _concatenate(pieces):
    return pieces[0] if len(pieces) == 1 else ops.concatenate(pieces, axis=2)
