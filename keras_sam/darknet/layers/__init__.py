"""The operations of Darknet that Keras has no layer for. All are channels last."""

from keras_sam.darknet.layers.channels import (
    ChannelMaxPooling,
    FitChannels,
    SliceChannels,
    SpaceToDepth,
)
from keras_sam.darknet.layers.detection_head import (
    DetectionHead,
)
from keras_sam.darknet.layers.gaussian_yolo_head import (
    GaussianYoloHead,
)
from keras_sam.darknet.layers.keep_unused import (
    KeepUnused,
)
from keras_sam.darknet.layers.pooling import (
    LocalAveragePooling2D,
    MaxPoolingPadding2D,
)
from keras_sam.darknet.layers.positions import (
    CenterCrop,
    LocalConv2D,
    UnequalSum,
)
from keras_sam.darknet.layers.region_head import (
    RegionHead,
)
from keras_sam.darknet.layers.reorder import (
    FlattenChannelsFirst,
    GroupedSoftmax,
    Reorg,
)
from keras_sam.darknet.layers.shared import (
    SharedBatchNormalization,
    SharedConv2D,
)
from keras_sam.darknet.layers.weighted_sum import (
    WeightedSum,
)
from keras_sam.darknet.layers.yolo_head import (
    YoloHead,
)

__all__ = [
    "CenterCrop",
    "ChannelMaxPooling",
    "DetectionHead",
    "FitChannels",
    "FlattenChannelsFirst",
    "GaussianYoloHead",
    "GroupedSoftmax",
    "KeepUnused",
    "LocalAveragePooling2D",
    "LocalConv2D",
    "MaxPoolingPadding2D",
    "RegionHead",
    "Reorg",
    "SharedBatchNormalization",
    "SharedConv2D",
    "SliceChannels",
    "SpaceToDepth",
    "UnequalSum",
    "WeightedSum",
    "YoloHead",
]
