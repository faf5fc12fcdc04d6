"""From a plan to a Keras model: a translation, layer by layer.

The Keras layer that ends a Darknet layer carries its name, such as `012_sam`, and its
output is what Darknet's layer outputs. The parts before it have a suffix:
`007_convolutional_pad`, `007_convolutional_conv`, `007_convolutional_norm`.
"""

import os
import re

import keras

from keras_sam.darknet import layers, specs
from keras_sam.darknet.activations import ACTIVATIONS
from keras_sam.darknet.model import DarknetModel
from keras_sam.darknet.plan import log_notices, plan_network
from keras_sam.darknet.weights import Header, read_planned_weights, suspect_weights
from keras_sam.layers.spatial_gate import SpatialGate

EPSILON = 1e-5  # of Darknet's batch normalization
_CHANNELS_LAST = {"data_format": "channels_last"}


def build_model(cfg, weights=None, input_shape=None):
    """Builds a Keras model that computes what Darknet computes.

    Args:
        cfg: A path to a `.cfg` file, its text, or what `parse_cfg` returned.
        weights: A path to a `.weights` file, its bytes, or what `read_weights`
            returned. None leaves the weights at their random beginning.
        input_shape: (height, width, channels) instead of those of `[net]`. Height and
            width may be None, for pictures of any size.

    Returns:
        A `DarknetModel`, a functional Keras model. It takes RGB pictures
        `(B, H, W, C)` divided by 255; its outputs are the `[yolo]` heads (a list, when
        there are several) or else the last layer. Keras layers carry Darknet's index:
        `012_sam` is layer 12.

    Raises:
        DarknetError: Before anything is allocated, if the configuration or the weights
            cannot become a model that computes the same.

    Example:

    >>> from keras_sam import darknet
    >>> model = darknet.build_model('''
    ... [net]
    ... height=32
    ... width=32
    ... channels=3
    ... [convolutional]
    ... filters=8
    ... size=3
    ... pad=1
    ... activation=mish
    ... [convolutional]
    ... filters=8
    ... activation=logistic
    ... [sam]
    ... from=-2
    ... ''')
    >>> model.layers[-1].name, model.output.shape
    ('002_sam', (None, 32, 32, 8))
    """
    return build_planned_model(plan_network(cfg, input_shape), weights)


def load_model(cfg_path, weights_path, input_shape=None):
    """Builds the model of a `.cfg` file with the weights of a `.weights` file.

    The same as `build_model(cfg_path, weights_path, input_shape)`.
    """
    return build_model(cfg_path, weights_path, input_shape)


def build_planned_model(plan, weights=None, progress=None):
    """Builds the model of a checked plan; calls `progress` after each layer."""
    log_notices(plan)
    if weights is not None:
        weights = read_planned_weights(weights, plan)
        log_notices(plan, suspect_weights(weights, plan))
    image = keras.Input(plan.input_shape, name="image")
    outputs = {-1: image}
    shared = _SharedLayers(plan)
    for spec in plan.layers:
        inputs = [outputs[source] for source in spec.sources]
        outputs[spec.index] = _TRANSLATORS[type(spec)](spec, inputs, shared)
        if progress is not None:
            progress(spec)
    heads = [outputs[spec.index] for spec in plan.outputs]
    heads = heads[0] if len(heads) == 1 else heads
    heads = _keep_unused(plan, heads, outputs)
    model = DarknetModel(image, heads, name=_model_name(plan))
    model.describe(plan, Header() if weights is None else weights.header)
    _freeze_unused(plan, model)
    if weights is not None:
        model.assign_darknet_weights(weights)
    return model


def _keep_unused(plan, heads, outputs):
    """Ties the layers that lead nowhere to the outputs."""
    unused = plan.unused
    if not unused:
        return heads
    read = {source for spec in unused for source in spec.sources}
    ends = [outputs[spec.index] for spec in unused if spec.index not in read]
    return layers.KeepUnused(name="keep_unused")(heads, ends)


def _freeze_unused(plan, model):
    """Freezes weights that no output depends on: they have no gradient."""
    unused = {spec.index for spec in plan.unused}
    for spec in plan.layers:
        if isinstance(spec, specs.Convolution) and spec.index not in unused:
            unused.discard(spec.owner)
    prefixes = tuple(f"{index:03d}_" for index in unused)
    for layer in model.layers:
        if layer.name.startswith(prefixes):
            layer.trainable = False


class _SharedLayers:
    """The Keras layers that `share_index` makes several Darknet layers use."""

    def __init__(self, plan):
        self._owners = {
            spec.owner
            for spec in plan.layers
            if isinstance(spec, specs.Convolution) and spec.owner != spec.index
        }
        self._layers = {}

    def __contains__(self, spec):
        return spec.owner in self._owners

    def get(self, spec, part, make):
        """Returns the layer's part (made now, if this is the owner of the weights)."""
        key = spec.owner, part
        if key not in self._layers:
            self._layers[key] = make()
        return self._layers[key]


