"""Packed documents."""

import dataclasses

import keras
from keras import ops

from keras_sam.masks.base import Mask


@keras.saving.register_keras_serializable(package="keras_sam")
@dataclasses.dataclass(frozen=True)
class Segments(Mask):
    """A row sees its own segment, as documents that are packed into one row need.

    ::

        allowed(i, j) = segment_i = segment_j

        segments       Segments()        Causal() & Segments()
        0              1 1 . . .         1 . . . .
        0              1 1 . . .         1 1 . . .
        1              . . 1 1 1         . . 1 . .
        1              . . 1 1 1         . . 1 1 .
        1              . . 1 1 1         . . 1 1 1

    The segments are integers that come with each call: `layer(x, segment_ids=...)`.
    Segments in a row, in growing or falling order, let tiles be skipped.

    Example:

    >>> import keras, keras_sam
    >>> layer = keras_sam.SelfAttention(2, mask=keras_sam.masks.Segments())
    >>> ids = keras.ops.array([[0, 0, 0, 1, 1]])
    >>> layer(keras.random.normal((1, 5, 8)), segment_ids=ids).shape
    TensorShape([1, 5, 8])

    Reference: [Raffel et al. 2020](https://arxiv.org/abs/1910.10683) (T5), section 3.1,
    packs documents; [Krell et al. 2021](https://arxiv.org/abs/2107.02027), section 3.2,
    masks them so.
    """

    needs_segments = True

    def allowed(self, pairs):
        return ops.equal(pairs.query_segments, pairs.key_segments)

    def any_all(self, bounds):
        (least, most) = bounds.query_segments
        (least_key, most_key) = bounds.key_segments
        some = ops.logical_and(least <= most_key, least_key <= most)
        one = ops.logical_and(least == most, least_key == most_key)
        return some, ops.logical_and(one, least == least_key)
