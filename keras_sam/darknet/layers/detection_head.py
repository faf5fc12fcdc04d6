"""DetectionHead: the activations of a `[detection]` layer."""

import keras
from keras import ops

from keras_sam.darknet.layers.softmax import softmax


@keras.saving.register_keras_serializable(package="keras_sam")
class DetectionHead(keras.layers.Layer):
    """YOLOv1: a softmax over the classes of each cell, which come first.

    Args:
        cells: The number of cells.
        classes: The number of classes.
        softmax: Whether there is a softmax at all.
    """

    def __init__(self, cells, classes, softmax=False, **kwargs):
        super().__init__(**kwargs)
        self.cells, self.classes, self.softmax = cells, classes, softmax

    def call(self, inputs):
        size = self.cells * self.classes
        if not (self.softmax and size):
            return inputs
        scores = ops.reshape(inputs[..., :size], (-1, 1, self.cells, self.classes))
        scores = ops.reshape(softmax(scores), (-1, 1, 1, size))
        return ops.concatenate([scores, inputs[..., size:]], axis=-1)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {
            "cells": self.cells,
            "classes": self.classes,
            "softmax": self.softmax,
        }
