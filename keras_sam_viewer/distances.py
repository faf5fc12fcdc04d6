"""How far keys are from queries, in positions of a sequence or of a grid."""

import numpy as np


def positions(shape, query_grid, key_grid):
    """Returns the coordinates of queries and keys, `(axes, T)` and `(axes, S)`, or None.

    Between a sequence and a picture there is no distance, and so None.
    """
    found = []
    for length, grid in zip(shape, (query_grid, key_grid), strict=True):
        grid = tuple(grid or (length,))
        if np.prod(grid) != length:
            return None
        found.append(np.indices(grid).reshape(len(grid), length).astype(np.float32))
    return found if len(found[0]) == len(found[1]) else None


def between(start, stop, shape, query_grid, key_grid):
    """Returns the distances of queries `start` to `stop` to all keys, float32."""
    query, key = positions(shape, query_grid, key_grid)
    query = query[:, start:stop]
    if len(query) == 1:
        return np.abs(query[0][:, None] - key[0])
    return np.sqrt(((query[:, :, None] - key[:, None]) ** 2).sum(0))
