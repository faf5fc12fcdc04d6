"""Convolutions and batch normalization."""

import keras

from keras_sam.darknet import layers
from keras_sam.darknet.translators.common import CHANNELS_LAST, activate, normalization


def convolution(spec, inputs, shared):
    (tensor,) = inputs
    if any(map(any, spec.padding)):
        tensor = keras.layers.ZeroPadding2D(
            spec.padding, name=f"{spec.name}_pad", **CHANNELS_LAST
        )(tensor)
    if spec in shared:
        tensor = _shared_convolution(spec, tensor, shared)
    elif spec.dilation > 1 and max(spec.strides) > 1:
        tensor = _call_conv(spec, _make_conv(spec, layers.SharedConv2D), tensor)
    else:
        conv = _make_conv(
            spec,
            keras.layers.Conv2D,
            strides=spec.strides,
            dilation_rate=spec.dilation,
        )
        tensor = conv(tensor)
    if spec.batch_normalize and spec not in shared:
        tensor = normalization(spec)(tensor)
    return activate(spec, tensor, spec.activation)


def _make_conv(spec, make, **geometry):
    return make(
        spec.shape[2],
        spec.size,
        padding="valid",
        groups=spec.groups,
        use_bias=not spec.batch_normalize,
        name=f"{spec.name}_conv",
        **geometry,
        **CHANNELS_LAST,
    )


def _call_conv(spec, conv, tensor):
    return conv(tensor, call_strides=spec.strides, call_dilation=spec.dilation)


def _shared_convolution(spec, tensor, shared):
    conv = shared.get(spec, "conv", lambda: _make_conv(spec, layers.SharedConv2D))
    tensor = _call_conv(spec, conv, tensor)
    if conv.use_bias:
        return tensor
    norm = shared.get(
        spec, "norm", lambda: normalization(spec, layers.SharedBatchNormalization)
    )
    return norm(tensor, normalize=spec.batch_normalize)


def batch_norm(spec, inputs, shared):
    return normalization(spec, suffix="")(*inputs)
