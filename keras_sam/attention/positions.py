"""Which keys a row may attend to by its position, and which keys a block of rows reads.

This is the one planner of blocks of rows, by how far a row sees. Compiled loops need blocks
of one size, so blocks of rows come in groups that read equally many keys::

    all keys            causal, 4 groups      causal, sliding window
    # # # # # # # #     # # . . . . . .       # # . . . . . .
    # # # # # # # #     # # . . . . . .       # # # . . . . .
    # # # # # # # #     # # # # . . . .       . # # # . . . .
    # # # # # # # #     # # # # . . . .       . . # # # . . .
    # # # # # # # #     # # # # # # . .       . . . # # # . .
    # # # # # # # #     # # # # # # . .       . . . . # # # .
    # # # # # # # #     # # # # # # # #       . . . . . # # #
    # # # # # # # #     # # # # # # # #       . . . . . . # #

All sizes may be integers or, where a length is unknown, integer tensors.
"""

import dataclasses
from typing import Any

from keras import ops

from keras_sam import masks
from keras_sam.masks.base import narrower
from keras_sam.normalizers.masking import both

# A causal request has at most so many groups: its work is 1/2 + 1/(2 groups) of all pairs.
CAUSAL_GROUPS = 8
# A group takes a second to compile, which pays where it has at least so many rows.
ROWS_PER_GROUP = 1024


@dataclasses.dataclass(frozen=True)
class Group:
    """Blocks `first` to `first + count`, each of which reads `width` keys.

    Args:
        first: The index of the first block.
        count: The number of blocks.
        width: The number of keys that each block reads.
        reach: None if each block reads from key 0 on. Otherwise how far before its
            first row a block begins to read.
        last: The last key at which a block may begin to read.
    """

    first: Any
    count: Any
    width: Any
    reach: Any = None
    last: Any = 0

    def first_key(self, first_row):
        """Returns the first key that a block reads, from its first row."""
        if self.reach is None:
            return 0
        return ops.minimum(ops.maximum(first_row - self.reach, 0), self.last)


