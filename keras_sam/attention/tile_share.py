"""How many tiles of a mask are not empty, known before a call runs.

Small tiles follow the edges of a mask closely, and cost more for each pair. Which size is
the cheaper one follows from the share of tiles that are left::

    Window(2), T = 8    tiles of 4 x 4      tiles of 2 x 2
    1 1 . . . . . .     # # # # # # # #     # # # # . . . .
    1 1 1 . . . . .     # # # # # # # #     # # # # . . . .
    . 1 1 1 . . . .     # # # # # # # #     # # # # # # . .
    . . 1 1 1 . . .     # # # # # # # #     # # # # # # . .
    . . . 1 1 1 . .     # # # # # # # #     . . # # # # # #
    . . . . 1 1 1 .     # # # # # # # #     . . # # # # # #
    . . . . . 1 1 1     # # # # # # # #     . . . . # # # #
    . . . . . . 1 1     # # # # # # # #     . . . . # # # #
"""

import functools

from keras import ops

from keras_sam import masks
from keras_sam.backend.xla import computed_at_once
from keras_sam.masks.pairs import whole_call


@functools.lru_cache(maxsize=256)
def tile_share(positions, query_length, key_length, rows, keys):
    """Returns the share of all tiles that are not empty.

    Args:
        positions: `Positions`.
        query_length: The number of query rows.
        key_length: The number of keys.
        rows: The number of rows of a tile.
        keys: The number of keys of a tile.

    Returns:
        A number, or None where tiles depend on more than positions, or are found only by
        looking at all pairs.
    """
    mask = positions.whole
    if mask is None:
        return 1.0
    if not all(map(_has_bounds, _leaves(mask))):
        return None
    with computed_at_once():
        pairs = whole_call(query_length, key_length)
        some, _ = mask.any_all(masks.Bounds(pairs, rows, keys))
        return float(ops.mean(ops.cast(some, "float32")))


def _leaves(mask):
    """Yields the masks that are joined in a mask."""
    if not mask.parts():
        yield mask
    for part in mask.parts():
        yield from _leaves(part)


def _has_bounds(mask):
    """Returns whether a mask finds its tiles from their first and last positions."""
    own = type(mask).any_all is not masks.Mask.any_all
    return own and not mask.needs_segments
