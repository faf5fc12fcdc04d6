"""Sections that see a vector, and `[local]`."""

import keras

from keras_sam.darknet import layers
from keras_sam.darknet.translators.common import (
    CHANNELS_LAST,
    activate,
    flatten,
    normalization,
)


def connected(spec, inputs, shared):
    tensor = flatten(spec, *inputs)
    tensor = keras.layers.Dense(
        spec.shape[2], use_bias=not spec.batch_normalize, name=f"{spec.name}_dense"
    )(tensor)
    if spec.batch_normalize:
        tensor = normalization(spec)(tensor)
    return activate(spec, tensor, spec.activation)


def local(spec, inputs, shared):
    (tensor,) = inputs
    if any(map(any, spec.padding)):
        tensor = keras.layers.ZeroPadding2D(
            spec.padding, name=f"{spec.name}_pad", **CHANNELS_LAST
        )(tensor)
    tensor = layers.LocalConv2D(
        spec.shape[2], spec.size, spec.stride, name=f"{spec.name}_local"
    )(tensor)
    return activate(spec, tensor, spec.activation)


def softmax(spec, inputs, shared):
    return layers.GroupedSoftmax(spec.groups, spec.temperature, name=spec.name)(*inputs)
