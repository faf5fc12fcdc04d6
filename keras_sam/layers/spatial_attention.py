"""Spatial attention as in CBAM: which positions of a feature map matter?"""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_sam import normalizers
from keras_sam.gates.convolution import PositionWeights
from keras_sam.gates.pooled import PooledGate, Rule
from keras_sam.layers._pooled_gate import ConvolutionalGate, pooling_names


@keras.saving.register_keras_serializable(package="keras_sam")
class SpatialAttention(ConvolutionalGate):
    """Weighs the positions of a feature map by features that are pooled over channels.

    ```
    pooled  = [max over C; mean over C]                      2 maps
    weights = mask * normalizer(convolution(mask * pooled))  1 map
    output  = inputs * weights
    ```

    Works on sequences, images and volumes. With `normalizer="sigmoid"` each position has
    a weight of its own between 0 and 1. Softmax, sparsemax and entmax make the weights of
    an example sum to one over all positions. The product is not scaled up again: it is
    smaller than the inputs by about the number of positions, and its **sum** over the
    positions is their weighted mean.

    Args:
        kernel_size: Taps of the convolution: an integer for all spatial axes, or a tuple
            of one for each. The border is padded with zeros to the same size; of an even
            number of taps one more looks to the right (below), as everywhere in Keras.
            A kernel may be larger than the map: what lies outside is zero.
        pooling: `"max"`, `"mean"` or a tuple of them, in the order of the channels of
            the kernel.
        normalizer: A name, `"sigmoid"`, `"hard_sigmoid"`, `"softmax"`, `"sparsemax"` or
            `"entmax"`, or an instance from `keras_sam.normalizers` or of your own
            registered class. It is called on all positions of an example as one row.
        dilation_rate: Distance of the taps, like `kernel_size`.
        use_bias: Whether the convolution has a bias. The paper has none.
        use_batch_norm: Whether to normalize the scores over the batch, as the authors'
            code does. The bias is of no use then.
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
        Padding enters the convolution as zeros, as what lies beyond the border does, and
        has a weight of exactly zero; the others are normalized without it. So padding
        changes no result. The mask is passed on. float16 and bfloat16 layers normalize
        in float32.

    Output shape:
        The shape of `inputs`; with `return_attention_scores=True` also the weights,
        `(B, *spatial, 1)`.

    Raises:
        ValueError: For an argument out of range, when the layer is made; for inputs or
            masks whose shapes do not fit, when it is built or called.

    Example:

    >>> import keras, keras_sam
    >>> inputs = keras.Input((28, 28, 1))
    >>> x = keras.layers.Conv2D(16, 3, activation="relu")(inputs)
    >>> x, weights = keras_sam.layers.SpatialAttention()(x, return_attention_scores=True)
    >>> x.shape, weights.shape
    ((None, 26, 26, 16), (None, 26, 26, 1))

    Reference:
        Woo et al., 2018, "CBAM: Convolutional Block Attention Module"
        (https://arxiv.org/abs/1807.06521), eq. 3.
    """

    kind = "spatial"

    def __init__(
        self,
        kernel_size: int | Sequence[int] = 7,
        pooling: str | Sequence[str] = ("max", "mean"),
        normalizer: str | Callable = "sigmoid",
        dilation_rate: int | Sequence[int] = 1,
        use_bias: bool = False,
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
        self.pooling = pooling_names(pooling)
        self.normalizer = normalizers.get(normalizer)

    def build(self, input_shape):
        self._build_convolution(input_shape, channels=len(self.pooling), filters=1)

    def _pooling_gate(self, inputs, mask, training):
        def finish(scores):
            return self._normalize_batch(scores, mask, training)

        convolution, pure = self.convolution, self.batch_norm is None
        rate = convolution.dilation_rate
        weigh = PositionWeights(self.normalizer, rate, None if pure else finish)
        rule = Rule(weigh, self.pooling, (self._channel_axis % len(inputs.shape),))
        variables = (convolution.kernel, convolution.bias)[: 1 + self.use_bias]
        return PooledGate(rule, self._cast(variables), mask), pure

    def _in_shape(self, weights, inputs):
        return ops.expand_dims(weights, -1)

    def _weights_shape(self, input_shape):
        return (input_shape[0], *self._grid(input_shape), 1)

    def get_config(self):
        return {
            **super().get_config(),
            "pooling": self.pooling,
            "normalizer": normalizers.serialize(self.normalizer),
        }
