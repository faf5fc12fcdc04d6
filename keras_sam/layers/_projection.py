"""The dense sublayers of attention layers."""

import keras
from keras import ops


class Projection(keras.layers.EinsumDense):
    """`keras.layers.EinsumDense`, whose bias goes to the axes that it names.

    `keras.ops.add` (Keras 3.10 to 3.15, on TensorFlow) takes what has one axis of more than
    one entry for a bias of channels: with as many positions as heads of width 1, it adds
    the bias `(H, 1)` to the positions of `(B, T, H, 1)`.
    """

    def call(self, inputs, training=None):
        outputs = ops.einsum(self.equation, inputs, self.kernel)
        if self.bias is not None:
            outputs = outputs + ops.convert_to_tensor(self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def quantize(self, mode=None, type_check=True, **kwargs):
        # Keras quantizes subclasses only where it is told that they are none.
        return super().quantize(mode, type_check=False, **kwargs)
