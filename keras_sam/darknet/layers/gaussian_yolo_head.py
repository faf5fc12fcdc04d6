"""GaussianYoloHead: the activations of a `[Gaussian_yolo]` layer."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="keras_sam")
class GaussianYoloHead(keras.layers.Layer):
    """Turns raw predictions into positions, sizes, their sigmas, and scores.

    Channels are anchor after anchor `x, sigma, y, sigma, w, sigma, h, sigma,
    objectness, classes...`. All but `w` and `h` go through a sigmoid, then `x` and `y`
    become `scale_x_y * x - (scale_x_y - 1) / 2`.

    Args:
        classes: The number of classes.
        num_anchors: The number of anchors.
        scale_x_y: How far a centre reaches beyond its cell.
    """

    def __init__(self, classes, num_anchors, scale_x_y=1.0, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.num_anchors = classes, num_anchors
        self.scale_x_y = scale_x_y

    def call(self, inputs):
        entries = np.tile(np.arange(self.classes + 9), self.num_anchors)
        is_size = (entries == 4) | (entries == 6)
        scale = np.where((entries == 0) | (entries == 2), self.scale_x_y, 1.0)
        outputs = ops.where(is_size, inputs, ops.sigmoid(inputs))
        scale, shift = (
            ops.convert_to_tensor(constant, dtype=inputs.dtype)
            for constant in (scale, -0.5 * (scale - 1))
        )
        return outputs * scale + shift

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {
            "classes": self.classes,
            "num_anchors": self.num_anchors,
            "scale_x_y": self.scale_x_y,
        }
