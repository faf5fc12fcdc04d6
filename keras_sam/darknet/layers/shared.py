"""Weights that several Darknet layers use (`share_index`), each in its own way.

One Keras layer owns the weights and is called once for each Darknet layer, so that
sharing survives saving and every call adds to the same gradient.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_sam")
class SharedConv2D(keras.layers.Conv2D):
    """A VALID convolution whose stride and dilation belong to the call.

    Both may be larger than one at a time, which `Conv2D` refuses.

    Call arguments:
        inputs: Tensor `(B, H, W, C)`.
        call_strides: `(vertical, horizontal)`.
        call_dilation: The dilation in both directions.
    """

    def call(self, inputs, call_strides=(1, 1), call_dilation=1):
        vertical, horizontal = call_strides
        dilated = call_dilation > 1
        outputs = ops.conv(
            inputs,
            ops.cast(self.kernel, inputs.dtype),
            strides=(1, 1) if dilated else (vertical, horizontal),
            padding="valid",
            dilation_rate=call_dilation,
            data_format="channels_last",
        )
        if self.use_bias:
            outputs = outputs + ops.cast(self.bias, outputs.dtype)
        return outputs[:, ::vertical, ::horizontal] if dilated else outputs

    def compute_output_spec(self, inputs, call_strides=(1, 1), call_dilation=1):
        window = call_dilation * (self.kernel_size[0] - 1) + 1
        height, width = (
            None if size is None else (size - window) // stride + 1
            for size, stride in zip(inputs.shape[1:3], call_strides, strict=True)
        )
        shape = (inputs.shape[0], height, width, self.filters)
        return keras.KerasTensor(shape, self.compute_dtype)


@keras.saving.register_keras_serializable(package="keras_sam")
class SharedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization that may be called for its bias alone.

    Darknet keeps one array for the bias of a convolution and the beta of its
    normalization; a layer that shares the weights but does not normalize adds it.

    Call arguments:
        inputs: Tensor `(B, H, W, C)`.
        normalize: Whether to normalize, and not only to add beta.
    """

    def call(self, inputs, training=None, mask=None, normalize=True):
        if normalize:
            return super().call(inputs, training=training, mask=mask)
        return inputs + ops.cast(self.beta, inputs.dtype)
