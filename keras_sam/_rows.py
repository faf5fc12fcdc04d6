"""Weights of long sequences, of which any rows can be had, but which are never whole."""

import keras
import numpy as np


class RowsOnDemand:
    """Attention weights, or a mask of pairs, of which rows are computed when needed.

    Queries, keys and masks were recorded. Read the rows before the weights of the layer
    change, for example by training.

    `np.asarray(rows)` computes everything, block by block.

    Args:
        shape: The sizes `(B, H, T, S)`; of allowed pairs the first two may be 1.
        dtype: The name of the dtype.
        compute: A function `(start, stop) -> tensor` for query rows, whose result
            broadcasts to `(B, H, stop - start, S)`.

    Example:

    >>> import numpy as np, keras_sam
    >>> layer = keras_sam.SelfAttention(num_heads=2, causal=True)
    >>> with keras_sam.record_attention(max_entries=1000) as maps:
    ...     outputs = layer(np.ones((1, 50, 8)), training=False)
    >>> maps[layer.path].shape
    (1, 2, 50, 50)
    >>> maps[layer.path].rows(40, 43).shape
    (1, 2, 3, 50)
    """

    def __init__(self, shape, dtype, compute):
        self.shape = tuple(shape)
        self.dtype = dtype
        self._compute = compute

    def rows(self, start, stop):
        """Returns the query rows `start` to `stop`, excluded, as a NumPy array."""
        if not 0 <= start <= stop <= self.shape[2]:
            raise ValueError(
                f"`start` and `stop` must be in order, from 0 to {self.shape[2]}. "
                f"Received: start={start}, stop={stop}"
            )
        values = keras.ops.convert_to_numpy(self._compute(start, stop))
        return np.broadcast_to(values, (*self.shape[:2], stop - start, self.shape[3]))

    def __array__(self, dtype=None, copy=None):
        whole = np.empty(self.shape, np.dtype(dtype or self.dtype))
        queries = self.shape[2]
        step = max(1, 2**24 * queries // max(1, whole.size))
        for start in range(0, queries, step):
            stop = min(queries, start + step)
            whole[:, :, start:stop] = self.rows(start, stop)
        return whole

    def __repr__(self):
        return f"<RowsOnDemand shape={self.shape} dtype={self.dtype}>"
