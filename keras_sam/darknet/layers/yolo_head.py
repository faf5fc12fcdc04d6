"""YoloHead: the activations of a `[yolo]` layer."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="keras_sam")
class YoloHead(keras.layers.Layer):
    """Turns raw predictions into positions, sizes and scores.

    Channels are anchor after anchor `x, y, w, h, objectness, classes...`. All but `w`
    and `h` go through a sigmoid (none does with `new_coords`), then `x` and `y` become
    `scale_x_y * x - (scale_x_y - 1) / 2`.

    Args:
        classes: The number of classes.
        anchors: Pairs (width, height) in pixels.
        scale_x_y: How far a centre reaches beyond its cell.
        new_coords: Whether the layer before has applied its logistic already.
    """

    def __init__(self, classes, anchors, scale_x_y=1.0, new_coords=False, **kwargs):
        super().__init__(**kwargs)
        self.classes = classes
        self.anchors = tuple(tuple(anchor) for anchor in anchors)
        self.scale_x_y = scale_x_y
        self.new_coords = new_coords

    def call(self, inputs):
        entries = np.tile(np.arange(self.classes + 5), len(self.anchors))
        outputs = inputs
        if not self.new_coords:
            is_size = (entries == 2) | (entries == 3)
            outputs = ops.where(is_size, inputs, ops.sigmoid(inputs))
        scale = np.where(entries < 2, self.scale_x_y, 1.0)
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
            "anchors": self.anchors,
            "scale_x_y": self.scale_x_y,
            "new_coords": self.new_coords,
        }
