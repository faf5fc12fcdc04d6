"""Layers that need channels first for a moment, because Darknet's memory is so."""

import keras
from keras import ops

from keras_sam.darknet.layers.softmax import softmax


def to_channels_first(inputs):
    """`(B, H, W, C)` to `(B, C, H, W)`."""
    return ops.transpose(inputs, (0, 3, 1, 2))


def to_channels_last(inputs):
    """`(B, C, H, W)` to `(B, H, W, C)`."""
    return ops.transpose(inputs, (0, 2, 3, 1))


@keras.saving.register_keras_serializable(package="keras_sam")
class FlattenChannelsFirst(keras.layers.Layer):
    """Makes `(B, H, W, C)` a vector `(B, 1, 1, C * H * W)`, channel after channel."""

    def call(self, inputs):
        size = inputs.shape[1] * inputs.shape[2] * inputs.shape[3]
        return ops.reshape(to_channels_first(inputs), (-1, 1, 1, size))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return (batch, 1, 1, height * width * channels)


@keras.saving.register_keras_serializable(package="keras_sam")
class Reorg(keras.layers.Layer):
    """`[reorg]`: reads the memory of a map as if it had another shape.

    A map `(C, H, W)` is read as `(C / s², H s, W s)`, whose blocks of `s x s` become
    channels, and the result is read as `(C s², H / s, W / s)`. This is no
    space to depth: a position of the output holds numbers of distant positions.

    Args:
        stride: s above.
        reverse: Whether to go to a larger map, as `reverse=1` does. It is not the
            inverse.
    """

    def __init__(self, stride, reverse=False, **kwargs):
        super().__init__(**kwargs)
        self.stride, self.reverse = stride, reverse

    def call(self, inputs):
        s, channels = self.stride, inputs.shape[-1]
        height, width = ops.shape(inputs)[1:3]
        x = to_channels_first(inputs)
        if self.reverse:
            x = ops.reshape(x, (-1, s, s, channels // s**2, height, width))
            x = ops.transpose(x, (0, 3, 4, 1, 5, 2))  # (B, C/s², H, s, W, s)
            shape = (-1, channels // s**2, height * s, width * s)
        else:
            x = ops.reshape(x, (-1, channels // s**2, height, s, width, s))
            x = ops.transpose(x, (0, 3, 5, 1, 2, 4))  # (B, s, s, C/s², H, W)
            shape = (-1, channels * s**2, height // s, width // s)
        return to_channels_last(ops.reshape(x, shape))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        s = self.stride

        def scale(size):
            if size is None:
                return None
            return size * s if self.reverse else size // s

        channels = channels // s**2 if self.reverse else channels * s**2
        return (batch, scale(height), scale(width), channels)

    def get_config(self):
        return super().get_config() | {"stride": self.stride, "reverse": self.reverse}


@keras.saving.register_keras_serializable(package="keras_sam")
class GroupedSoftmax(keras.layers.Layer):
    """`[softmax]`: `softmax(x / temperature)` over each of equal parts of the input.

    The parts are of the whole input, channel after channel: on a map the softmax runs
    over positions, too.

    Args:
        groups: The number of parts.
        temperature: What scores are divided by.
    """

    def __init__(self, groups=1, temperature=1.0, **kwargs):
        super().__init__(**kwargs)
        self.groups, self.temperature = groups, temperature

    def call(self, inputs):
        channels = inputs.shape[-1]
        height, width = ops.shape(inputs)[1:3]
        numbers = height * width * channels
        x = to_channels_first(inputs) / self.temperature
        x = ops.reshape(x, (-1, self.groups, numbers // self.groups))
        x = softmax(x)
        return to_channels_last(ops.reshape(x, (-1, channels, height, width)))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {
            "groups": self.groups,
            "temperature": self.temperature,
        }
