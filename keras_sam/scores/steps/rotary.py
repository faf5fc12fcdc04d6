"""Rotary positions."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_sam import _validation as check
from keras_sam.backend.precision import wide
from keras_sam.scores.base import Score
from keras_sam.scores.steps.scaling import Scaling


@keras.saving.register_keras_serializable(package="keras_sam")
class Rotary(Score):
    """Step: turns pairs of channels by their position, so that scores depend on distances.

    ::

        f_c    = max_wavelength ^ (-2 c / D)                 for the pair of channels c
        q'     = (a cos(p f) - b sin(p f), b cos(p f) + a sin(p f))     at position p

    where `a` and `b` are the first and second half of the channels, or with
    `interleaved` every other one; and the same for keys.

    With a `grid` the first half of the channels turns by the row and the second half by
    the column of a picture, whose positions are counted row by row.

    Args:
        max_wavelength: A positive number; over `2 pi`, the longest period in positions.
        scaling: `keras_sam.scores.Linear`, `Llama3`, `YaRN`, `LongRoPE` or `Proportional`,
            most of them for sequences longer than those of training, or None.
        fraction: The share of the channels that turn, the first ones.
        interleaved: Whether a pair is two neighboring channels, as in RoFormer, instead
            of one of each half, as in GPT-NeoX and Llama.
        start: Added to all positions.
        grid: `(height, width)` of a picture, or None.

    Call arguments:
        As of every `keras_sam.scores.Score`; it works in a list with one.

    Example:

    >>> import keras, keras_sam
    >>> score = [keras_sam.scores.Rotary(), "scaled_dot"]
    >>> layer = keras_sam.SelfAttention(2, causal=True, score=score)
    >>> layer(keras.ops.ones((1, 5, 8))).shape
    TensorShape([1, 5, 8])

    References:
        Su et al., 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding"
        (https://arxiv.org/abs/2104.09864), section 3.2; Heo et al., 2024, "Rotary
        Position Embedding for Vision Transformer" (https://arxiv.org/abs/2403.13298),
        section 3.1, for two axes.
    """

    role = "rotary positions"

    def __init__(
        self,
        max_wavelength: float = 10000.0,
        scaling: Scaling | dict | None = None,
        fraction: float = 1.0,
        interleaved: bool = False,
        start: int = 0,
        grid: Sequence[int] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        above = "a number above 1"
        self.max_wavelength = check.number("max_wavelength", max_wavelength, above)
        if self.max_wavelength <= 1:
            raise check.invalid("max_wavelength", above, max_wavelength)
        if isinstance(scaling, dict):
            scaling = keras.saving.deserialize_keras_object(scaling)
        if scaling is not None and not isinstance(scaling, Scaling):
            expected = (
                "keras_sam.scores.Linear, Llama3, YaRN, LongRoPE, Proportional or None"
            )
            raise check.invalid("scaling", expected, scaling)
        self.scaling = scaling
        expected = "a number above 0, up to 1"
        self.fraction = check.number("fraction", fraction, expected)
        if not 0 < self.fraction <= 1:
            raise check.invalid("fraction", expected, fraction)
        self.interleaved = check.boolean("interleaved", interleaved)
        self.start = check.integer("start", start)
        self.grid = check_grid("grid", grid, optional=True)

    def build(self, query_shape, key_shape):
        width = round(self.fraction * query_shape[-1])
        of_axis = 2 if self.grid is None else 4
        if width % of_axis or width == 0 or query_shape[-1] != key_shape[-1]:
            raise ValueError(
                f"`key_dim` must be such that a multiple of {of_axis} channels turns. "
                f"Received: key_dim={query_shape[-1]}, fraction={self.fraction}"
            )
        self.width = width

    def encode(self, query, key, query_positions, key_positions):
        return self._turn(query, query_positions), self._turn(key, key_positions)

    def _turn(self, tensor, positions):
        given, width = tensor.dtype, self.width
        turned, rest = tensor[..., :width], tensor[..., width:]
        turned = ops.cast(turned, wide(given))
        positions = positions + self.start
        if self.grid is None:
            turned = self._turn_axis(turned, positions)
        else:
            columns, half = self.grid[1], width // 2
            by_row = self._turn_axis(turned[..., :half], positions // columns)
            by_column = self._turn_axis(turned[..., half:], positions % columns)
            turned = ops.concatenate([by_row, by_column], axis=-1)
        turned = ops.cast(turned, given)
        if width == tensor.shape[-1]:
            return turned
        return ops.concatenate([turned, rest], axis=-1)

    def _turn_axis(self, tensor, positions):
        """Turns all channels by positions `(B or 1, T)`."""
        width = tensor.shape[-1]
        plain = self.max_wavelength ** -(np.arange(0, width, 2) / width)
        magnitude, beyond = 1.0, None
        if self.scaling is not None:
            beyond = self.scaling.beyond(plain)
            plain = self.scaling.frequencies(plain, self.max_wavelength, width)
            magnitude = self.scaling.magnitude
        frequencies = ops.convert_to_tensor(plain, dtype=wide(tensor.dtype))
        if beyond is not None:
            is_long = ops.max(positions) >= self.scaling.length
            frequencies = ops.where(
                is_long, ops.convert_to_tensor(beyond, frequencies.dtype), frequencies
            )
        angles = ops.cast(positions, frequencies.dtype)[:, None, :, None] * frequencies
        cos, sin = (
            ops.cast(f(angles) * magnitude, tensor.dtype) for f in (ops.cos, ops.sin)
        )
        if self.interleaved:
            a, b = tensor[..., 0::2], tensor[..., 1::2]
        else:
            a, b = ops.split(tensor, 2, axis=-1)
        a, b = a * cos - b * sin, b * cos + a * sin
        if not self.interleaved:
            return ops.concatenate([a, b], axis=-1)
        return ops.reshape(ops.stack([a, b], axis=-1), ops.shape(tensor))

    def get_config(self):
        scaling = self.scaling
        if scaling is not None:
            scaling = keras.saving.serialize_keras_object(scaling)
        return {
            **super().get_config(),
            "max_wavelength": self.max_wavelength,
            "scaling": scaling,
            "fraction": self.fraction,
            "interleaved": self.interleaved,
            "start": self.start,
            "grid": self.grid,
        }


def check_grid(name, grid, optional=False):
    """Returns the height and the width of a picture as a tuple, or raises."""
    expected = "the height and the width of a picture" + (" or None" if optional else "")
    if grid is None and optional:
        return None
    if not isinstance(grid, list | tuple) or len(grid) != 2:
        raise check.invalid(name, expected, grid)
    if not all(check.is_integer(size) and size > 0 for size in grid):
        raise check.invalid(name, expected, grid)
    return tuple(int(size) for size in grid)
