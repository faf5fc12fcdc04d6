"""Layers that choose positions, or treat each one differently."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="keras_sam")
class CenterCrop(keras.layers.Layer):
    """`[crop]` at inference: the centre of a picture, from `[0, 1]` to `[-1, 1]`.

    Args:
        height: Rows that stay.
        width: Columns that stay.
        rescale: Whether values become `2 x - 1`.
    """

    def __init__(self, height, width, rescale=True, **kwargs):
        super().__init__(**kwargs)
        self.height, self.width, self.rescale = height, width, rescale

    def call(self, inputs):
        height, width = ops.shape(inputs)[1:3]
        top, left = (height - self.height) // 2, (width - self.width) // 2
        inputs = inputs[:, top : top + self.height, left : left + self.width]
        return 2 * inputs - 1 if self.rescale else inputs

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.height, self.width, input_shape[-1])

    def get_config(self):
        return super().get_config() | {
            "height": self.height,
            "width": self.width,
            "rescale": self.rescale,
        }


@keras.saving.register_keras_serializable(package="keras_sam")
class UnequalSum(keras.layers.Layer):
    """`[shortcut]` between sizes that differ, as pjreddie's Darknet adds them.

    ```
    output[j * sample, i * sample, k] = (
        alpha * x[...] + beta * source[j * stride, i * stride, k]
    )
    ```

    for j, i and k below the smaller height, width and number of channels; every other
    number is that of `x`.

    Args:
        stride: The step in the source.
        sample: The step in `x`.
        alpha: The factor of `x`.
        beta: The factor of the source.

    Call arguments:
        inputs: `[x, source]`, both `(B, H, W, C)` of known sizes.
    """

    def __init__(self, stride, sample, alpha=1.0, beta=1.0, **kwargs):
        super().__init__(**kwargs)
        self.stride, self.sample = stride, sample
        self.alpha, self.beta = alpha, beta

    def call(self, inputs):
        x, source = inputs
        sizes = x.shape[1:]
        rows, columns, channels = map(min, sizes, source.shape[1:])
        step = self.stride
        source = source[:, : rows * step : step, : columns * step : step, :channels]
        scale = np.ones((1, *sizes))
        step = self.sample
        scale[:, : rows * step : step, : columns * step : step, :channels] = self.alpha
        x = x * ops.convert_to_tensor(scale, dtype=x.dtype)
        return x + self.beta * self._spread(source, sizes)

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return super().get_config() | {
            "stride": self.stride,
            "sample": self.sample,
            "alpha": self.alpha,
            "beta": self.beta,
        }

    def _spread(self, source, sizes):
        """Puts the cells `sample` apart on a map of zeros."""
        gap = self.sample - 1
        _, rows, columns, channels = source.shape
        x = ops.reshape(source, (-1, rows, 1, columns, 1, channels))
        x = ops.pad(x, [[0, 0], [0, 0], [0, gap], [0, 0], [0, gap], [0, 0]])
        rows, columns = rows * self.sample, columns * self.sample
        x = ops.reshape(x, (-1, rows, columns, channels))[:, : sizes[0], : sizes[1]]
        missing = [[0, size - own] for size, own in zip(sizes, x.shape[1:], strict=True)]
        return ops.pad(x, [[0, 0], *missing])


@keras.saving.register_keras_serializable(package="keras_sam")
class LocalConv2D(keras.layers.Layer):
    """`[local]`: a VALID convolution with a kernel and a bias for each position.

    Args:
        filters: The number of filters.
        kernel_size: Height and width of the window.
        stride: Its step.
    """

    def __init__(self, filters, kernel_size, stride=1, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.stride = filters, kernel_size, stride

    def build(self, input_shape):
        _, height, width, _ = self.compute_output_shape(input_shape)
        size, channels = self.kernel_size, input_shape[-1]
        fan_in = size * size * channels
        self.kernel = self.add_weight(
            name="kernel",
            shape=(height, width, size, size, channels, self.filters),
            initializer=keras.initializers.RandomNormal(stddev=(2 / fan_in) ** 0.5),
        )
        self.bias = self.add_weight(
            name="bias", shape=(height, width, self.filters), initializer="zeros"
        )

    def call(self, inputs):
        rows, columns = self.bias.shape[:2]
        step = self.stride
        outputs = ops.cast(self.bias, inputs.dtype)[None]
        for n in range(self.kernel_size):
            for m in range(self.kernel_size):
                cells = inputs[:, n::step, m::step][:, :rows, :columns]
                kernel = ops.cast(self.kernel[:, :, n, m], inputs.dtype)
                outputs = outputs + ops.einsum("bijc,ijcf->bijf", cells, kernel)
        return outputs

    def compute_output_shape(self, input_shape):
        batch, *lengths, _ = input_shape
        outputs = [(size - self.kernel_size) // self.stride + 1 for size in lengths]
        return (batch, *outputs, self.filters)

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "stride": self.stride,
        }
