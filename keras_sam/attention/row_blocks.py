"""Cutting attention into blocks of query rows, each with the keys that it reads.

A block has `examples` examples, `heads` heads and `rows` rows. Blocks of the same
examples and heads follow one another, so that the gradients of their keys and values add
up in a tensor of their own.
"""

import dataclasses

import keras
from keras import ops

from keras_sam.attention.blocks import Block
from keras_sam.attention.dropout import dropout_mask
from keras_sam.attention.positions import Positions, ceil
from keras_sam.attention.request import Sizes, of_keys, of_rows
from keras_sam.backend.loops import stack
from keras_sam.backend.precision import maximum, wide
from keras_sam.masks import Pairs
from keras_sam.normalizers.masking import MASKED, both


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
        self.in_a_row = constants.in_a_row
        self.by_position = not (request.positions.allow_all and self.in_a_row)
        names = "query_segments", "key_segments", "query_positions", "key_positions"
        shapes = of_rows, of_keys, of_rows, of_keys
        self.positions = {
            name: self.pad_pairs(shape(getattr(constants, name)))
            for name, shape in zip(names, shapes, strict=True)
        }

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
        if by_position and self.by_position:
            allowed = both(allowed, self.request.positions.allowed(self.pairs(block)))
        return allowed

    def all_pairs(self):
        """Returns the `keras_sam.masks.Pairs` of the whole call, with whole blocks of
        examples."""
        pairs = self.constants.pairs(
            Sizes(self.all_examples, self.heads, self.length, self.key_length, None)
        )

        def fill_up(tensor):
            return (
                tensor
                if tensor is None or tensor.shape[0] == 1
                else self.pad_examples(tensor)
            )

        names = "query", "key", "query_segments", "key_segments"
        return dataclasses.replace(pairs, **{n: fill_up(getattr(pairs, n)) for n in names})

    def pairs(self, block):
        """Returns the `keras_sam.masks.Pairs` of a block.

        Rows that fill up the last block have the position of the last row.
        """
        example, head, query, key = (block.positions(axis) for axis in range(4))
        positions = {
            name: None if tensor is None else block.of_pairs(tensor)
            for name, tensor in self.positions.items()
        }
        query_positions = positions.pop("query_positions")
        key_positions = positions.pop("key_positions")
        if self.in_a_row:
            query_positions = ops.minimum(query, self.length - 1)[None, None, :, None]
            key_positions = key[None, None, None, :]
        return Pairs(
            example=(self.constants.example_offset + example)[:, None, None, None],
            head=(self.constants.head_offset + head)[None, :, None, None],
            query=query_positions,
            key=key_positions,
            query_length=self.length,
            key_length=self.key_length,
            in_a_row=self.in_a_row,
            **positions,
        )

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
        return ops.cast(mask, wide(self.query.dtype))


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
        positions = request.positions if constants.in_a_row else Positions()
        self.reads_all = positions.allow_all
        plan = positions.plan(sizes.rows, sizes.keys, rows)
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

        of_keys = dict.fromkeys(keys, wide(self.query.dtype))
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
            if self.reads_all:
                return rows, ({n: sums[n] + parts[n] for n in sums}, carry)
            own = dataclasses.replace(block, start=(0, 0, *start[2:]))
            sums = {n: own.add_turned_keys(sums[n], parts[n]) for n in sums}
            return rows, (sums, carry)

        stacked, state = stack(one_block, group.count, state, dtypes)
        return {n: self._join_rows(x, reverse) for n, x in stacked.items()}, state

    def _zeros_of_lead(self, tensor):
        _, _, depth, length = ops.shape(tensor)
        return ops.zeros((*self.lead, depth, length), wide(tensor.dtype))

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
