"""The activations of TensorFlow Addons, under the names that saved models have for them.

`rrelu` is not among them: it is random in training, which a Keras 3 activation cannot
know of. `keras_sam.addons.unmapped` says what to do.
"""

import keras
from keras import ops

from keras_sam.normalizers import Sparsemax as SparsemaxNormalizer

register = keras.saving.register_keras_serializable(package="Addons")


@register
def sparsemax(logits, axis=-1):
    """Sparsemax along one axis: `keras_sam.normalizers.Sparsemax`."""
    rows = ops.moveaxis(ops.convert_to_tensor(logits), axis, -1)
    return ops.moveaxis(SparsemaxNormalizer()(rows), -1, axis)


@register
def gelu(x, approximate=True):
    """The Gaussian error linear unit; the default is approximate, as it was."""
    return ops.gelu(x, approximate=approximate)


@register
def hardshrink(x, lower=-0.5, upper=0.5):
    """Zero from `lower` to `upper`, `x` elsewhere."""
    outside = ops.logical_or(ops.less(x, lower), ops.greater(x, upper))
    return ops.where(outside, x, ops.zeros_like(x))


@register
def softshrink(x, lower=-0.5, upper=0.5):
    """Zero from `lower` to `upper`, the distance from there elsewhere."""
    return ops.subtract(x, ops.clip(x, lower, upper))


@register
def tanhshrink(x):
    """`x - tanh(x)`."""
    return ops.subtract(x, ops.tanh(x))


@register
def lisht(x):
    """`x tanh(x)`, the linearly scaled hyperbolic tangent."""
    return ops.multiply(x, ops.tanh(x))


@register
def mish(x):
    """`x tanh(softplus(x))`."""
    return ops.multiply(x, ops.tanh(ops.softplus(x)))


@register
def snake(x, frequency=1):
    """`x + (1 - cos(2 frequency x)) / (2 frequency)`."""
    double = ops.cast(2 * frequency, x.dtype)
    return x + ops.divide(ops.subtract(1, ops.cos(ops.multiply(double, x))), double)


@register
class Sparsemax(keras.layers.Layer):
    """`tfa.layers.Sparsemax`: sparsemax along one axis, as a layer.

    ```
    w = argmin_p |p - x|²,   p_i >= 0,   sum_i p_i = 1
    ```

    Args:
        axis: The axis to normalize.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of any shape.

    Output shape:
        The shape of `inputs`.

    Example:

    >>> import numpy as np, keras_sam.addons
    >>> keras_sam.addons.Sparsemax()(np.array([[0.75, 0.25, -1.0]])).numpy().tolist()
    [[0.75, 0.25, 0.0]]

    Reference:
        Martins and Astudillo, 2016, "From Softmax to Sparsemax"
        (https://arxiv.org/abs/1602.02068), eq. 2.
    """

    def __init__(self, axis=-1, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.axis = axis

    def call(self, inputs):
        return sparsemax(inputs, axis=self.axis)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "axis": self.axis}


@register
class GELU(keras.layers.Layer):
    """`tfa.layers.GELU`: the Gaussian error linear unit, as a layer.

    Args:
        approximate: Whether to compute it with tanh.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.
    """

    def __init__(self, approximate=True, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.approximate = approximate

    def call(self, inputs):
        return gelu(inputs, approximate=self.approximate)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "approximate": self.approximate}
