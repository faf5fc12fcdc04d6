"""Sections that change height and width without weights."""

import keras

from keras_sam.darknet import layers
from keras_sam.darknet.translators.common import CHANNELS_LAST


def pooling(spec, inputs, shared):
    (tensor,) = inputs
    is_maximum = spec.kind == "max"
    pooling = keras.layers.MaxPooling2D if is_maximum else keras.layers.AveragePooling2D
    padded = any(map(any, spec.padding))
    if padded and not spec.same:
        if not is_maximum:
            return layers.LocalAveragePooling2D(
                spec.size, spec.strides, spec.padding, name=spec.name
            )(tensor)
        padding = layers.MaxPoolingPadding2D(spec.padding, name=f"{spec.name}_pad")
        tensor = padding(tensor)
    return pooling(
        spec.size,
        spec.strides,
        padding="same" if padded and spec.same else "valid",
        name=spec.name,
        **CHANNELS_LAST,
    )(tensor)


def channel_max_pooling(spec, inputs, shared):
    return layers.ChannelMaxPooling(spec.shape[2], name=spec.name)(*inputs)


def global_average_pooling(spec, inputs, shared):
    return keras.layers.GlobalAveragePooling2D(
        keepdims=True, name=spec.name, **CHANNELS_LAST
    )(*inputs)


def upsample(spec, inputs, shared):
    stride, scale = abs(spec.stride), spec.scale
    resample = keras.layers.UpSampling2D
    if spec.stride < 0:
        resample, scale = keras.layers.AveragePooling2D, scale * stride**2
    name = spec.name if scale == 1 else f"{spec.name}_resample"
    tensor = resample(stride, name=name, **CHANNELS_LAST)(*inputs)
    if scale == 1:
        return tensor
    return keras.layers.Rescaling(scale, name=spec.name)(tensor)


def space_to_depth(spec, inputs, shared):
    return layers.SpaceToDepth(spec.stride, name=spec.name)(*inputs)


def reorg(spec, inputs, shared):
    return layers.Reorg(spec.stride, spec.reverse, name=spec.name)(*inputs)


def crop(spec, inputs, shared):
    height, width, _ = spec.shape
    return layers.CenterCrop(height, width, spec.rescale, name=spec.name)(*inputs)
