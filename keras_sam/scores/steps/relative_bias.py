"""Learned biases by distance.

A tile of `r` rows and `w` keys has `r + w - 1` distances, so their biases are looked up
once for each distance and then laid out: `r + w` of them, written `r` times one after the
other, cut into rows of one less, are shifted by one more in each row::

    e d c b a .  e d c b a .  e d c b a .       (r = 3, w = 3; the sixth is for the shift)
        c b a .  e
          d c b  a .           row i begins r - 1 + i (r + w - 1) further on
            e d  c b a
"""

import math

import keras
import numpy as np
from keras import ops

from keras_sam import _validation as check
from keras_sam.backend.indices import indices
from keras_sam.backend.portable import is_portable
from keras_sam.scores.base import Score


@keras.saving.register_keras_serializable(package="keras_sam")
class RelativeBias(Score):
    """Base class of steps that add a bias to scores which depends on the distance alone.

    ::

        s'_ij = s_ij + bias_h(j - i)

    Override `by_distance`.

    Call arguments:
        As of every `keras_sam.scores.Score`; it works in a list with one.

    Example:

    >>> import keras, keras_sam
    >>> @keras.saving.register_keras_serializable(package="example")
    ... class Decay(keras_sam.scores.RelativeBias):
    ...     def by_distance(self, distance, head):
    ...         distance = keras.ops.cast(keras.ops.abs(distance), "float32")
    ...         return -0.1 * distance * keras.ops.ones_like(head, "float32")
    >>> layer = keras_sam.SelfAttention(2, score=["scaled_dot", Decay()])
    >>> layer(keras.ops.ones((1, 5, 8))).shape
    TensorShape([1, 5, 8])
    """

    role = "a bias by position"

    # From this distance on, forward and backward, a bias does not change; None: it may.
    constant_from = None

    def by_distance(self, distance, head):
        """Returns the biases of some distances, in a shape that both broadcast to.

        Args:
            distance: Integer tensor, the position of a key less that of a row.
            head: Integer tensor, the indices of heads.
        """
        raise NotImplementedError

    def modify(self, scores, pairs):
        rows, keys = ops.shape(scores)[2:]
        if not pairs.in_a_row:
            bias = self.by_distance(pairs.key - pairs.query, pairs.head)
            return scores + ops.cast(bias, scores.dtype)
        first = pairs.key[:, :, :1, :1] - pairs.query[:, :, :1, :1]  # (1, 1, 1, 1)
        head = pairs.head[:, :, 0, :1]  # (1, h, 1)

        def look_up():
            distance = first[:, :, 0] + (indices(rows + keys) - (rows - 1))
            bias = ops.cast(self.by_distance(distance, head), scores.dtype)
            return scores + _lay_out(bias, rows, keys)

        if self.constant_from is None or is_portable():
            return look_up()
        least = first[0, 0, 0, 0] - (rows - 1)
        most = first[0, 0, 0, 0] + keys - 1
        far = ops.logical_or(least >= self.constant_from, most <= -self.constant_from)

        def constant():
            bias = self.by_distance(first[:, :, 0], head)  # (1, h, 1)
            return scores + ops.cast(bias, scores.dtype)[..., None]

        return ops.cond(far, constant, look_up)


def _lay_out(bias, rows, keys):
    """Returns `(1, h, rows, keys)` of biases by distance `(1, h, rows + keys)`."""
    heads = ops.shape(bias)[1]
    count = rows + keys
    flat = ops.broadcast_to(bias[:, :, None, :], (1, heads, rows, count))
    flat = ops.reshape(flat, (1, heads, rows * count))
    flat = flat[:, :, rows - 1 : rows - 1 + rows * (count - 1)]
    return ops.reshape(flat, (1, heads, rows, count - 1))[..., :keys]


@keras.saving.register_keras_serializable(package="keras_sam")
class T5Bias(RelativeBias):
    """Step: adds a learned bias for each head and each of some ranges of distances.

    ::

        s'_ij = s_ij + table[bucket(j - i), h]

    Half of the buckets (or half of that half, where both directions differ) hold one
    distance each. The others hold ranges that grow with the distance up to
    `max_distance`, beyond which all distances are alike.

    Args:
        num_buckets: The number of ranges.
        max_distance: See above.
        bidirectional: Whether keys after a row have buckets of their own; otherwise all of
            them are in the bucket of distance 0.

    Call arguments:
        As of every `keras_sam.scores.Score`; it works in a list with one.

    Example:

    >>> import keras, keras_sam
    >>> layer = keras_sam.SelfAttention(2, score=["dot", keras_sam.scores.T5Bias()])
    >>> layer(keras.ops.ones((1, 5, 8))).shape
    TensorShape([1, 5, 8])

    Reference:
        Raffel et al., 2020, "Exploring the Limits of Transfer Learning with a Unified
        Text-to-Text Transformer" (https://arxiv.org/abs/1910.10683), section 2.1.
    """

    def __init__(
        self,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.bidirectional = check.boolean("bidirectional", bidirectional)
        expected = "a multiple of 4" if bidirectional else "an even number"
        self.num_buckets = check.positive_integer("num_buckets", num_buckets)
        if self.num_buckets % (4 if bidirectional else 2):
            raise check.invalid("num_buckets", expected, num_buckets)
        self.max_distance = check.positive_integer("max_distance", max_distance)
        exact = self.num_buckets // (4 if bidirectional else 2)
        if self.max_distance <= exact:
            expected = f"an integer above {exact}, the distances with a bucket each"
            raise check.invalid("max_distance", expected, max_distance)
        self.constant_from = self.max_distance

    def build(self, query_shape, key_shape):
        self.table = self.add_weight(
            name="table",
            shape=(self.num_buckets, query_shape[1]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )

    def by_distance(self, distance, head):
        table = ops.reshape(self.table, (-1,))
        at = self.bucket(distance) * self.table.shape[1] + head
        return ops.take(table, at)

    def bucket(self, distance):
        """Returns the bucket of each distance, of a key's position less a row's."""
        half, offset = self.num_buckets, 0
        if self.bidirectional:
            half = half // 2
            offset = half * ops.cast(distance > 0, "int32")
            distance = ops.abs(distance)
        else:
            distance = ops.maximum(-distance, 0)
        by_distance = ops.convert_to_tensor(self._buckets(half))
        return ops.take(by_distance, ops.minimum(distance, self.max_distance)) + offset

    def _buckets(self, count):
        """Returns the bucket of each distance from 0 to `max_distance`, int32."""
        exact = count // 2
        distance = np.arange(self.max_distance + 1)
        # As the original computes it, in float32, which decides at the edges of ranges.
        ratio = np.log(np.maximum(distance, 1).astype("float32") / np.float32(exact))
        ratio = ratio / np.float32(math.log(self.max_distance / exact))
        grown = exact + (ratio * np.float32(count - exact)).astype("int32")
        return np.where(distance < exact, distance, np.minimum(grown, count - 1)).astype(
            "int32"
        )

    def get_config(self):
        return {
            **super().get_config(),
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
            "bidirectional": self.bidirectional,
        }
