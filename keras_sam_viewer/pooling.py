"""Maps made smaller: the maximum of the cells, never the mean, so that lines stay."""

import numpy as np


class MaximumPool:
    """The maxima of cells of weights in multiples of uniform, from blocks of rows.

    Args:
        heads: The number of heads.
        rows: The number of rows, without padding.
        keys: The number of keys, without padding.
        row_stride: So many rows become one.
        key_stride: So many keys become one.
    """

    def __init__(self, heads, rows, keys, row_stride, key_stride):
        self._rows, self._keys = rows, keys
        self._strides = row_stride, key_stride
        shape = heads, -(-rows // row_stride), -(-keys // key_stride)
        self.values = np.full(shape, -1, np.float32)

    @classmethod
    def to_fit(cls, heads, rows, keys, largest):
        """Returns a pool whose sides are at most `largest` cells, each on its own."""
        return cls(heads, rows, keys, *(max(1, -(-n // largest)) for n in (rows, keys)))

    def add(self, rows):
        """Takes the next block of `Rows`."""
        row_stride, key_stride = self._strides
        count = min(rows.weights.shape[1], self._rows - rows.start)
        if count <= 0 or not self._keys:
            return
        values = rows.multiples[:, :count, : self._keys]
        cells = (rows.start + np.arange(count)) // row_stride
        starts = np.flatnonzero(np.diff(cells, prepend=-1))
        values = _maxima(values, starts, row_stride, 1)
        starts = np.arange(0, self._keys, key_stride)
        values = _maxima(values, starts, key_stride, 2)
        into = self.values[:, cells[0] : cells[-1] + 1]
        np.maximum(into, values, out=into)


def _maxima(values, starts, stride, axis):
    """The maxima of parts of an axis that begin at `starts`, `stride` long but for ends."""
    if stride == 1:
        return values
    shape = values.shape
    if len(starts) * stride != shape[axis]:
        return np.maximum.reduceat(values, starts, axis=axis)
    parts = *shape[:axis], len(starts), stride, *shape[axis + 1 :]
    return values.reshape(parts).max(axis + 1)


def pool_gate(gate, largest):
    """Returns a gate `(h, w)` with sides of at most `largest` cells, by maxima."""
    for axis in (0, 1):
        stride = -(-gate.shape[axis] // largest)
        if stride > 1:
            starts = np.arange(0, gate.shape[axis], stride)
            gate = np.maximum.reduceat(gate, starts, axis=axis)
    return gate
