"""CBAM: channel attention and spatial attention together."""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam.layers._masks import keras_mask
from keras_sam.layers._pooled_gate import Gate
from keras_sam.layers.channel_attention import ChannelAttention
from keras_sam.layers.spatial_attention import SpatialAttention

_ORDERS = (("channel", "spatial"), ("spatial", "channel"), "parallel")


@keras.saving.register_keras_serializable(package="keras_sam")
class CBAM(Gate):
    """Weighs the channels of a feature map, then its positions.

    ```
    refined = inputs * channel_weights(inputs)
    output = refined * spatial_weights(refined)
    ```

    In a residual block, the layer goes behind the last convolution, before the addition.

    Args:
        reduction: See `ChannelAttention`.
        kernel_size: See `SpatialAttention`.
        pooling: `"max"`, `"mean"` or a tuple of them, for both.
        order: `("channel", "spatial")` as above, which the paper finds best,
            `("spatial", "channel")`, or `"parallel"`: both are made of the inputs.
        use_batch_norm: Whether the scores of the positions are normalized over the batch,
            as in the authors' code.
        data_format: `"channels_last"`, `"channels_first"` or None for Keras's default.
        kernel_initializer: For all kernels.
        kernel_regularizer: For all kernels.
        normalizer: See `ChannelAttention` and `SpatialAttention`; for both. Anything but
            sigmoids makes the weights sum to one, over all channels and over all
            positions.
        hidden_units, activation, use_bias: See `ChannelAttention`.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    For other arguments of the two, call `ChannelAttention` and `SpatialAttention` in turn.

    Call arguments:
        inputs: Tensor `(B, L, C)`, `(B, height, width, C)` or `(B, depth, height, width,
            C)`; with channels first `(B, C, ...)`. Sizes may be unknown when the layer
            is built, but for `C`.
        mask: Boolean, the shape of `inputs` without channels, False for padding; Keras
            hands over the mask of an `Embedding` or `Masking` layer by itself.
        return_attention_scores: Whether to return the weights as well.
        training: Whether batch normalization takes its statistics from the batch.

    Masking:
        Padding feeds neither pooling nor convolution and is set to zero. The mask is
        passed on.

    Output shape:
        The shape of `inputs`; with `return_attention_scores=True` also a dictionary of
        the weights, `"channel"`, `(B, ..., C)`, and `"spatial"`, `(B, *spatial, 1)`.
        `record_attention` has both too, under the paths of the two sublayers.

    Raises:
        ValueError: For an argument out of range, when the layer is made; for inputs or
            masks whose shapes do not fit, when it is built or called.

    Example:

    >>> import keras, keras_sam
    >>> inputs = keras.Input((32, 32, 64))
    >>> x = keras.layers.Conv2D(64, 3, padding="same", activation="relu")(inputs)
    >>> x = keras.layers.Conv2D(64, 3, padding="same")(x)
    >>> x = keras_sam.layers.CBAM()(x)
    >>> x = keras.layers.Activation("relu")(keras.layers.add([inputs, x]))

    Reference:
        Woo et al., 2018, "CBAM: Convolutional Block Attention Module"
        (https://arxiv.org/abs/1807.06521), eq. 1 and table 3.
    """

    def __init__(
        self,
        reduction: int = 16,
        kernel_size: int | Sequence[int] = 7,
        pooling: str | Sequence[str] = ("max", "mean"),
        order: str | Sequence[str] = ("channel", "spatial"),
        use_batch_norm: bool = False,
        data_format: str | None = None,
        kernel_initializer: str | Callable = "glorot_uniform",
        kernel_regularizer: str | Callable | None = None,
        normalizer: str | Callable = "sigmoid",
        hidden_units: int | None = None,
        activation: str | Callable | None = "relu",
        use_bias: bool = True,
        **kwargs,
    ):
        super().__init__(data_format=data_format, **kwargs)
        order = tuple(order) if isinstance(order, list) else order
        self.order = check.one_of("order", order, _ORDERS)
        shared = {
            "pooling": pooling,
            "normalizer": normalizer,
            "data_format": data_format,
            "kernel_initializer": kernel_initializer,
            "kernel_regularizer": kernel_regularizer,
            "dtype": self.dtype_policy,
        }
        self.channel_attention = ChannelAttention(
            reduction,
            hidden_units=hidden_units,
            activation=activation,
            use_bias=use_bias,
            name="channel_attention",
            **shared,
        )
        self.spatial_attention = SpatialAttention(
            kernel_size, use_batch_norm=use_batch_norm, name="spatial_attention", **shared
        )

    def build(self, input_shape):
        self._check_inputs(input_shape)
        self.channel_attention.build(input_shape)
        self.spatial_attention.build(input_shape)

    def call(self, inputs, mask=None, return_attention_scores=False, training=None):
        mask = keras_mask(inputs, mask, len(inputs.shape) - 1)
        inputs = ops.cast(inputs, self.compute_dtype)  # pictures may be integers
        self._check_mask(mask, inputs.shape)
        inputs = self._without_padding(inputs, mask)
        run = self._in_parallel if self.order == "parallel" else self._in_turn
        outputs, weights = run(inputs, mask, training)
        return (outputs, weights) if return_attention_scores else outputs

    def _in_turn(self, inputs, mask, training):
        """One after the other, as one function to compile."""
        layers = [getattr(self, f"{name}_attention") for name in self.order]
        outputs, weights = self._weigh(inputs, layers, mask, training)
        for layer, each in zip(layers, weights, strict=True):
            layer._record(each, inputs)
        return outputs, dict(zip(self.order, weights, strict=True))

    def _in_parallel(self, inputs, mask, training):
        options = {"mask": mask, "return_attention_scores": True, "training": training}
        outputs, channel = self.channel_attention(inputs, **options)
        _, spatial = self.spatial_attention(inputs, **options)
        outputs = ops.multiply(outputs, self._as_factor(spatial))
        return outputs, {"channel": channel, "spatial": spatial}

    def _weights_spec(self, inputs):
        return {
            name: getattr(self, f"{name}_attention")._weights_spec(inputs)
            for name in ("channel", "spatial")
        }

    def get_config(self):
        spatial = self.spatial_attention.get_config()
        channel = self.channel_attention.get_config()
        names = "kernel_size", "pooling", "normalizer", "use_batch_norm"
        names += "kernel_initializer", "kernel_regularizer"
        channel_names = "reduction", "hidden_units", "activation", "use_bias"
        return {
            **super().get_config(),
            **{name: spatial[name] for name in names},
            **{name: channel[name] for name in channel_names},
            "order": self.order,
        }
