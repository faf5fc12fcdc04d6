"""Sections that work element by element, and those that read several layers."""

import keras

from keras_sam.darknet import layers
from keras_sam.darknet.activations import ACTIVATIONS
from keras_sam.darknet.translators.common import activate
from keras_sam.layers.spatial_gate import SpatialGate


def activation(spec, inputs, shared):
    return activate(spec, *inputs, spec.activation)


def dropout(spec, inputs, shared):
    return keras.layers.Dropout(spec.probability, name=spec.name)(*inputs)


def sam(spec, inputs, shared):
    gate, features = inputs
    gate_layer = SpatialGate(ACTIVATIONS[spec.activation], name=spec.name)
    return gate_layer(features, gate)


def scale_channels(spec, inputs, shared):
    gate, features = inputs
    if spec.per_pixel:
        gate_layer = SpatialGate(
            ACTIVATIONS[spec.activation], broadcast=True, name=spec.name
        )
        return gate_layer(features, gate)
    product = keras.layers.Multiply(name=f"{spec.name}_multiply")([gate, features])
    return activate(spec, product, spec.activation)


def shortcut(spec, inputs, shared):
    channels = spec.shape[2]
    terms = [
        tensor
        if tensor.shape[-1] == channels
        else layers.FitChannels(channels, name=f"{spec.name}_fit{position}")(tensor)
        for position, tensor in enumerate(inputs)
    ]
    if spec.weighting is None:
        total = keras.layers.Add(name=f"{spec.name}_add")(terms)
    else:
        total = layers.WeightedSum(
            spec.normalization,
            per_channel=spec.weighting == "per_channel",
            name=f"{spec.name}_sum",
        )(terms)
    return activate(spec, total, spec.activation)


def route(spec, inputs, shared):
    parts = inputs
    if spec.groups > 1:
        parts = []
        for position, tensor in enumerate(inputs):
            size = tensor.shape[-1] // spec.groups
            start = size * spec.group_id
            slicing = layers.SliceChannels(
                start, start + size, name=f"{spec.name}_part{position}"
            )
            parts.append(slicing(tensor))
    if len(parts) == 1:
        return keras.layers.Identity(name=spec.name)(parts[0])
    return keras.layers.Concatenate(axis=-1, name=spec.name)(parts)


def unequal_shortcut(spec, inputs, shared):
    total = layers.UnequalSum(
        spec.stride, spec.sample, spec.alpha, spec.beta, name=f"{spec.name}_sum"
    )(inputs)
    return activate(spec, total, spec.activation)


def training_only(spec, inputs, shared):
    return keras.layers.Identity(name=spec.name)(*inputs)
