"""Pooling with Darknet's padding, which TensorFlow's SAME is not."""

import keras
from keras import ops


def _pad(inputs, padding, value=0.0):
    (top, bottom), (left, right) = padding
    pairs = [[0, 0], [top, bottom], [left, right], [0, 0]]
    return ops.pad(inputs, pairs, constant_values=value)


@keras.saving.register_keras_serializable(package="keras_sam")
class MaxPoolingPadding2D(keras.layers.Layer):
    """Pads height and width with minus infinity, for a VALID maximum to follow.

    Args:
        padding: `((top, bottom), (left, right))`.
    """

    def __init__(self, padding, **kwargs):
        super().__init__(**kwargs)
        self.padding = tuple(tuple(pair) for pair in padding)

    def call(self, inputs):
        return _pad(inputs, self.padding, value=-float("inf"))

    def get_config(self):
        return super().get_config() | {"padding": self.padding}


@keras.saving.register_keras_serializable(package="keras_sam")
class LocalAveragePooling2D(keras.layers.Layer):
    """The mean of those cells of each window that lie inside the input.

    Args:
        pool_size: Height and width of the window.
        strides: `(vertical, horizontal)`.
        padding: `((top, bottom), (left, right))`.
    """

    def __init__(self, pool_size, strides, padding, **kwargs):
        super().__init__(**kwargs)
        self.pool_size = pool_size
        self.strides = tuple(strides)
        self.padding = tuple(tuple(pair) for pair in padding)

    def call(self, inputs):
        # Both means are over the whole window, so their quotient is over valid cells.
        ones = ops.ones_like(inputs[:1, ..., :1])
        return self._mean(inputs) / self._mean(ones)

    def get_config(self):
        return super().get_config() | {
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self.padding,
        }

    def _mean(self, inputs):
        return ops.average_pool(
            _pad(inputs, self.padding),
            self.pool_size,
            self.strides,
            padding="valid",
            data_format="channels_last",
        )
