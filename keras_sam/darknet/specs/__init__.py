"""What a checked layer is: one frozen dataclass per section type. No Keras here."""

from keras_sam.darknet.specs.base import (
    Spec,
)
from keras_sam.darknet.specs.heads import (
    Detection,
    GaussianYolo,
    Head,
    Region,
    Yolo,
)
from keras_sam.darknet.specs.layers import (
    Activation,
    BatchNorm,
    ChannelMaxPooling,
    Convolution,
    Crop,
    Dropout,
    GlobalAveragePooling,
    Pooling,
    Reorg,
    Route,
    Sam,
    ScaleChannels,
    Shortcut,
    SpaceToDepth,
    TrainingOnly,
    UnequalShortcut,
    Upsample,
)
from keras_sam.darknet.specs.vectors import (
    Connected,
    Local,
    Softmax,
)

__all__ = [
    "Activation",
    "BatchNorm",
    "ChannelMaxPooling",
    "Connected",
    "Convolution",
    "Crop",
    "Detection",
    "Dropout",
    "GaussianYolo",
    "GlobalAveragePooling",
    "Head",
    "Local",
    "Pooling",
    "Region",
    "Reorg",
    "Route",
    "Sam",
    "ScaleChannels",
    "Shortcut",
    "Softmax",
    "SpaceToDepth",
    "Spec",
    "TrainingOnly",
    "UnequalShortcut",
    "Upsample",
    "Yolo",
]