def _model_name(plan):
    stem = os.path.splitext(os.path.basename(plan.sections.source))[0]
    name = re.sub("[^A-Za-z0-9]+", "_", stem).strip("_")
    return f"darknet_{name}" if name and name != "cfg" else "darknet"


def _activate(spec, tensor, activation):
    return keras.layers.Activation(ACTIVATIONS[activation], name=spec.name)(tensor)


def _normalization(spec, make=keras.layers.BatchNormalization, suffix="_norm"):
    # Darknet keeps nine tenths of the old statistics at each step of training.
    return make(momentum=0.9, epsilon=EPSILON, name=spec.name + suffix)


def _convolution(spec, inputs, shared):
    (tensor,) = inputs
    if any(map(any, spec.padding)):
        tensor = keras.layers.ZeroPadding2D(
            spec.padding, name=f"{spec.name}_pad", **_CHANNELS_LAST
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
        tensor = _normalization(spec)(tensor)
    return _activate(spec, tensor, spec.activation)


def _make_conv(spec, make, **geometry):
    return make(
        spec.shape[2],
        spec.size,
        padding="valid",
        groups=spec.groups,
        use_bias=not spec.batch_normalize,
        name=f"{spec.name}_conv",
        **geometry,
        **_CHANNELS_LAST,
    )


def _call_conv(spec, conv, tensor):
    return conv(tensor, call_strides=spec.strides, call_dilation=spec.dilation)


def _shared_convolution(spec, tensor, shared):
    conv = shared.get(spec, "conv", lambda: _make_conv(spec, layers.SharedConv2D))
    tensor = _call_conv(spec, conv, tensor)
    if conv.use_bias:
        return tensor
    norm = shared.get(
        spec, "norm", lambda: _normalization(spec, layers.SharedBatchNormalization)
    )
    return norm(tensor, normalize=spec.batch_normalize)


def _batch_norm(spec, inputs, shared):
    return _normalization(spec, suffix="")(*inputs)


def _activation(spec, inputs, shared):
    return _activate(spec, *inputs, spec.activation)


def _dropout(spec, inputs, shared):
    return keras.layers.Dropout(spec.probability, name=spec.name)(*inputs)


def _sam(spec, inputs, shared):
    gate, features = inputs
    gate_layer = SpatialGate(ACTIVATIONS[spec.activation], name=spec.name)
    return gate_layer(features, gate)


def _scale_channels(spec, inputs, shared):
    gate, features = inputs
    if spec.per_pixel:
        gate_layer = SpatialGate(
            ACTIVATIONS[spec.activation], broadcast=True, name=spec.name
        )
        return gate_layer(features, gate)
    product = keras.layers.Multiply(name=f"{spec.name}_multiply")([gate, features])
    return _activate(spec, product, spec.activation)


def _shortcut(spec, inputs, shared):
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
    return _activate(spec, total, spec.activation)


def _route(spec, inputs, shared):
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


def _pooling(spec, inputs, shared):
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
        **_CHANNELS_LAST,
    )(tensor)


def _channel_max_pooling(spec, inputs, shared):
    return layers.ChannelMaxPooling(spec.shape[2], name=spec.name)(*inputs)


def _global_average_pooling(spec, inputs, shared):
    return keras.layers.GlobalAveragePooling2D(
        keepdims=True, name=spec.name, **_CHANNELS_LAST
    )(*inputs)


def _upsample(spec, inputs, shared):
    stride, scale = abs(spec.stride), spec.scale
    resample = keras.layers.UpSampling2D
    if spec.stride < 0:
        resample, scale = keras.layers.AveragePooling2D, scale * stride**2
    name = spec.name if scale == 1 else f"{spec.name}_resample"
    tensor = resample(stride, name=name, **_CHANNELS_LAST)(*inputs)
    if scale == 1:
        return tensor
    return keras.layers.Rescaling(scale, name=spec.name)(tensor)


def _space_to_depth(spec, inputs, shared):
    return layers.SpaceToDepth(spec.stride, name=spec.name)(*inputs)


def _yolo(spec, inputs, shared):
    return layers.YoloHead(
        spec.classes, spec.anchors, spec.scale_x_y, spec.new_coords, name=spec.name
    )(*inputs)


_TRANSLATORS = {
    specs.Activation: _activation,
    specs.BatchNorm: _batch_norm,
    specs.ChannelMaxPooling: _channel_max_pooling,
    specs.Convolution: _convolution,
    specs.Dropout: _dropout,
    specs.GlobalAveragePooling: _global_average_pooling,
    specs.Pooling: _pooling,
    specs.Route: _route,
    specs.Sam: _sam,
    specs.ScaleChannels: _scale_channels,
    specs.Shortcut: _shortcut,
    specs.SpaceToDepth: _space_to_depth,
    specs.Upsample: _upsample,
    specs.Yolo: _yolo,
}