@dataclasses.dataclass(frozen=True)
class Positions:
    """Which pairs of a query position and a key position count.

    ::

        causal             sliding_window=2   both
        1 . . . .          1 1 . . .          1 . . . .
        1 1 . . .          1 1 1 . .          1 1 . . .
        1 1 1 . .          . 1 1 1 .          . 1 1 . .
        1 1 1 1 .          . . 1 1 1          . . 1 1 .
        1 1 1 1 1          . . . 1 1          . . . 1 1

    Args:
        causal: Whether a row attends only to keys at or before its own position.
        sliding_window: None, or a row attends only to keys less than this many
            positions away.
        mask: None, or a `keras_sam.masks.Mask` that has to allow a pair as well.
    """

    causal: bool = False
    sliding_window: int | None = None
    mask: masks.Mask | None = None

    @classmethod
    def of(cls, mask, causal=False, sliding_window=None):
        """Returns the positions of a mask, of which the simple parts are told apart.

        Args:
            mask: A `keras_sam.masks.Mask`, or None.
            causal: Whether a row also attends only to keys at or before its position.
            sliding_window: None, or the width of a window beside the mask.
        """
        rest = None
        for part in _conjuncts(mask):
            if part == masks.Causal():
                causal = True
            elif isinstance(part, masks.Window):
                sliding_window = narrower(sliding_window, part.size)
            else:
                rest = part if rest is None else rest & part
        return cls(causal, sliding_window, rest)

    @property
    def allow_all(self):
        """Whether every pair counts."""
        return self.is_simple and not self.causal and self.sliding_window is None

    @property
    def is_simple(self):
        """Whether causality and a window are all."""
        return self.mask is None

    @property
    def whole(self):
        """All of it as one mask, or None when every pair counts."""
        mask = self.mask
        if self.sliding_window is not None:
            window = masks.Window(self.sliding_window)
            mask = window if mask is None else window & mask
        if self.causal:
            mask = masks.Causal() if mask is None else masks.Causal() & mask
        return mask

    @property
    def needs_segments(self):
        """Whether a call needs segments."""
        return not self.is_simple and self.mask.needs_segments

    def reach(self):
        """Returns how many positions a row sees back and ahead, None for no end."""
        return (None, None) if self.allow_all else self.whole.reach()

    def allowed(self, pairs):
        """Returns which pairs count, a boolean of four axes, or None for all of them.

        Args:
            pairs: `keras_sam.masks.Pairs`.
        """
        allowed = None
        if self.causal or self.sliding_window is not None:
            distance = ops.subtract(pairs.query, pairs.key)
        if self.sliding_window is not None:
            allowed = ops.less(ops.abs(distance), self.sliding_window)
        if self.causal:
            allowed = both(allowed, ops.greater_equal(distance, 0))
        if self.mask is not None:
            allowed = both(allowed, self.mask.allowed(pairs))
        if not pairs.in_a_row:  # a slot of a cache may be empty
            allowed = both(allowed, ops.greater_equal(pairs.key, 0))
        return allowed

    def any_all(self, bounds, in_a_row=True):
        """Returns whether any pair of each tile counts, and whether all pairs do.

        Args:
            bounds: `keras_sam.masks.Bounds`.
            in_a_row: Whether positions grow by one from each key to the next.
        """
        whole = self.whole
        some = every = ops.ones((1, 1, 1, 1), "bool")
        if whole is not None:
            some, every = whole.any_all(bounds)
        if not in_a_row:
            first_key, last_key = bounds.key
            some = ops.logical_and(some, last_key >= 0)
            every = ops.logical_and(every, first_key >= 0)
        return some, every

    def span(self, first, last, key_length):
        """Returns which keys the rows `first` to `last` see, from their positions.

        Only where `is_simple`.

        Returns:
            The first key that any row sees, the end of the keys from 0 on that every row
            sees (0 with a window), and the end of the keys that any row sees.
        """
        end = key_length
        if self.sliding_window is not None:
            begin = larger(first - self.sliding_window + 1, 0)
            ahead = 0 if self.causal else self.sliding_window - 1
            return begin, begin, smaller(last + ahead + 1, key_length)
        if self.causal:
            return 0, smaller(first + 1, key_length), smaller(last + 1, key_length)
        return 0, end, end

    def plan(self, query_length, key_length, block_size):
        """Divides the query rows into blocks and the blocks into groups.

        Args:
            query_length: The number of query rows.
            key_length: The number of keys.
            block_size: The largest number of rows of a block.

        Returns:
            The rows of a block, the number of blocks, and a list of `Group`. The blocks
            together may have some more rows than the query.
        """
        groups = 1
        back, ahead = self.reach()
        if ahead == 0 and back is None:
            groups = CAUSAL_GROUPS // 2  # where the length is unknown
            if isinstance(query_length, int):
                groups = min(max(query_length // ROWS_PER_GROUP, 1), CAUSAL_GROUPS)
        # A query may have no rows at all, and no block may.
        count = larger(ceil(query_length, groups * block_size), 1)  # blocks of a group
        rows = larger(_round_up(ceil(query_length, groups * count), 8), 8)
        blocks = groups * count
        if back is not None and ahead is not None:
            width = smaller(key_length, rows + back + ahead)
            return rows, blocks, [Group(0, blocks, width, back, key_length - width)]
        if ahead != 0:
            return rows, blocks, [Group(0, blocks, key_length)]
        widths = [smaller(key_length, (i + 1) * count * rows) for i in range(groups)]
        plan = [Group(i * count, count, width) for i, width in enumerate(widths)]
        return rows, blocks, plan


def _conjuncts(mask):
    """Yields the masks that all have to allow a pair, of one that `&` made."""
    if isinstance(mask, masks.And):
        for part in mask.parts():
            yield from _conjuncts(part)
    elif mask is not None:
        yield mask


def smaller(a, b):
    """Returns the smaller of two sizes."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return ops.minimum(a, b)


def larger(a, b):
    """Returns the larger of two sizes."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return ops.maximum(a, b)


def ceil(a, b):
    """Returns how many times `b` is needed to hold `a`."""
    return -(-a // b)


def _round_up(a, b):
    return ceil(a, b) * b
