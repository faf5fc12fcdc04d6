"""One translator per kind of spec: `translator(spec, inputs, shared) -> tensor`."""

from keras_sam.darknet import specs
from keras_sam.darknet.translators import (
    convolution,
    heads,
    merging,
    resampling,
    vectors,
)
from keras_sam.darknet.translators.common import SharedLayers

__all__ = ["TRANSLATORS", "SharedLayers"]

TRANSLATORS = {
    specs.Activation: merging.activation,
    specs.BatchNorm: convolution.batch_norm,
    specs.ChannelMaxPooling: resampling.channel_max_pooling,
    specs.Connected: vectors.connected,
    specs.Convolution: convolution.convolution,
    specs.Crop: resampling.crop,
    specs.Detection: heads.detection,
    specs.Dropout: merging.dropout,
    specs.GaussianYolo: heads.gaussian_yolo,
    specs.GlobalAveragePooling: resampling.global_average_pooling,
    specs.Local: vectors.local,
    specs.Pooling: resampling.pooling,
    specs.Region: heads.region,
    specs.Reorg: resampling.reorg,
    specs.Route: merging.route,
    specs.Sam: merging.sam,
    specs.ScaleChannels: merging.scale_channels,
    specs.Shortcut: merging.shortcut,
    specs.Softmax: vectors.softmax,
    specs.SpaceToDepth: resampling.space_to_depth,
    specs.TrainingOnly: merging.training_only,
    specs.UnequalShortcut: merging.unequal_shortcut,
    specs.Upsample: resampling.upsample,
    specs.Yolo: heads.yolo,
}
