"""Layers that rearrange channels."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_sam")
class SliceChannels(keras.layers.Layer):
    """Keeps the channels from `start` to `stop`: one group of a grouped `[route]`."""

    def __init__(self, start, stop, **kwargs):
        super().__init__(**kwargs)
        self.start, self.stop = start, stop

    def call(self, inputs):
        return inputs[..., self.start : self.stop]

    def get_config(self):
        return super().get_config() | {"start": self.start, "stop": self.stop}


@keras.saving.register_keras_serializable(package="keras_sam")
class FitChannels(keras.layers.Layer):
    """Drops the last channels, or adds channels of zeros, until there are `channels`.

    `[shortcut]` adds layers with another number of channels this way.
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels

    def call(self, inputs):
        missing = self.channels - inputs.shape[-1]
        if missing <= 0:
            return inputs[..., : self.channels]
        return ops.pad(inputs, [[0, 0]] * (len(inputs.shape) - 1) + [[0, missing]])

    def get_config(self):
        return super().get_config() | {"channels": self.channels}


@keras.saving.register_keras_serializable(package="keras_sam")
class ChannelMaxPooling(keras.layers.Layer):
    """Channel `g` is the maximum of the channels `g, g + k, g + 2k, ...`.

    This is `[maxpool]` with `maxpool_depth=1, out_channels=k`.
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels

    def call(self, inputs):
        height, width = ops.shape(inputs)[1:3]
        missing = -inputs.shape[-1] % self.channels
        if missing:
            inputs = ops.pad(
                inputs, [[0, 0]] * 3 + [[0, missing]], constant_values=-float("inf")
            )
        turns = inputs.shape[-1] // self.channels
        inputs = ops.reshape(inputs, (-1, height, width, turns, self.channels))
        return ops.max(inputs, axis=-2)

    def get_config(self):
        return super().get_config() | {"channels": self.channels}


@keras.saving.register_keras_serializable(package="keras_sam")
class SpaceToDepth(keras.layers.Layer):
    """Moves blocks of `block_size x block_size` positions into the channels: `[reorg3d]`.

    A block's positions are the slow axis of the new channels, its channels the fast one.
    """

    def __init__(self, block_size, **kwargs):
        super().__init__(**kwargs)
        self.block_size = block_size

    def call(self, inputs):
        block, channels = self.block_size, inputs.shape[-1]
        height, width = (size // block for size in ops.shape(inputs)[1:3])
        outputs = ops.reshape(inputs, (-1, height, block, width, block, channels))
        outputs = ops.transpose(outputs, (0, 1, 3, 2, 4, 5))
        return ops.reshape(outputs, (-1, height, width, block * block * channels))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        block = self.block_size
        return (
            batch,
            None if height is None else height // block,
            None if width is None else width // block,
            channels * block * block,
        )

    def get_config(self):
        return super().get_config() | {"block_size": self.block_size}
