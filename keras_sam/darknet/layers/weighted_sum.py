"""WeightedSum: the `[shortcut]` that learns how much of each input to take."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_sam")
class WeightedSum(keras.layers.Layer):
    """Adds its inputs with learned weights, normalized over the inputs.

    ```
    relu:    w / (sum(w) + 1e-4)            w = relu(weights)
    softmax: w / (sum(w) + 1e-4)            w = exp(weights - max(weights))
    ```

    Args:
        normalization: `"relu"` or `"softmax"`.
        per_channel: Whether each channel has weights of its own.
    """

    def __init__(self, normalization, per_channel=False, **kwargs):
        super().__init__(**kwargs)
        self.normalization = normalization
        self.per_channel = per_channel

    def build(self, input_shape):
        per_channel = (input_shape[0][-1],) if self.per_channel else ()
        self.mix = self.add_weight(
            name="mix", shape=(len(input_shape), *per_channel), initializer="ones"
        )

    def call(self, inputs):
        weights = ops.cast(self.mix, self.compute_dtype)
        if self.normalization == "relu":
            weights = ops.relu(weights)
        else:
            weights = ops.exp(weights - ops.max(weights, axis=0, keepdims=True))
        weights = weights / (ops.sum(weights, axis=0, keepdims=True) + 1e-4)
        return sum(weights[i] * tensor for i, tensor in enumerate(inputs))

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return super().get_config() | {
            "normalization": self.normalization,
            "per_channel": self.per_channel,
        }
