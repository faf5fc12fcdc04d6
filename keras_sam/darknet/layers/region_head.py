"""RegionHead: the activations of a `[region]` layer."""

import keras
from keras import ops

from keras_sam.darknet.layers.softmax import softmax


@keras.saving.register_keras_serializable(package="keras_sam")
class RegionHead(keras.layers.Layer):
    """YOLOv2: a sigmoid for the objectness, and a softmax for the classes.

    Channels are anchor after anchor `x, y, w, h, objectness, classes...`; `x` and `y`
    stay raw.

    Args:
        classes: The number of classes.
        num_anchors: The number of anchors.
        softmax: Whether classes go through a softmax; without, they stay raw.
    """

    def __init__(self, classes, num_anchors, softmax=True, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.num_anchors = classes, num_anchors
        self.softmax = softmax

    def call(self, inputs):
        height, width = ops.shape(inputs)[1:3]
        entries = self.classes + 5
        x = ops.reshape(inputs, (-1, height, width, self.num_anchors, entries))
        classes = x[..., 5:]
        if self.softmax and self.classes:
            classes = softmax(classes)
        x = ops.concatenate([x[..., :4], ops.sigmoid(x[..., 4:5]), classes], axis=-1)
        return ops.reshape(x, (-1, height, width, self.num_anchors * entries))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {
            "classes": self.classes,
            "num_anchors": self.num_anchors,
            "softmax": self.softmax,
        }
