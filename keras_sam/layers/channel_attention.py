"""Channel attention as in CBAM and in Squeeze-and-Excitation: which channels matter?"""

import dataclasses
from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_sam import _initializers, normalizers
from keras_sam import _validation as check
from keras_sam.backend.precision import matmul
from keras_sam.gates.pooled import PooledGate, Rule
from keras_sam.layers._pooled_gate import Gate, pooling_names
from keras_sam.normalizers.masking import attention_weights
from keras_sam.recording import AttentionDetails


@keras.saving.register_keras_serializable(package="keras_sam")
class ChannelAttention(Gate):
    """Weighs the channels of a feature map by features that are pooled over positions.

    ```
    weights = normalizer(mlp(max over positions) + mlp(mean over positions))
    mlp(x)  = activation(x W_0 + b_0) W_1 + b_1
    output  = inputs * weights
    ```

    `pooling="mean"` is Squeeze-and-Excitation.

    Args:
        reduction: How many times fewer units than channels the hidden layer has
            (rounded down). At most the number of channels.
        hidden_units: The units of the hidden layer, instead of `reduction`; None is by
            `reduction`.
        pooling: `"max"`, `"mean"` or a tuple of them. All go through the same `mlp`.
        normalizer: A name, `"sigmoid"`, `"hard_sigmoid"`, `"softmax"`, `"sparsemax"` or
            `"entmax"`, or an instance from `keras_sam.normalizers` or of your own
            registered class. It is called on the channels; all but sigmoids make the
            weights sum to one.
        activation: Of the hidden layer.
        use_bias: Whether `b_0` and `b_1` exist.
        data_format: `"channels_last"`, `"channels_first"` or None for Keras's default.
        kernel_initializer: For `W_0` and `W_1`.
        kernel_regularizer: For `W_0` and `W_1`.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor `(B, L, C)`, `(B, height, width, C)` or `(B, depth, height, width,
            C)`; with channels first `(B, C, ...)`. Sizes may be unknown when the layer
            is built, but for `C`.
        mask: Boolean, the shape of `inputs` without channels, False for padding; Keras
            hands over the mask of an `Embedding` or `Masking` layer by itself.
        return_attention_scores: Whether to return the weights as well.
        training: Has no effect.

    Masking:
        Padding does not enter the pooling. It is multiplied by the weights of its example,
        and numbers in it that are not finite become zero. An example that is all padding
        is pooled to zeros. The mask is passed on.

    Output shape:
        The shape of `inputs`; with `return_attention_scores=True` also the weights,
        `(B, 1, C)`, `(B, 1, 1, C)` or `(B, 1, 1, 1, C)`.

    Raises:
        ValueError: For an argument out of range, when the layer is made; for inputs or
            masks whose shapes do not fit, when it is built or called.

    Example:

    >>> import keras, keras_sam
    >>> squeeze_and_excite = keras_sam.layers.ChannelAttention(pooling="mean")
    >>> squeeze_and_excite(keras.ops.ones((2, 7, 7, 64))).shape
    TensorShape([2, 7, 7, 64])

    References:
        - Woo et al., 2018, "CBAM: Convolutional Block Attention Module"
          (https://arxiv.org/abs/1807.06521), eq. 2.
        - Hu et al., 2018, "Squeeze-and-Excitation Networks"
          (https://arxiv.org/abs/1709.01507), eq. 2 to 4.
    """

    kind = "channel"

    def __init__(
        self,
        reduction: int = 16,
        pooling: str | Sequence[str] = ("max", "mean"),
        normalizer: str | Callable = "sigmoid",
        activation: str | Callable | None = "relu",
        use_bias: bool = True,
        data_format: str | None = None,
        kernel_initializer: str | Callable = "glorot_uniform",
        kernel_regularizer: str | Callable | None = None,
        hidden_units: int | None = None,
        **kwargs,
    ):
        super().__init__(data_format=data_format, **kwargs)
        self.reduction = check.positive_integer("reduction", reduction)
        self.hidden_units = check.positive_integer(
            "hidden_units", hidden_units, optional=True
        )
        self.pooling = pooling_names(pooling)
        self.normalizer = normalizers.get(normalizer)
        self.activation = keras.activations.get(activation)
        self.use_bias = check.boolean("use_bias", use_bias)
        self.kernel_initializer = check.initializer(
            "kernel_initializer", kernel_initializer
        )
        self.kernel_regularizer = check.regularizer(
            "kernel_regularizer", kernel_regularizer
        )

    def build(self, input_shape):
        channels, _ = self._check_inputs(input_shape)
        if self.hidden_units is None and self.reduction > channels:
            raise ValueError(
                "`reduction` must be at most the number of channels, in "
                f"{self.__class__.__name__} {self.name!r}. "
                f"Received: reduction={self.reduction}, channels={channels}"
            )
        hidden = self.hidden_units or channels // self.reduction
        self.hidden_dense = self._dense(0, "hidden", hidden, channels)
        self.output_dense = self._dense(1, "output", channels, hidden)

    def _details(self, shape):
        return AttentionDetails(self.kind, are_features=True)

    def _dense(self, nth, name, units, width):
        check.weight_shape("`hidden_units`", (width, units))
        dense = keras.layers.Dense(
            units,
            activation=self.activation if nth == 0 else None,
            use_bias=self.use_bias,
            kernel_initializer=_initializers.fresh(self.kernel_initializer, nth),
            kernel_regularizer=self.kernel_regularizer,
            dtype=self.sublayer_dtype(name),
            name=name,
        )
        dense.build((None, len(self.pooling), width))
        activation = dense.activation
        if isinstance(activation, keras.layers.Layer) and not activation.built:
            activation.build((None, len(self.pooling), units))
        return dense

    def _without_padding(self, inputs, mask):
        # Padding is weighed, too; only what is no number may not be multiplied.
        if mask is None:
            return inputs
        keep = ops.logical_or(
            ops.expand_dims(mask, self._channel_axis), ops.isfinite(inputs)
        )
        return ops.where(keep, inputs, ops.zeros_like(inputs))

    def _pooling_gate(self, inputs, mask, training):
        spatial = tuple(range(1, len(inputs.shape)))
        spatial = spatial[:-1] if self._channel_axis == -1 else spatial[1:]
        denses = self.hidden_dense, self.output_dense
        quantized = any(dense.quantization_mode is not None for dense in denses)
        pure = not quantized and not isinstance(self.activation, keras.layers.Layer)
        weigh, parameters = self._weigh_by_layers, ()
        if pure:
            weigh = ChannelWeights(self.activation, self.normalizer)
            count = 1 + self.use_bias
            variables = (v for dense in denses for v in (dense.kernel, dense.bias)[:count])
            parameters = self._cast(variables)
        pool_mask = None if mask is None else ops.expand_dims(mask, self._channel_axis)
        rule = Rule(weigh, self.pooling, spatial)
        return PooledGate(rule, parameters, pool_mask=pool_mask), pure

    def _in_shape(self, weights, inputs):
        batch, channels = ops.shape(weights)
        return ops.reshape(weights, (batch, *[1] * (len(inputs.shape) - 2), channels))

    def _weigh_by_layers(self, maps, parameters, mask):
        scores = self.output_dense(self.hidden_dense(ops.swapaxes(maps, 1, 2)))
        return attention_weights(ops.sum(scores, axis=1), self.normalizer)

    def _weights_shape(self, input_shape):
        ones = [1] * len(self._grid(input_shape))
        return (input_shape[0], *ones, input_shape[self._channel_axis])

    def get_config(self):
        return {
            **super().get_config(),
            "reduction": self.reduction,
            "hidden_units": self.hidden_units,
            "pooling": self.pooling,
            "normalizer": normalizers.serialize(self.normalizer),
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }


@dataclasses.dataclass(frozen=True)
class ChannelWeights:
    """Weighs channels by pooled maps of them, `(B, C, n)`: `weigh` of `gates.pooled`."""

    activation: Callable
    normalizer: Callable

    def __call__(self, maps, parameters, mask):
        middle = len(parameters) // 2
        pooled = ops.swapaxes(maps, 1, 2)
        hidden = self.activation(_dense(pooled, *parameters[:middle]))
        scores = _dense(hidden, *parameters[middle:])  # (B, n, C)
        return attention_weights(ops.sum(scores, axis=1), self.normalizer)


def _dense(inputs, kernel, bias=None):
    outputs = matmul(inputs, kernel)
    return outputs if bias is None else outputs + bias
