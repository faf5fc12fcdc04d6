"""Rotary positions that are not those of rows and keys, as some models have them."""

import contextlib
import contextvars

import keras
from keras import ops

from keras_sam import scores

_given = contextvars.ContextVar("keras_sam_given_positions", default=None)


@contextlib.contextmanager
def given(positions):
    """Lets `GivenRotary` take integers `(B, T)`, or None, as the positions of all rows."""
    token = _given.set(positions)
    try:
        yield
    finally:
        _given.reset(token)


@keras.saving.register_keras_serializable(package="keras_sam")
class GivenRotary(scores.Rotary):
    """Rotary positions that a model hands to its layers, or else those of the rows.

    Example:

    >>> import keras_sam
    >>> from keras_sam.convert.hub.positions import GivenRotary
    >>> layer = keras_sam.SelfAttention(2, score=[GivenRotary(), "scaled_dot"])
    """

    def encode(self, query, key, query_positions, key_positions):
        positions = _given.get()
        if positions is not None:
            query_positions = key_positions = ops.cast(positions, "int32")
        return super().encode(query, key, query_positions, key_positions)


@keras.saving.register_keras_serializable(package="keras_sam")
class OwnRotary(scores.Rotary):
    """Rotary positions of the first keys, as many as rows; the others stay as they are.

    That is of a layer whose keys are its own rows and, behind them, a second sequence.

    Example:

    >>> import keras_sam
    >>> from keras_sam.convert.hub.positions import OwnRotary
    >>> layer = keras_sam.CrossAttention(2, score=[OwnRotary(), "scaled_dot"])
    """

    def encode(self, query, key, query_positions, key_positions):
        own = key_positions < ops.shape(query)[2]
        key_positions = ops.where(own, key_positions, ops.zeros_like(key_positions))
        return super().encode(query, key, query_positions, key_positions)
