"""Which keys a slab of query rows reads.

A slab is `rows` query rows in a row. Slabs come in groups that read equally many keys,
because compiled loops need blocks of one size::

    all keys            causal, 4 groups      causal, sliding window
    # # # # # # # #     # # . . . . . .       # # . . . . . .
    # # # # # # # #     # # . . . . . .       # # # . . . . .
    # # # # # # # #     # # # # . . . .       . # # # . . . .
    # # # # # # # #     # # # # . . . .       . . # # # . . .
    # # # # # # # #     # # # # # # . .       . . . # # # . .
    # # # # # # # #     # # # # # # . .       . . . . # # # .
    # # # # # # # #     # # # # # # # #       . . . . . # # #
    # # # # # # # #     # # # # # # # #       . . . . . . # #

All sizes may be integers or, where a length is unknown, integer tensors: compiled, they
are constants either way.
"""

import dataclasses
from typing import Any

from keras import ops

# Causal rows come in so many groups at most: the work is 1/2 + 1/(2 groups) of all.
CAUSAL_GROUPS = 8
# A group takes a second to compile, which pays where it has at least so many rows.
ROWS_PER_GROUP = 1024


@dataclasses.dataclass(frozen=True)
class Group:
    """Slabs `first` to `first + count`, each of which reads `width` keys.

    The first key that slab `i` reads is `start(i)`, or 0 where `start` is None.
    """

    first: Any
    count: Any
    width: Any
    start: Any = None


def plan(query_length, key_length, block_size, causal=False, sliding_window=None):
    """Divides the query rows into slabs and the slabs into groups.

    Args:
        query_length: How many query rows there are.
        key_length: How many keys there are.
        block_size: How many rows a slab has at most.
        causal: Whether a row attends to keys at or before its own position only.
        sliding_window: None, or attend to keys less than so many positions away.

    Returns:
        The rows of a slab, the number of slabs, and a list of `Group`. The slabs
        together may have some more rows than there are.
    """
    groups = 1
    if causal and sliding_window is None:
        groups = CAUSAL_GROUPS // 2  # where the length is unknown
        if isinstance(query_length, int):
            groups = min(max(query_length // ROWS_PER_GROUP, 1), CAUSAL_GROUPS)
    count = ceil(query_length, groups * block_size)  # slabs of a group
    rows = _round_up(ceil(query_length, groups * count), 8)
    slabs = groups * count
    if sliding_window is not None:
        reach = sliding_window - 1
        width = smaller(key_length, rows + (reach if causal else 2 * reach))
        last = key_length - width

        def start(slab):
            return ops.minimum(ops.maximum(slab * rows - reach, 0), last)

        return rows, slabs, [Group(0, slabs, width, start)]
    if not causal:
        return rows, slabs, [Group(0, slabs, key_length)]
    return (
        rows,
        slabs,
        [
            Group(i * count, count, smaller(key_length, (i + 1) * count * rows))
            for i in range(groups)
        ],
    )


def smaller(a, b):
    """The smaller of two sizes."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return ops.minimum(a, b)


def larger(a, b):
    """The larger of two sizes."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return ops.maximum(a, b)


def ceil(a, b):
    """How many times `b` it takes to hold `a`."""
    return -(-a // b)


def _round_up(a, b):
    return ceil(a, b) * b
