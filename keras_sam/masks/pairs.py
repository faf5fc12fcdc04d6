"""What a mask or a step of a score knows of pairs: their positions, also by tile."""

import dataclasses
from typing import Any

from keras import ops

from keras_sam.backend.indices import indices


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The positions of pairs of a query row and a key.

    All tensors are integers (int32) with four axes, and broadcast to `(B, H, T, S)`.

    Args:
        example: The index of each example, `(B or 1, 1, 1, 1)`.
        head: The index of each head, `(1, H or 1, 1, 1)`.
        query: The position of each query row, `(B or 1, 1, T, 1)`.
        key: The position of each key, `(B or 1, 1, 1, S)`. A negative one is an empty
            slot of a cache, which no row sees, whatever a mask allows.
        query_length: The number of query rows of the whole call.
        key_length: The number of keys of the whole call.
        query_segments: The segment of each query row, in the shape of `query`, or None.
        key_segments: The segment of each key, in the shape of `key`, or None.
        in_a_row: Whether both kinds of positions grow by one from each to the next.
    """

    example: Any
    head: Any
    query: Any
    key: Any
    query_length: Any
    key_length: Any
    query_segments: Any = None
    key_segments: Any = None
    in_a_row: bool = True


def whole_call(query_length, key_length, segments=(None, None), query_start=0):
    """Returns the `Pairs` of one head of a call.

    Args:
        query_length: The number of query rows.
        key_length: The number of keys.
        segments: The segments `(B, T)` of query rows and `(B, S)` of keys, or Nones.
        query_start: The position of the first query row.
    """
    query_segments, key_segments = segments
    if query_segments is not None:
        query_segments = ops.cast(query_segments, "int32")[:, None, :, None]
        key_segments = ops.cast(key_segments, "int32")[:, None, None, :]
    nothing = ops.zeros((1, 1, 1, 1), "int32")
    return Pairs(
        example=nothing,
        head=nothing,
        query=query_start + indices(query_length)[None, None, :, None],
        key=indices(key_length)[None, None, None, :],
        query_length=query_length,
        key_length=key_length,
        query_segments=query_segments,
        key_segments=key_segments,
    )


class Bounds:
    """The smallest and the largest positions of tiles, for `Mask.any_all`.

    Tensors have four axes that broadcast to `(B, H, row tiles, key tiles)`.

    Args:
        pairs: `Pairs` of a whole call.
        rows: The number of query rows of a tile.
        keys: The number of keys of a tile.

    Attributes:
        query: The first and the last position of the query rows, a pair of tensors.
        key: The same of the keys.
        query_segments: The smallest and the largest segment of the rows, or None.
        key_segments: The same of the keys.
        query_length: The number of query rows of the whole call.
        key_length: The number of keys of the whole call.
    """

    def __init__(self, pairs, rows, keys):
        self._pairs, self._rows, self._keys = pairs, rows, keys
        self.query_length, self.key_length = pairs.query_length, pairs.key_length
        self.query = _first_and_last(pairs.query, 2, rows)
        self.key = _first_and_last(pairs.key, 3, keys)
        self.query_segments = _first_and_last(pairs.query_segments, 2, rows)
        self.key_segments = _first_and_last(pairs.key_segments, 3, keys)

    def reduce(self, allowed):
        """Returns whether any pair of each tile, and whether all pairs, are allowed.

        The pairs are looked at one by one, but only those of a few rows at a time.

        Args:
            allowed: A function of `Pairs`, such as `Mask.allowed`.
        """
        pairs, rows, keys = self._pairs, self._rows, self._keys
        key_at, columns = _indices(pairs.key, 3, keys)
        row_at, slabs = _indices(pairs.query, 2, rows)
        row_at = ops.reshape(row_at, (slabs, rows))

        def take(tensor, at, axis):
            return None if tensor is None else ops.take(tensor, at, axis=axis)

        def of_keys(tensor):
            return take(tensor, key_at, 3)

        key, key_segments = of_keys(pairs.key), of_keys(pairs.key_segments)

        def one_slab(at):
            found = allowed(
                dataclasses.replace(
                    pairs,
                    query=take(pairs.query, at, 2),
                    query_segments=take(pairs.query_segments, at, 2),
                    key=key,
                    key_segments=key_segments,
                )
            )
            found = ops.cast(found, "int32")
            shape = (*ops.shape(found)[:2], rows, columns * keys)
            found = ops.broadcast_to(found, shape)
            found = ops.reshape(found, (*shape[:2], rows, columns, keys))
            return ops.max(found, axis=(2, 4)), ops.min(found, axis=(2, 4))

        found = ops.map(one_slab, row_at)  # (row tiles, B, H, key tiles)
        return tuple(ops.moveaxis(x, 0, 2) > 0 for x in found)


def _indices(tensor, axis, size):
    """Returns the indices along an axis, filled up to whole tiles, and their number."""
    length = ops.shape(tensor)[axis]
    tiles = -(-length // size)
    return ops.minimum(indices(tiles * size), length - 1), tiles


def _first_and_last(tensor, axis, size):
    """Returns the smallest and the largest number of each tile along an axis."""
    if tensor is None:
        return None
    at, tiles = _indices(tensor, axis, size)
    tensor = ops.take(tensor, at, axis=axis)
    batch = ops.shape(tensor)[0]
    tensor = ops.reshape(tensor, (batch, 1, tiles, size))
    found = (ops.min(tensor, axis=3), ops.max(tensor, axis=3))
    return tuple(ops.expand_dims(x, 3 if axis == 2 else 2) for x in found)
