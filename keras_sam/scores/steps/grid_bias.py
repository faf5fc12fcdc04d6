"""Learned biases by the distance in a picture."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_sam.scores.base import Score
from keras_sam.scores.steps.rotary import check_grid


@keras.saving.register_keras_serializable(package="keras_sam")
class GridBias(Score):
    """Step: adds a learned bias for each head and each distance in rows and columns.

    ::

        s'_ij = s_ij + table[y_j - y_i, x_j - x_i, h]

    The positions of a picture are counted row by row.

    Args:
        grid: `(height, width)` of the picture, or of a window of it.

    Call arguments:
        As of every `keras_sam.scores.Score`; it works in a list with one.

    Example:

    >>> import keras, keras_sam
    >>> score = ["scaled_dot", keras_sam.scores.GridBias((4, 4))]
    >>> layer = keras_sam.SelfAttention(2, score=score)
    >>> layer(keras.ops.ones((1, 4, 4, 8))).shape
    TensorShape([1, 4, 4, 8])

    Reference:
        Liu et al., 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted
        Windows" (https://arxiv.org/abs/2103.14030), section 3.2, eq. 4.
    """

    role = "a bias by position"

    def __init__(self, grid: Sequence[int], **kwargs):
        super().__init__(**kwargs)
        self.grid = check_grid("grid", grid)

    def build(self, query_shape, key_shape):
        height, width = self.grid
        for name, shape in (("query", query_shape), ("key", key_shape)):
            if shape[-2] is not None and shape[-2] > height * width:
                raise ValueError(
                    f"`grid` must have a position for each {name}. "
                    f"Received: grid={self.grid}, for {shape[-2]} positions"
                )
        self.table = self.add_weight(
            name="table",
            shape=((2 * height - 1) * (2 * width - 1), query_shape[1]),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        )

    def modify(self, scores, pairs):
        height, width = self.grid
        last = height * width - 1
        query, key = (ops.clip(x, 0, last) for x in (pairs.query, pairs.key))
        rows = key // width - query // width + (height - 1)
        columns = key % width - query % width + (width - 1)
        at = (rows * (2 * width - 1) + columns) * self.table.shape[1] + pairs.head
        bias = ops.take(ops.reshape(self.table, (-1,)), at)
        return scores + ops.cast(bias, scores.dtype)

    def get_config(self):
        return {**super().get_config(), "grid": self.grid}
