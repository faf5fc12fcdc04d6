"""The plain way to write spatial gates, step by step."""

import keras
from keras import ops


class NaiveSpatial(keras.layers.Layer):
    """Eq. 3 of CBAM, step by step."""

    def build(self, shape):
        self.convolution = keras.layers.Conv2D(
            1, 7, padding="same", activation="sigmoid", use_bias=False
        )
        self.convolution.build((*shape[:-1], 2))

    def call(self, inputs):
        largest = ops.max(inputs, axis=-1, keepdims=True)
        mean = ops.mean(inputs, axis=-1, keepdims=True)
        return inputs * self.convolution(ops.concatenate([largest, mean], axis=-1))


class NaiveCBAM(keras.layers.Layer):
    """Eq. 2 and 3 of CBAM, step by step."""

    def build(self, shape):
        self.hidden = keras.layers.Dense(shape[-1] // 16, activation="relu")
        self.outer = keras.layers.Dense(shape[-1])
        self.spatial = NaiveSpatial()
        self.hidden.build((*shape[:-3], shape[-1]))
        self.outer.build((*shape[:-3], shape[-1] // 16))
        self.spatial.build(shape)

    def call(self, inputs):
        largest = self.outer(self.hidden(ops.max(inputs, axis=(1, 2), keepdims=True)))
        mean = self.outer(self.hidden(ops.mean(inputs, axis=(1, 2), keepdims=True)))
        return self.spatial(inputs * ops.sigmoid(largest + mean))
