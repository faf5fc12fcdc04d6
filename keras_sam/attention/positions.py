"""Which keys a row may attend to by its position, and which keys a block of rows reads.

This is the one planner of causality and of sliding windows. Compiled loops need blocks of
one size, so blocks of rows come in groups that read equally many keys::

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
    """

    causal: bool = False
    sliding_window: int | None = None

    @property
    def allow_all(self):
        """Whether every pair counts."""
        return not self.causal and self.sliding_window is None

    def allowed(self, query_positions, key_positions):
        """Returns a boolean tensor `(T, S)`, or None when every pair counts.

        Args:
            query_positions: Integer tensor `(T,)`.
            key_positions: Integer tensor `(S,)`.
        """
        if self.allow_all:
            return None
        distance = ops.subtract(query_positions[:, None], key_positions[None, :])
        if self.sliding_window is None:
            return ops.greater_equal(distance, 0)
        near = ops.less(ops.abs(distance), self.sliding_window)
        if self.causal:
            near = ops.logical_and(near, ops.greater_equal(distance, 0))
        return near

    def span(self, first, last, key_length):
        """Returns which keys the rows `first` to `last` see, from their positions.

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
        if self.causal and self.sliding_window is None:
            groups = CAUSAL_GROUPS // 2  # where the length is unknown
            if isinstance(query_length, int):
                groups = min(max(query_length // ROWS_PER_GROUP, 1), CAUSAL_GROUPS)
        # A query may have no rows at all, and no block may.
        count = larger(ceil(query_length, groups * block_size), 1)  # blocks of a group
        rows = larger(_round_up(ceil(query_length, groups * count), 8), 8)
        blocks = groups * count
        if self.sliding_window is not None:
            reach = self.sliding_window - 1
            width = smaller(key_length, rows + (reach if self.causal else 2 * reach))
            return rows, blocks, [Group(0, blocks, width, reach, key_length - width)]
        if not self.causal:
            return rows, blocks, [Group(0, blocks, key_length)]
        widths = [smaller(key_length, (i + 1) * count * rows) for i in range(groups)]
        plan = [Group(i * count, count, width) for i, width in enumerate(widths)]
        return rows, blocks, plan


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
