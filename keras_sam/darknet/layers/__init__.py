"""The operations of Darknet that Keras has no layer for. All are channels last."""

from keras_sam.darknet.layers.channels import (
    ChannelMaxPooling,
    FitChannels,
    SliceChannels,
    SpaceToDepth,
)
from keras_sam.darknet.layers.keep_unused import KeepUnused
from keras_sam.darknet.layers.pooling import LocalAveragePooling2D, MaxPoolingPadding2D
from keras_sam.darknet.layers.shared import SharedBatchNormalization, SharedConv2D
from keras_sam.darknet.layers.weighted_sum import WeightedSum
from keras_sam.darknet.layers.yolo_head import YoloHead

__all__ = [
    "ChannelMaxPooling",
    "FitChannels",
    "KeepUnused",
    "LocalAveragePooling2D",
    "MaxPoolingPadding2D",
    "SharedBatchNormalization",
    "SharedConv2D",
    "SliceChannels",
    "SpaceToDepth",
    "WeightedSum",
    "YoloHead",
]
