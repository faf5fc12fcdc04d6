"""Which tiles of a call are empty, whole, or at an edge of its mask.

A row of the table lists the tiles of some rows: first those that are whole, which need no
mask, and then those at an edge. Empty ones come last and are never reached::

    Causal() & Window(5)     table, tiles of 2 x 2     order
    1 . . . . . . .          e . . .                   0 | . . .
    1 1 . . . . . .          w e . .                   0 1 | . .
    1 1 1 . . . . .          e w e .      becomes      1 0 2 | .      with 0, 1, 1, 1 whole
    1 1 1 1 . . . .          . e w e                   2 1 3 | .      and 1, 1, 2, 2 at
    1 1 1 1 1 . . .                                                   an edge
    . 1 1 1 1 1 . .
    . . 1 1 1 1 1 .
    . . . 1 1 1 1 1

The table is computed in each call, from positions and segments. It has one entry for each
tile.
"""

from keras import ops

from keras_sam.attention.positions import ceil
from keras_sam.masks import Bounds


class TileTable:
    """The tiles that each block of rows goes through.

    Args:
        pairs: `keras_sam.masks.Pairs` of the whole call, with all its examples.
        positions: `Positions`.
        rows: The number of rows of a block.
        width: The number of keys of a tile.
        lead: The numbers of examples and of heads that go through a tile together.
    """

    def __init__(self, pairs, positions, rows, width, lead):
        some, every = positions.any_all(Bounds(pairs, rows, width), pairs.in_a_row)
        rows, keys = ceil(pairs.query_length, rows), ceil(pairs.key_length, width)
        # The last tile begins early, so that it is as wide as the others, and masks what
        # the tile before it has read.
        ends = ops.arange(1, keys + 1, dtype="int32") * width
        every = ops.logical_and(every, ends <= pairs.key_length)
        some, every = (
            ops.broadcast_to(x, (*ops.shape(x)[:2], rows, keys)) for x in (some, every)
        )
        for axis, size in enumerate(lead):
            some = _together(some, axis, size, ops.any)
            every = _together(every, axis, size, ops.all)
        kind = ops.cast(some, "int32") + ops.cast(ops.logical_and(some, every), "int32")
        self.order = ops.cast(ops.argsort(-kind, axis=-1), "int32")
        whole = ops.sum(ops.cast(kind == 2, "int32"), axis=-1)
        read = ops.sum(ops.cast(kind > 0, "int32"), axis=-1)
        self.counts = ops.stack([whole, read], axis=-1)
        self.lead, self.rows = lead, rows

    def row(self, start, number):
        """Returns the tiles of a block: their order, how many are whole, and all.

        Args:
            start: The first example and the first head of the block.
            number: The index of the block among those of the same examples and heads.
        """
        at = [
            0 if tensor_size == 1 else first // size
            for first, size, tensor_size in zip(
                start, self.lead, self.order.shape[:2], strict=True
            )
        ]
        # A block may lie beyond the last row, and then does again what the last one does.
        at = *at, ops.minimum(number, self.rows - 1), 0
        order = ops.slice(self.order, at, (1, 1, 1, ops.shape(self.order)[3]))
        counts = ops.slice(self.counts, at, (1, 1, 1, 2))
        return order[0, 0, 0], counts[0, 0, 0, 0], counts[0, 0, 0, 1]


def _together(tensor, axis, size, join):
    """Joins what goes through a tile together, along an axis that may have the size 1."""
    if tensor.shape[axis] == 1 or (isinstance(size, int) and size == 1):
        return tensor
    shape = list(ops.shape(tensor))
    shape[axis : axis + 1] = [-1, size]
    return join(ops.reshape(tensor, shape), axis=axis + 1)
