"""Spatial attention as in YOLOv4: a weight for every number of a feature map."""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_sam.gates.convolution import masked
from keras_sam.layers._pooled_gate import ConvolutionalGate


@keras.saving.register_keras_serializable(package="keras_sam")
class PointwiseSpatialAttention(ConvolutionalGate):
    """Weighs each channel of each position, by a convolution of the features.

    ```
    weights = mask * sigmoid(convolution(mask * inputs))     C maps
    output  = inputs * weights
    ```

    This is `SpatialAttention` without the pooling, so that each channel has a map of its
    own. It has `C * C` weights for each tap, and takes the time of a convolution.

    Args:
        kernel_size: Taps of the convolution: an integer for all spatial axes, or a tuple
            of one for each. The border is padded with zeros to the same size; of an even
            number of taps one more looks to the right (below), as everywhere in Keras.
        dilation_rate: Distance of the taps, like `kernel_size`.
        use_bias: Whether the convolution has a bias.
        use_batch_norm: Whether to normalize the scores over the batch, as the networks
            that were published with YOLOv4 do. The bias is of no use then.
        data_format: `"channels_last"`, `"channels_first"` or None for Keras's default.
            Both run on every device. Weights and maps have the channels last.
        kernel_initializer: For the convolution.
        kernel_regularizer: For the convolution.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor `(B, L, C)`, `(B, height, width, C)` or `(B, depth, height, width,
            C)`; with channels first `(B, C, ...)`. Sizes may be unknown when the layer
            is built, but for `C`.
        mask: Boolean, the shape of `inputs` without channels, False for padding; Keras
            hands over the mask of an `Embedding` or `Masking` layer by itself.
        return_attention_scores: Whether to return the weights as well.
        training: Whether batch normalization takes its statistics from the batch.

    Masking:
        Padding enters the convolution as zeros and has weights of exactly zero. The mask
        is passed on.

    Output shape:
        The shape of `inputs`; with `return_attention_scores=True` also the weights,
        `(B, *spatial, C)`.

    Raises:
        ValueError: For an argument out of range, when the layer is made; for inputs or
            masks whose shapes do not fit, when it is built or called.

    Example:

    >>> import keras, keras_sam
    >>> layer = keras_sam.layers.PointwiseSpatialAttention(use_batch_norm=True)
    >>> layer(keras.ops.ones((2, 13, 13, 8))).shape
    TensorShape([2, 13, 13, 8])

    Reference:
        Bochkovskiy et al., 2020, "YOLOv4: Optimal Speed and Accuracy of Object Detection"
        (https://arxiv.org/abs/2004.10934), figure 5b.
    """

    kind = "pointwise_spatial"

    def __init__(
        self,
        kernel_size: int | Sequence[int] = 1,
        dilation_rate: int | Sequence[int] = 1,
        use_bias: bool = True,
        use_batch_norm: bool = False,
        data_format: str | None = None,
        kernel_initializer: str | Callable = "glorot_uniform",
        kernel_regularizer: str | Callable | None = None,
        **kwargs,
    ):
        super().__init__(
            kernel_size=kernel_size,
            dilation_rate=dilation_rate,
            use_bias=use_bias,
            use_batch_norm=use_batch_norm,
            data_format=data_format,
            kernel_initializer=kernel_initializer,
            kernel_regularizer=kernel_regularizer,
            **kwargs,
        )

    def build(self, input_shape):
        channels, _ = self._check_inputs(input_shape)
        self._build_convolution(input_shape, channels=channels, filters=channels)

    def _gate(self, inputs, mask, training):
        axis = self._channel_axis
        maps = inputs if axis == -1 else ops.moveaxis(inputs, axis, -1)
        scores = self.convolution(masked(maps, mask))  # (B, *spatial, C)
        scores = self._normalize_batch(scores, mask, training)
        weights = masked(ops.sigmoid(scores), mask)
        return ops.multiply(inputs, self._as_factor(weights)), weights

    def _weights_shape(self, input_shape):
        channels = input_shape[self._channel_axis]
        return (input_shape[0], *self._grid(input_shape), channels)
